"""What a run writes down: result.json, a line of metrics.jsonl, environment.json.

A writer builds a record, `Result(...)`, and writes its `to_dict()`. A reader checks a file's values
with `Result.check(values, where)`. docs/run-directory.md is made from the sentences below. Knows no
files, and not how the numbers are measured.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sfl.errors import Exit, UserError
from sfl.runs.labels import LABELS

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(ge=0)]


class Record(BaseModel):
    """A JSON object of a run, checked strictly: a number in quotes is no number.

    Fields that it does not know, of later or earlier versions, are kept and not checked. A field
    with a default is one that some version, or some run, does not write.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="allow", allow_inf_nan=False)

    @classmethod
    def check(cls, values: dict[str, Any], where: str) -> Self:
        """The record that a JSON object holds.

        where: what it was read from, for the message. Raises UserError (exit 4) that names the
        fields which are missing or wrong.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            fields = dict.fromkeys(str(mistake["loc"][0]) for mistake in error.errors())
            said = f"{where}: missing or wrong: {', '.join(fields)}"
            hint = "perhaps another version of sfl wrote it; the run can be trained again"
            raise UserError(said, hint, Exit.RUN) from None

    def to_dict(self) -> dict[str, Any]:
        """As plain values. Fields that were not given are left out; given None, they are null."""
        return self.model_dump(exclude_unset=True)


class Provenance(Record):
    """Which images: their source, and the fingerprint of each split."""

    source: str = Field(description="`cifar10`, `folder` or `shapes`.")
    train: str = Field(description="SHA-256 of the training split.")
    test: str = Field(description="SHA-256 of the test split.")
    validation: str | None = Field(
        None, description="SHA-256 of the validation split, if the folder has one of its own."
    )


class Epoch(Record):
    """A line of metrics.jsonl."""

    epoch: Positive = Field(description="Its number; the first one is 1.")
    train_loss: float = Field(description="Mean of the batches' mean losses, in training.")
    train_accuracy: Fraction = Field(description="On the training images as they were augmented.")
    lr: float = Field(description="Learning rate of the last step.")
    seconds: Seconds = Field(description="Training alone, without the tests after the epoch.")
    images_per_second: Seconds = Field(description="Training images per second.")
    peak_memory_bytes: Count | None = Field(
        None, description="Memory peak of training, without PyTorch and images; null: unknown."
    )
    sleeps: Count | None = Field(
        None, description="With `learn.sleep`: how often information crossed positions."
    )
    outside_share: dict[str, float] | None = Field(
        None, description="Dense storage, by layer: share of Σ‖w‖² outside the receptive fields."
    )
    measures: dict[str, dict[str, float]] | None = Field(
        None, description="With `train.measure_every`, by layer: how it learns."
    )
    probe_decrease: float | None = Field(
        None,
        description="With `train.measure_every`: by how much a step of size `optimizer.lr` along "
        "what is learnt from, as long as the true gradient, lowers the loss; null: not finite.",
    )
    lr_sum: float | None = Field(
        None, description="With `train.measure_every`: sum of the learning rates of all steps."
    )
    validation_loss: float | None = Field(
        None, description="Cross entropy, with validation images."
    )
    validation_accuracy: Fraction | None = Field(None, description="With validation images.")
    test_accuracy: Fraction | None = Field(
        None, description="With `train.test_every`. Nothing is chosen by it."
    )


class AuditedLayer(Record):
    """A layer of an audit: its grades, and the numbers that they are about."""

    name: str
    kind: str
    sharing: str
    shared: Count
    places: Count
    statistics: Count
    transport: str
    transported: Count
    bits: Count
    own_scales: Count


class Audit(Record):
    """What a network shares between positions, and what its backward pass takes of its weights."""

    sharing: str = Field(description="Grade: `strict`, `soft`, `in time` or `shared`.")
    transport: str = Field(description="Grade: `strict`, `at birth`, `signs` or `transports`.")
    shared: Count = Field(description="Numbers that several positions have in common.")
    statistics: Count = Field(description="Means and variances over the images of a batch.")
    transported: Count = Field(description="Weights of which all or a sign sends errors back.")
    bits: Count = Field(description="Of those, in a step.")
    own_scales: Count = Field(description="Scales of normalisations, in their own derivative.")
    in_words: list[str] = Field(description="What the grades mean, and what else is not local.")
    layers: list[AuditedLayer] = Field(
        description="The same of each layer: `name`, `kind`, grades, numbers; `places`: how many "
        "positions have its `shared` numbers in common."
    )


class Scores(Record):
    """The fields of result.json that a test gives."""

    model: str = Field(description="Name of the network.")
    accuracy: Fraction = Field(description="Test accuracy, a fraction.")
    accuracy_interval: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field(
        description="95 % interval of it (Wilson 1927): it covers the draw of the test images."
    )
    loss: float = Field(description="Mean cross entropy over the test images.")
    n: Positive = Field(description="Number of test images.")
    majority_share: Fraction | None = Field(
        None, description="Share of the most frequent class among them. Not in the first runs."
    )
    per_class: dict[str, Fraction | None] = Field(description="Of each class; null: no test image.")
    confusion: list[list[Count]] = Field(description="Images of class [row] predicted as [column].")
    data: Provenance = Field(description="Which images it was trained and tested on.")
    weights: Count = Field(description="Number of weights that exist, frozen ones included.")
    weight_bytes: Count = Field(description="Memory that they take.")
    feedback_weights: Count | None = Field(
        None, description="Number of weights that `learn.rule` or `learn.route` has beside them."
    )
    flops_per_image: Count = Field(description="Forward pass; a multiply-add counts as two.")
    training_flops_per_image: Count | None = Field(
        None, description="Forward pass and gradients of weights and inputs. Not in the first runs."
    )
    audit: Audit | None = Field(
        None, description="What it shares and transports. Not in the first runs."
    )
    label: str | None = Field(
        None,
        description=f"What it is: {', '.join(LABELS)}, or several of these. Not in earlier runs.",
    )


class Result(Scores):
    """result.json: what a run ended with."""

    run: str = Field(description="Name of the run.")
    train_images: Positive | None = Field(
        None, description="Number of images trained on. Not in the first runs."
    )
    epochs: Positive = Field(description="Number of epochs that were trained.")
    seconds: Annotated[float, Field(gt=0)] = Field(description="Training alone, without tests.")
    seconds_per_epoch: Seconds = Field(description="Mean over the epochs.")
    peak_memory_bytes: Count | None = Field(
        None, description="The highest of its epochs; null: unknown. Not in the first runs."
    )


class Views(Record):
    """What several views of each test image give: the mean of the probabilities of all."""

    count: Positive = Field(description="2, 18 or 50 views: `sfl evaluate --help` says which.")
    fill: str = Field(description="What stands where an image was moved away: black or reflect.")
    accuracy: Fraction = Field(description="Test accuracy, a fraction.")
    accuracy_interval: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field(
        description="95 % interval of it, as in result.json."
    )
    loss: float = Field(description="Mean cross entropy of the mean probabilities.")


class Shifts(Record):
    """Test accuracy for each way of moving the images by whole pixels."""

    pixels: Positive = Field(description="The most that they were moved, each way.")
    fill: str = Field(description="What stands where an image was moved away: black or reflect.")
    accuracy: list[list[Fraction]] = Field(
        description="[row][column] of images moved down by row − `pixels`, right by column − "
        "`pixels`; the one in the middle is that of result.json."
    )

    @property
    def mean(self) -> float:
        """Over all shifts, that by no pixel included."""
        return sum(map(sum, self.accuracy)) / sum(map(len, self.accuracy))


class Corrupted(Record):
    """Test errors on corrupted test images, such as CIFAR-10-C (Hendrycks, Dietterich 2019)."""

    error: dict[str, list[Fraction]] = Field(
        description="1 − accuracy of each corruption, by its severity from 1 on."
    )
    mean_error: Fraction = Field(description="Over corruptions and severities.")
    in_the_mean: list[str] = Field(
        description="Corruptions in that mean: all but the benchmark's four extra ones."
    )


class Copies(Record):
    """copies.json: tests on copies of the test images, by `sfl evaluate`. Nothing is chosen by
    them."""

    views: Views | None = Field(None, description="With `--views`: averaged over views.")
    shifts: Shifts | None = Field(None, description="With `--shifts`: moved by some pixels.")
    corrupted: Corrupted | None = Field(None, description="With `--corrupted`: with corruptions.")


class Published(Record):
    """What a file of `sfl export` says of itself, beside its config."""

    run: str = Field(description="Name of the run.")
    images: str = Field(description="What the test images are called.")
    accuracy: Fraction = Field(description="Test accuracy of the run, before rounding.")
    n: Positive = Field(description="Number of test images.")
    label: str = Field(description="What it is, as in result.json.")
    dtype: str = Field(description="To which the learnt weights are rounded.")


class Commit(Record):
    """Which code trained a run."""

    commit: str = Field(description="The commit that was checked out.")
    clean: bool = Field(description="Whether `sfl/` was as committed.")


class Machine(Record):
    """What a run, or a part of it, was trained with. No host, no user, no absolute path."""

    sfl: str = Field(description="Version of sfl.")
    python: str = Field(description="Version of Python.")
    packages: dict[str, str] = Field(description="Versions of PyTorch and of other packages.")
    system: str = Field(description="Operating system and architecture.")
    device: str = Field(description="The GPU, or the processor with its instruction set.")
    workers: Positive = Field(1, description="Number of processes (torchrun).")
    threads: Positive = Field(description="Threads of one process.")
    precision: Literal["float32", "tf32", "bfloat16"] = Field(
        description="In which numbers products are computed."
    )
    local_precision: Literal["float32", "tf32", "bfloat16"] | None = Field(
        None, description="The same for local layers; always `float32` on a CPU and on MPS."
    )
    engine: str | None = Field(
        None,
        description="What computed local layers: `compiled` (C++), `triton` (on NVIDIA GPUs) or "
        "`reference` (PyTorch).",
    )
    compiled_kernel: bool | None = Field(
        None, description="In runs of version 0.1.0: whether the engine was `compiled`."
    )
    git: Commit | None = Field(description="null where the code is not a checkout.")

    @property
    def has_local_layers_in_float32(self) -> bool:
        """Also under bfloat16; versions 0.1.0 and 0.2.0 where the engine was compiled."""
        if self.local_precision is None:
            return self.compiled_kernel is True or self.engine == "compiled"
        return self.local_precision == "float32"


class Environment(Machine):
    """environment.json: what a run was trained with, and on which images."""

    data: Provenance | None = Field(None, description="Which images it is trained on.")
    skipped_images: Positive | None = Field(
        None, description="With `data.skip_broken`: the number of files that were left out."
    )
    resumed: list[Machine] = Field(
        [],
        description="Each time that it went on elsewhere or with another engine: with what.",
    )
