"""A comparison as plain values: what `sfl compare --json` prints, with a sentence on each field.

docs/compare.schema.json is made from this file. Accuracies are fractions, intervals of 95 %.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION = 1  # a higher one where a field goes or changes its meaning, not where one comes

Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Values(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Target(_Values):
    """What it took a model to reach `--target`."""

    accuracy: float = Field(description="The accuracy to be reached.")
    measured_on: Literal["validation", "test"] = Field(description="On which logged accuracy.")
    reached: int = Field(description="How many of the model's runs reached it.")
    epoch: float | None = Field(description="First epoch that did; mean over those runs.")
    seconds: float | None = Field(description="Training seconds until then; mean.")
    training_flops: float | None = Field(description="FLOPs of training until then; mean.")


class Model(_Values):
    """One model: its runs, and means over them."""

    name: str = Field(description="As it was named.")
    model: str = Field(description="The network.")
    layer: Literal["conv", "spatial"] = Field(description="conv shares its weights.")
    storage: Literal["local", "dense"] | None = Field(description="Of a spatial layer.")
    runs: list[str] = Field(description="The names of its runs.")
    seeds: list[int] = Field(description="Their seeds.")
    n: int = Field(description="How many there are.")
    accuracy: float = Field(description="Mean test accuracy.")
    accuracies: list[float] = Field(description="Test accuracy of each run.")
    accuracy_sd: float | None = Field(description="Standard deviation (ddof 1); null for one run.")
    accuracy_interval: Interval | None = Field(
        description="Of the mean: Student's t over the runs, null where they don't differ; of one "
        "run, Wilson's over the test images."
    )
    interval_covers: Literal["seeds", "images"] = Field(description="What it takes for drawn.")
    loss: float = Field(description="Mean cross entropy on the test images.")
    per_class: dict[str, float | None] = Field(description="Mean test accuracy of each class.")
    confusion: list[list[int]] = Field(
        description="Test images of class [row] taken for [column], summed over the runs."
    )
    epochs: list[int] = Field(description="Of each run.")
    unfinished: list[str] = Field(description="Runs that have not finished, tested as they stand.")
    weights: int = Field(description="Trainable weights that exist.")
    weight_bytes: int = Field(description="Memory that their tensors take.")
    peak_memory_bytes: int | None = Field(
        description="Most memory of training at a time, beside PyTorch and the images; the highest "
        "of the runs; null where it can't be known."
    )
    flops_per_image: int = Field(description="Forward; two for each multiply-add.")
    training_flops_per_image: int = Field(description="Forward and backward.")
    images_per_second: float = Field(description="In training; mean.")
    seconds: float = Field(description="Training of a run, tests left out; mean.")
    seconds_each: list[float] = Field(description="Of each run.")
    training_flops: float = Field(description="Of a whole run; mean.")
    target: Target | None = Field(description="With --target.")


class Welch(_Values):
    """Welch's test of the runs' accuracies: it covers the seeds."""

    interval: Interval = Field(description="Of the difference of means.")
    degrees_of_freedom: float = Field(description="Welch–Satterthwaite.")
    p: float = Field(description="Two-sided.")


class Bootstrap(_Values):
    """Paired bootstrap over the test images: it covers their draw, not the seeds."""

    interval: Interval = Field(description="Of the difference of means.")
    resamples: int = Field(description="Draws of as many images.")


class McNemar(_Values):
    """McNemar's exact test of two runs on the same images."""

    p: float = Field(description="Two-sided.")


class Difference(_Values):
    """A model against the first one."""

    first: str = Field(description="The model that was named first.")
    second: str = Field(description="The other one.")
    accuracy: float = Field(description="Mean test accuracy of the second − of the first.")
    welch: Welch | None = Field(description="null with one run on a side, or without spread.")
    bootstrap: Bootstrap = Field(description="On the same test images.")
    mcnemar: McNemar | None = Field(description="With one run on each side.")
    only_first_count: float = Field(
        description="Test images that a run of the first gets and one of the second doesn't; mean "
        "over all pairs of runs."
    )
    only_second_count: float = Field(description="The other way round.")
    only_first: list[int] = Field(
        description="Places of test images that every run of the first gets and none of the second."
    )
    only_second: list[int] = Field(description="The other way round.")

    @property
    def interval(self) -> list[float]:
        """The wider claim where it can be made: Welch's, which covers seeds."""
        return self.welch.interval if self.welch else self.bootstrap.interval

    @property
    def is_beyond_chance(self) -> bool:
        """At 5 %: by Welch's test where there is one, else McNemar's exact one, else the bootstrap.

        The bootstrap's interval alone says too much of two runs that differ in a few images.
        """
        if self.welch or not self.mcnemar:
            low, high = self.interval
            return low > 0 or high < 0
        return self.mcnemar.p < 0.05

    @property
    def is_worse(self) -> bool:
        """Whether the second is worse than the first, beyond chance."""
        return self.accuracy < 0 and self.is_beyond_chance


class Images(_Values):
    """On which images."""

    name: str = Field(description="What they are called: --data-name, else after the source.")
    source: str = Field(description="cifar10, folder or shapes.")
    train: str = Field(description="SHA-256 of the training split.")
    test: str = Field(description="SHA-256 of the test split.")
    train_images: list[int] = Field(description="Trained on, a number for each model.")
    test_images: int = Field(description="Tested on.")


class Comparison(_Values):
    """Models side by side; the first one is what the others are measured against."""

    schema_version: Literal[1] = Field(description="Of this description.")
    data: Images
    models: list[Model]
    differences: list[Difference] = Field(description="Each other model against the first.")
    remarks: list[str] = Field(description="What to keep in mind: what is not a twin, one seed.")
    conclusion: list[str] = Field(description="In plain words, a sentence for each difference.")
