"""The settings tree: what a YAML file may say, with defaults, ranges and one sentence each.

Plain values in, checked values out; knows no file, no model and no data set.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sfl.config.yamlfile import dump
from sfl.nn.models.graphs import GRAPHS


def _number_or_pair(given: object) -> object:
    """One line for a mistake; pydantic alone would give two, one for each form."""
    sizes = given if isinstance(given, list) and len(given) == 2 else [given]
    if all(type(size) is int and size >= 1 for size in sizes):
        return sizes[0] if len(set(sizes)) == 1 else given  # [3, 3] is 3: one graph, one spelling
    raise ValueError("expected a whole number of at least 1, or a pair of them")


Count = Annotated[int, Field(ge=1, le=10**9)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]
KernelSize = Annotated[Count | Pair, BeforeValidator(_number_or_pair)]
PerChannel = Annotated[list[float], Field(min_length=1)]

# What a run goes on with may differ in these and still be the same experiment.
MAY_CHANGE = (
    "data.root", "data.mirror", "train.device", "train.keep", "train.checkpoint_every",
    "train.tensorboard",
)  # fmt: skip


class Settings(BaseModel):
    """Strict: unknown keys, `true` for a number, NaN and infinities are errors; null: default."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_the_default(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {k: v for k, v in given.items() if v is not None or k not in cls.model_fields}


class ModelSettings(Settings):
    """Which network, and whether its weights are shared."""

    name: Literal["RegularConvNet", "SpatialDenseNet", "SimpleModel"] = Field(
        description="The network."
    )
    layer: Literal["conv", "spatial"] | None = Field(
        None,
        description="conv shares its weights between places, spatial does not; "
        "by default what the notebook used for that model.",
    )
    storage: Literal["local", "dense"] | None = Field(
        None,
        description="local: only the weights in the receptive fields exist (default); dense: the "
        "notebook's, a fully connected layer after one step. Only with layer: spatial.",
    )
    init: Literal["receptive_field", "notebook"] = Field(
        "receptive_field",
        description="receptive_field: U(±√(6 / fan-in)) with each unit's own fan-in, zero bias; "
        "notebook: as the notebook did (for conv: PyTorch's default).",
    )
    channels: list[Count] | None = Field(
        None, description="Channels out of each conv or spatial layer."
    )
    kernel_sizes: list[KernelSize] | None = Field(
        None, description="Kernel size of each of these layers, a number or a pair."
    )
    hidden_sizes: list[Count] | None = Field(
        None, description="Units of the classifier's hidden linear layers."
    )
    dropout: Fraction | None = Field(
        None, description="Dropout before the first and the last linear layer."
    )
    dropout2d: Fraction | None = Field(
        None, description="Dropout of whole feature maps, before the last block."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """Resolves the defaults that depend on another key, so that a config says all it means."""
        name = given.get("name") if isinstance(given, dict) else None
        if not isinstance(name, str) or name not in GRAPHS:
            return given  # a mistake that is reported elsewhere
        filled = given | {k: v for k, v in GRAPHS[name].items() if given.get(k) is None}
        if filled["layer"] == "spatial" and filled.get("storage") is None:
            filled["storage"] = "local"
        return filled

    @model_validator(mode="after")
    def _storage_needs_spatial(self) -> "ModelSettings":
        if self.layer == "conv" and self.storage is not None:
            raise ValueError(
                f"storage: {self.storage} is for layer: spatial, a conv layer has none; leave it "
                "out, or take it back with --set model.storage=null"
            )
        return self


class AugmentSettings(Settings):
    """How training images are varied; the notebook's by default."""

    crop_padding: Annotated[int, Field(ge=0, le=1024)] = Field(
        4, description="Black pixels added on each side before a random crop of the old size."
    )
    flip: bool = Field(True, description="Mirror images left to right, each with probability 1/2.")


class NormalizeSettings(Settings):
    """(pixel / 255 − mean) / std per channel; the notebook's constants by default."""

    mean: PerChannel = Field([0.4914, 0.4822, 0.4465], description="Mean of each channel.")
    std: Annotated[list[Positive], Field(min_length=1)] = Field(
        [0.2023, 0.1994, 0.2010], description="Standard deviation of each channel."
    )

    @model_validator(mode="after")
    def _same_length(self) -> "NormalizeSettings":
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values, std {len(self.std)}")
        return self


class ShapesSettings(Settings):
    """The embedded images."""

    train: Count = Field(10_000, description="Training images drawn.")
    test: Count = Field(2_000, description="Test images drawn.")
    jitter: Annotated[int, Field(ge=0, le=16)] = Field(
        6, description="How far an object may lie from the centre, in pixels."
    )


class DataSettings(Settings):
    """Where images come from and how they are fed."""

    source: Literal["cifar10", "folder", "shapes"] = Field(
        "cifar10",
        description="cifar10 (downloaded and verified), folder (train/<class>/*, test/<class>/*) "
        "or shapes (drawn, needs no files).",
    )
    root: str = Field("data", description="The folder of cifar10 and folder.")
    mirror: str | None = Field(None, description="URL to fetch CIFAR-10's archive from.")
    resize: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Resize the images of a folder to this many pixels square."
    )
    normalize: NormalizeSettings = Field(NormalizeSettings(), description="Means and deviations.")
    batch_size: Count = Field(64, description="Images per optimizer step.")
    augment: AugmentSettings = Field(AugmentSettings(), description="Random crops and flips.")
    validation: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Training images held out, class-balanced, the same for every seed; they "
        "choose the best checkpoint.",
    )
    shapes: ShapesSettings = Field(ShapesSettings(), description="Only with source: shapes.")


class OptimizerSettings(Settings):
    """The optimizer; the notebook's by default."""

    name: Literal["adam", "adamw", "sgd"] = Field("adam", description="The optimizer.")
    lr: Positive = Field(3e-4, description="Learning rate; the highest one of a schedule.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0, description="L2 penalty (adam, sgd) or decoupled decay (adamw)."
    )
    momentum: Fraction = Field(0.0, description="Only with sgd.")
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field(
        [0.9, 0.999], description="Only with adam and adamw."
    )
    clip_norm: Positive | None = Field(
        None, description="Scale gradients down to this global norm."
    )

    @model_validator(mode="after")
    def _only_its_own(self) -> "OptimizerSettings":
        if self.name != "sgd" and self.momentum:
            raise ValueError(f"momentum: a setting of sgd alone; {self.name} has betas")
        if self.name == "sgd" and "betas" in self.model_fields_set and self.betas != [0.9, 0.999]:
            raise ValueError("betas: a setting of adam and adamw alone; sgd has momentum")
        return self


class TrainSettings(Settings):
    """How long, on what, and what is kept."""

    epochs: Count = Field(5, description="Passes over the training images.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="Same seed, same run; other seed, other run."
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = Field(
        "auto", description="auto (CUDA, MPS, CPU, whichever there is first), cpu, cuda[:N], mps."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 where the hardware multiplies it faster, else float32."
    )
    schedule: Literal["constant", "cosine", "onecycle"] = Field(
        "constant", description="The learning rate over the run."
    )
    warmup: Annotated[float, Field(ge=0)] = Field(
        0.0, description="Epochs in which the rate rises from 0 (constant, cosine)."
    )
    label_smoothing: Fraction = Field(0.0, description="Of the cross entropy while training.")
    checkpoint_every: Count = Field(1, description="Epochs between checkpoints.")
    keep: Literal["all", "weights"] = Field(
        "all", description="weights: drop last.safetensors when the run has finished."
    )
    test_every: Annotated[int, Field(ge=0)] = Field(
        0, description="Epochs between logged test accuracies; chooses nothing. 0: only the end."
    )
    tensorboard: bool = Field(False, description="Write metrics for TensorBoard (an extra), too.")
    compile: bool = Field(False, description="torch.compile the model.")
    sync_batchnorm: bool = Field(
        False, description="Under torchrun, on GPUs: BatchNorm over the images of all workers."
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> "TrainSettings":
        if self.schedule == "onecycle" and self.warmup:
            raise ValueError("warmup: for schedule constant and cosine; onecycle has its own")
        if self.warmup > self.epochs:
            raise ValueError(f"warmup: {self.warmup:g} epochs, but there are only {self.epochs}")
        return self


class Config(Settings):
    """One experiment."""

    model: ModelSettings = Field(description="Which network, and whether its weights are shared.")
    data: DataSettings = Field(DataSettings(), description="Images.")
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="The optimizer.")
    train: TrainSettings = Field(TrainSettings(), description="The training run.")

    def to_dict(self, *, share: bool = False) -> dict[str, Any]:
        """Fully resolved, as plain values; `share` leaves out what only this machine knows.

        That is an absolute data root, and where the archive was fetched from.
        """
        values = self.model_dump(exclude_none=True)
        del values["data"]["root" if self.data.source == "shapes" else "shapes"]
        if share:
            values["data"].pop("mirror", None)
            if Path(self.data.root).is_absolute():
                values["data"].pop("root", None)
        return values

    def to_yaml(self, *, share: bool = False) -> str:
        """`to_dict` as YAML."""
        return dump(self.to_dict(share=share))

    def identity(self) -> dict[str, Any]:
        """What makes two runs one experiment: all but the seed and MAY_CHANGE."""
        values = self.to_dict()
        for key in ("train.seed", *MAY_CHANGE):
            section, name = key.split(".")
            values[section].pop(name, None)
        return values

    def continues(self, began: "Config") -> bool:
        """Whether a run begun so may go on so: the same, or for longer at a constant rate."""
        now, then = self.identity(), began.identity()
        if self.train.schedule == "constant" and self.train.epochs > began.train.epochs:
            then["train"]["epochs"] = self.train.epochs
        return now == then and self.train.seed == began.train.seed
