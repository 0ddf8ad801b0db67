"""A comparison as `sfl compare --json` prints it, with a sentence on each field.

docs/compare.schema.json is made from this file. Accuracies are fractions; intervals are of 95 %.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from sfl.runs.labels import LABELS

SCHEMA_VERSION = 1  # rises if a field is removed or changes its meaning, not if one is added

Interval = Annotated[list[float], Field(min_length=2, max_length=2)]


class _Values(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Target(_Values):
    """What it took a model to reach `--target`."""

    accuracy: float = Field(description="The accuracy to be reached.")
    measured_on: Literal["validation", "test"] = Field(description="The images of that accuracy.")
    reached: int = Field(description="How many of the model's runs reached it.")
    epoch: float | None = Field(description="First epoch that reached it; mean over those runs.")
    seconds: float | None = Field(description="Seconds of training until its end; mean.")
    training_flops: float | None = Field(description="FLOPs of training until its end; mean.")


class Views(_Values):
    """A model tested with the mean of the probabilities over several views of each image."""

    count: int = Field(description="How many views.")
    runs: int = Field(description="How many of the model's runs were tested so.")
    accuracy: float = Field(description="Mean test accuracy of those.")


class Shifts(_Values):
    """A model tested on images that were moved by whole pixels."""

    pixels: int = Field(description="The most that they were moved, each way.")
    fill: str = Field(description="What stands where an image was moved away: black or reflect.")
    runs: int = Field(description="How many of the model's runs were tested so.")
    accuracy: list[list[float]] = Field(
        description="Mean test accuracy of those by [row][column], as in a run's copies.json."
    )
    mean: float = Field(description="Over all shifts.")


class Corrupted(_Values):
    """A model tested on corrupted images, such as CIFAR-10-C."""

    runs: int = Field(description="How many of the model's runs were tested so.")
    error: dict[str, list[float]] = Field(
        description="Mean test error of those by corruption, and by its severity from 1 on."
    )
    mean_error: float = Field(description="As in a run's copies.json: mean over corruptions.")
    in_the_mean: list[str] = Field(description="The corruptions in that mean.")


class Model(_Values):
    """One model: its runs, and means over them."""

    name: str = Field(description="The name that was given: a config, or after a run.")
    model: str = Field(description="The network.")
    layer: Literal["conv", "spatial"] = Field(description="conv: all positions share weights.")
    storage: Literal["local", "dense"] | None = Field(description="Of spatial layers; else null.")
    label: str | None = Field(
        None,
        description=f"What it is: {', '.join(LABELS)}, or several of these; null: its runs have "
        "no audit.",
    )
    sharing: str | None = Field(
        None,
        description="What positions share: strict, soft, in time or shared, as the audit in "
        "result.json defines it; null: its runs have none.",
    )
    transport: str | None = Field(
        None,
        description="What sends errors back: strict, at birth, signs or transports; null likewise.",
    )
    runs: list[str] = Field(description="The names of its runs.")
    seeds: list[int] = Field(description="Their seeds.")
    n: int = Field(description="Number of runs.")
    accuracy: float = Field(description="Mean test accuracy.")
    accuracies: list[float] = Field(description="Test accuracy of each run.")
    accuracy_sd: float | None = Field(description="Standard deviation (ddof 1); null for one run.")
    accuracy_interval: Interval | None = Field(
        description="Several runs: Student's t, null if all are equal; one run: Wilson's."
    )
    interval_covers: Literal["seeds", "images"] = Field(description="What it takes as random.")
    loss: float = Field(description="Mean cross entropy on the test images.")
    gradient_angle: float | None = Field(
        None,
        description="Degrees between what is learnt from and the true gradient: mean over layers, "
        "last measured, mean over the runs; null if a run or a layer has none.",
    )
    probe_decrease: float | None = Field(
        None,
        description="By how much one step lowers the loss, last measured; mean over the runs. See "
        "run-directory.md. null if a run has none.",
    )
    views: Views | None = Field(None, description="null: no run was tested with `--views`.")
    shifts: Shifts | None = Field(None, description="null: no run was tested with `--shifts`.")
    corrupted: Corrupted | None = Field(
        None, description="null: no run was tested with `--corrupted`."
    )
    per_class: dict[str, float | None] = Field(description="Mean test accuracy of each class.")
    confusion: list[list[int]] = Field(
        description="Test images of class [row] predicted as [column], summed over the runs."
    )
    epochs: list[int] = Field(description="Epochs that each run was trained.")
    unfinished: list[str] = Field(
        description="Runs that have not finished, tested with their best weights so far."
    )
    weights: int = Field(description="Number of weights that exist, frozen ones included.")
    weight_bytes: int = Field(description="Memory that the weights take.")
    peak_memory_bytes: int | None = Field(
        description="Highest memory of training, without PyTorch and the images; null: unknown."
    )
    flops_per_image: int = Field(description="Forward pass; a multiply-add counts as two.")
    training_flops_per_image: int = Field(description="Forward and backward pass.")
    images_per_second: float = Field(description="Training images per second; mean over the runs.")
    seconds: float = Field(description="Training time without tests; mean over the runs.")
    seconds_each: list[float] = Field(description="Training time of each run.")
    training_flops: float = Field(description="FLOPs of a whole run; mean.")
    target: Target | None = Field(description="null without --target.")


class Welch(_Values):
    """Welch's t test of the runs' accuracies (Welch 1947): it covers the seeds."""

    interval: Interval = Field(description="Of the difference of means.")
    degrees_of_freedom: float = Field(description="Welch–Satterthwaite.")
    p: float = Field(description="Two-sided.")


class Bootstrap(_Values):
    """Paired bootstrap over the test images (Efron 1979): it covers their draw, not the seeds."""

    interval: Interval = Field(
        description="Of the difference of means. If all images have the same difference, which "
        "leaves nothing to draw: by the share that so many images may hide (Clopper, Pearson 1934)."
    )
    resamples: int = Field(description="Number of draws, each of as many images.")


class McNemar(_Values):
    """McNemar's exact test of two runs on the same images (McNemar 1947)."""

    p: float = Field(description="Two-sided.")


class Difference(_Values):
    """A model against the first one."""

    first: str = Field(description="Name of the first model.")
    second: str = Field(description="Name of the other model.")
    accuracy: float = Field(description="Mean test accuracy of the second − that of the first.")
    welch: Welch | None = Field(description="null if a model has one run, or no accuracies differ.")
    bootstrap: Bootstrap = Field(description="On the same test images.")
    mcnemar: McNemar | None = Field(description="null unless both models have one run.")
    p_corrected: float | None = Field(
        None,
        description="With more than two models: p of Welch's test, else of McNemar's, corrected "
        "for the number of differences (Holm 1979). null: neither test, or two models.",
    )
    only_first_count: float = Field(
        description="Test images that a run of the first model alone gets right; mean over pairs."
    )
    only_second_count: float = Field(description="The same, with the models exchanged.")
    only_first: list[int] = Field(
        description="Numbers of test images that all runs of the first and none of the second get."
    )
    only_second: list[int] = Field(description="The same, with the models exchanged.")

    @property
    def is_of_equal_answers(self) -> bool:
        """Whether every run of both models gets the same images right."""
        return self.only_first_count == self.only_second_count == 0

    @property
    def interval(self) -> list[float]:
        """Welch's interval, which covers the seeds, if there is one; else the bootstrap's."""
        return self.welch.interval if self.welch else self.bootstrap.interval

    @property
    def p(self) -> float | None:
        """Of Welch's test if there is one, else McNemar's exact test; not corrected.

        McNemar's before the bootstrap, whose interval is too narrow if few images differ.
        """
        test = self.welch or self.mcnemar
        return test.p if test else None

    @property
    def is_beyond_chance(self) -> bool:
        """At 5 %: by `p`, corrected where there are several differences; else by the bootstrap."""
        p = self.p if self.p_corrected is None else self.p_corrected
        low, high = self.interval
        return low > 0 or high < 0 if p is None else p < 0.05

    @property
    def is_worse(self) -> bool:
        """Whether the second model is worse than the first, beyond chance."""
        return self.accuracy < 0 and self.is_beyond_chance


class Trial(_Values):
    """One run that helped to choose a cell's settings."""

    values: dict[str, Any] = Field(description="What was tried, by setting.")
    run: str = Field(description="The name of its run.")
    accuracy: float | None = Field(
        description="Validation accuracy after its last epoch; null: it has diverged."
    )


class Cell(_Values):
    """One combination of a study's variants."""

    model: str = Field(description="Its name among the models.")
    variants: dict[str, str] = Field(description="Its variant of each axis.")
    gaps: dict[str, float | None] = Field(
        description="By axis: its accuracy − that of the cell with the axis' first variant, and "
        "the same of the other axis. null: there is no such cell."
    )
    trials: list[Trial] = Field(description="What was tried for it; empty without tuning.")
    chosen: dict[str, Any] = Field(description="The values that were best.")


class Grid(_Values):
    """The axes of a study, and what they were combined to."""

    name: str = Field(description="The study's: its file without the ending.")
    axes: dict[str, list[str]] = Field(
        description="The variants of each axis; first the reference."
    )
    cells: list[Cell] = Field(description="In the order of the models.")


class Images(_Values):
    """The images that all runs were made with."""

    name: str = Field(description="Their name: --data-name, else after the source.")
    source: str = Field(description="cifar10, folder or shapes.")
    train: str = Field(description="SHA-256 of the training split.")
    test: str = Field(description="SHA-256 of the test split.")
    train_images: list[int] = Field(description="Number of images trained on, for each model.")
    test_images: int = Field(description="Number of images tested on.")
    majority_share: float | None = Field(
        None,
        description="Accuracy of always answering the test images' most frequent class; null in "
        "comparisons that earlier versions wrote.",
    )


class Failed(_Values):
    """A run that failed."""

    run: str = Field(description="Its name; of a cell whose trials all diverged, the cell's.")
    reason: str = Field(description="Why, in words.")
    exit_code: int = Field(description="With which the command ends if it is the first.")


class Comparison(_Values):
    """Models side by side. The others are compared with the first one."""

    schema_version: Literal[1] = Field(description="Version of this description.")
    data: Images
    models: list[Model]
    differences: list[Difference] = Field(description="Each other model compared with the first.")
    remarks: list[str] = Field(description="What to know beside the numbers, a sentence each.")
    conclusion: list[str] = Field(description="Which model is ahead, for each difference.")
    methods: list[str] = Field(
        [],
        description="What was done, made from configs and environments, a sentence each: first "
        "what all models have in common, then in what they differ.",
    )
    failed: list[Failed] = Field([], description="Runs that failed, and are not counted.")
    grid: Grid | None = Field(None, description="null but for `sfl grid`.")
