"""The settings: their types, defaults and ranges, and a sentence on each.

Checks plain values. Knows no file, no model and no data set.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from sfl.config.yamlfile import dump
from sfl.nn.models.graphs import GRAPHS


def _number_or_pair(given: object) -> object:
    """Checks a kernel size with one message; pydantic would give one for each of the two types."""
    sizes = given if isinstance(given, list) and len(given) == 2 else [given]
    if all(type(size) is int and size >= 1 for size in sizes):
        return sizes[0] if len(set(sizes)) == 1 else given  # [3, 3] becomes 3: same graph, same run
    raise ValueError("expected a whole number of at least 1, or a pair of them")


Count = Annotated[int, Field(ge=1, le=10**9)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Pair = Annotated[list[Count], Field(min_length=2, max_length=2)]
KernelSize = Annotated[Count | Pair, BeforeValidator(_number_or_pair)]
PerChannel = Annotated[list[float], Field(min_length=1)]

# These settings may change when a run is resumed: it stays the same experiment.
MAY_CHANGE = (
    "data.root", "data.mirror", "data.skip_broken", "train.device", "train.keep",
    "train.checkpoint_every", "train.tensorboard", "train.threads",
)  # fmt: skip


class Settings(BaseModel):
    """Strict: unknown keys, `true` as a number, NaN and infinity are errors. null: the default."""

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
        description="conv shares its weights between positions, spatial does not. "
        "The default is the notebook's layer for this model.",
    )
    storage: Literal["local", "dense"] | None = Field(
        None,
        description="local (default): only the weights inside the receptive fields exist. dense: "
        "as in the notebook, every unit has a weight for every input; after one step the layer is "
        "fully connected. Only with layer: spatial.",
    )
    init: Literal["receptive_field", "notebook"] = Field(
        "receptive_field",
        description="receptive_field: weights from U(±√(6 / fan-in)), where fan-in is each unit's "
        "number of inputs; zero bias. notebook: as in the notebook (conv: PyTorch's default).",
    )
    channels: list[Count] | None = Field(
        None, description="Output channels of each conv or spatial layer."
    )
    kernel_sizes: list[KernelSize] | None = Field(
        None, description="Kernel size of each conv or spatial layer: a number or a pair."
    )
    hidden_sizes: list[Count] | None = Field(
        None, description="Number of units of each hidden linear layer of the classifier."
    )
    dropout: Fraction | None = Field(
        None, description="Dropout probability before the first and the last linear layer."
    )
    dropout2d: Fraction | None = Field(
        None, description="Dropout probability of whole feature maps, before the last block."
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_in(cls, given: Any) -> Any:
        """Fills in the defaults that depend on another key, so that a saved config is complete."""
        name = given.get("name") if isinstance(given, dict) else None
        if not isinstance(name, str) or name not in GRAPHS:
            return given  # reported when `name` is checked
        filled = given | {k: v for k, v in GRAPHS[name].items() if given.get(k) is None}
        if filled["layer"] == "spatial" and filled.get("storage") is None:
            filled["storage"] = "local"
        return filled

    @model_validator(mode="after")
    def _storage_needs_spatial(self) -> "ModelSettings":
        if self.layer == "conv" and self.storage is not None:
            raise ValueError(
                f"storage: {self.storage} is only for layer: spatial, not for conv; remove it, or "
                "use --set model.storage=null"
            )
        return self


class AugmentSettings(Settings):
    """Augmentation of the training images; the notebook's by default."""

    crop_padding: Annotated[int, Field(ge=0, le=1024)] = Field(
        4,
        description="Black pixels added on each side; then a random crop of the original size.",
    )
    flip: bool = Field(True, description="Mirror each image left to right with probability 1/2.")


class NormalizeSettings(Settings):
    """(pixel / 255 − mean) / std per channel; the notebook's constants by default."""

    mean: PerChannel = Field([0.4914, 0.4822, 0.4465], description="Mean of each channel.")
    std: Annotated[list[Positive], Field(min_length=1)] = Field(
        [0.2023, 0.1994, 0.2010], description="Standard deviation of each channel."
    )

    @model_validator(mode="after")
    def _same_length(self) -> "NormalizeSettings":
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"mean has {len(self.mean)} values, std {len(self.std)}; give one per channel"
            )
        return self


class ShapesSettings(Settings):
    """The embedded images."""

    train: Count = Field(10_000, description="Number of training images.")
    test: Count = Field(2_000, description="Number of test images.")
    jitter: Annotated[int, Field(ge=0, le=16)] = Field(
        6, description="Largest distance of an object from the centre, in pixels."
    )


class DataSettings(Settings):
    """The images, and how batches are made of them."""

    source: Literal["cifar10", "folder", "shapes"] = Field(
        "cifar10",
        description="cifar10 (downloaded and verified), folder (train/<class>/*, test/<class>/*) "
        "or shapes (drawn images; needs no files).",
    )
    root: str = Field(
        "data", description="The folder with the images; only with source: cifar10 or folder."
    )
    mirror: str | None = Field(None, description="URL from which to download CIFAR-10's archive.")
    resize: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Width and height in pixels to which a folder's images are resized."
    )
    skip_broken: bool = Field(
        False, description="Leave out a folder's files that can't be decoded, and say which."
    )
    normalize: NormalizeSettings = Field(
        NormalizeSettings(), description="Mean and standard deviation of each channel."
    )
    batch_size: Count = Field(64, description="Images per optimizer step.")
    augment: AugmentSettings = Field(AugmentSettings(), description="Random crops and flips.")
    validation: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Number of training images held out for validation: of each class its share, "
        "the same for every seed. They choose the best checkpoint. A folder's own val/ does, too.",
    )
    shapes: ShapesSettings = Field(ShapesSettings(), description="Only with source: shapes.")


class OptimizerSettings(Settings):
    """The optimizer; the notebook's by default."""

    name: Literal["adam", "adamw", "sgd"] = Field("adam", description="The optimizer.")
    lr: Positive = Field(3e-4, description="Learning rate; with a schedule, the highest one.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0, description="L2 penalty (adam, sgd) or decoupled decay (adamw)."
    )
    momentum: Fraction = Field(0.0, description="Momentum; only with sgd.")
    betas: Annotated[list[Fraction], Field(min_length=2, max_length=2)] = Field(
        [0.9, 0.999], description="Decay rates of the two moments; only with adam and adamw."
    )
    clip_norm: Positive | None = Field(
        None, description="Largest global norm of the gradients; larger ones are scaled down to it."
    )

    @model_validator(mode="after")
    def _only_its_own(self) -> "OptimizerSettings":
        if self.name != "sgd" and self.momentum:
            raise ValueError(f"momentum: only for sgd; {self.name} has betas")
        if self.name == "sgd" and "betas" in self.model_fields_set and self.betas != [0.9, 0.999]:
            raise ValueError("betas: only for adam and adamw; sgd has momentum")
        return self


class TrainSettings(Settings):
    """Length, device and precision of the training, and the files that it writes."""

    epochs: Count = Field(5, description="Number of passes over the training images.")
    seed: Annotated[int, Field(ge=0, lt=2**63)] = Field(
        0, description="The same seed gives the same run, another seed another run."
    )
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = Field(
        "auto", description="auto (CUDA if there is one, else MPS, else CPU), cpu, cuda[:N] or mps."
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None,
        description="Threads that compute on the CPU. The default is PyTorch's choice. Another "
        "number may change the last bits of a result.",
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 if the hardware has fast units for it, else float32."
    )
    schedule: Literal["constant", "cosine", "onecycle"] = Field(
        "constant", description="How the learning rate changes during the run."
    )
    warmup: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="Number of epochs in which the learning rate rises from 0; only with schedule "
        "constant and cosine.",
    )
    label_smoothing: Fraction = Field(
        0.0, description="Label smoothing of the cross entropy in training."
    )
    checkpoint_every: Count = Field(1, description="Number of epochs between checkpoints.")
    keep: Literal["all", "weights"] = Field(
        "all", description="weights: delete last.safetensors when the run has finished."
    )
    test_every: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Number of epochs between test accuracies in the log; they do not affect the "
        "run. 0: test only at the end.",
    )
    tensorboard: bool = Field(
        False, description="Also write metrics for TensorBoard; needs the extra tensorboard."
    )
    compile: bool = Field(False, description="Compile the model with torch.compile.")
    sync_batchnorm: bool = Field(
        False,
        description="With torchrun on GPUs: batch normalisation over the images of all processes.",
    )

    @model_validator(mode="after")
    def _warmup_fits(self) -> "TrainSettings":
        if self.schedule == "onecycle" and self.warmup:
            raise ValueError("warmup: only for schedule constant and cosine; onecycle has its own")
        if self.warmup > self.epochs:
            raise ValueError(f"warmup: {self.warmup:g} epochs, but train.epochs is {self.epochs}")
        return self


class Config(Settings):
    """One experiment."""

    model: ModelSettings = Field(description="The network.")
    data: DataSettings = Field(DataSettings(), description="The images.")
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="The optimizer.")
    train: TrainSettings = Field(TrainSettings(), description="The training run.")

    def to_dict(self, *, share: bool = False) -> dict[str, Any]:
        """All settings as plain values; `share` leaves out an absolute data.root and data.mirror.

        Those are about this machine, and a run directory must not name it.
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
        """All settings but the seed and MAY_CHANGE: equal if two runs are the same experiment."""
        values = self.to_dict()
        for key in ("train.seed", *MAY_CHANGE):
            section, name = key.split(".")
            values[section].pop(name, None)
        return values

    def continues(self, began: "Config") -> bool:
        """Whether a run that was started with `began` may be resumed with this config.

        It may if both are the same experiment; with schedule constant, epochs may be increased.
        """
        now, then = self.identity(), began.identity()
        if self.train.schedule == "constant" and self.train.epochs > began.train.epochs:
            then["train"]["epochs"] = self.train.epochs
        return now == then and self.train.seed == began.train.seed
