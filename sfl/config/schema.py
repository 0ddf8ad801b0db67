"""The settings: their types, defaults and ranges, and a sentence on each.

Checks plain values. Knows no file, no model and no data set.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from sfl.config.augment import AugmentSettings
from sfl.config.learn import LearnSettings
from sfl.config.model import ModelSettings
from sfl.config.optimizer import AverageSettings, OptimizerSettings
from sfl.config.settings import Count, Fraction, Positive, Settings
from sfl.config.yamlfile import dump

PerChannel = Annotated[list[float], Field(min_length=1)]

# These settings may change when a run is resumed: it stays the same experiment.
MAY_CHANGE = (
    "data.root", "data.mirror", "data.skip_broken", "train.device", "train.keep",
    "train.checkpoint_every", "train.tensorboard", "train.threads", "train.graph",
)  # fmt: skip


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
    mirror: str | None = Field(None, description="URL of CIFAR-10's archive; no other is tried.")
    resize: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="Only with source: folder. Width and height in pixels after resizing."
    )
    skip_broken: bool = Field(
        False, description="Leave out a folder's files that can't be decoded, and say which."
    )
    normalize: NormalizeSettings = Field(
        NormalizeSettings(), description="Mean and standard deviation of each channel."
    )
    batch_size: Count = Field(64, description="Images per optimizer step.")
    augment: AugmentSettings = Field(
        AugmentSettings(), description="What is done to training images."
    )
    validation: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Number of training images held out for validation: of each class its share, "
        "the same for every seed. They choose the best checkpoint. A folder's own val/ does, too.",
    )
    train_images: Count | None = Field(
        None,
        description="Train on so many images only: of each class its share, the same for every "
        "seed, those of a smaller number among those of a larger one. Validation images are held "
        "out before. The default is all.",
    )
    shapes: ShapesSettings = Field(ShapesSettings(), description="Only with source: shapes.")

    @model_validator(mode="after")
    def _only_of_a_folder(self) -> "DataSettings":
        needs = f"only with source: folder, not with {self.source}"
        self.only_if(self.source == "folder", needs, "resize")
        return self

    def which(self) -> dict[str, Any]:
        """All that says which images these are, as `sfl.data.sources.load_dataset` takes it."""
        names = {"source", "root", "mirror", "resize", "shapes", "skip_broken"}
        return self.model_dump(include=names)

    @property
    def images_key(self) -> str:
        """The same for the same images."""
        return repr(self.which())


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
    precision: Literal["auto", "float32", "tf32", "bfloat16"] = Field(
        "auto",
        description="In which numbers products are computed. auto: bfloat16 if the hardware has "
        "fast units for it, else float32. tf32, only on CUDA devices: float32 numbers, of whose "
        "mantissas products read 10 bits.",
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
    average: AverageSettings = Field(AverageSettings(), description="Average of the weights.")
    teacher: str | None = Field(
        None,
        description="Name or path of a finished run whose answers to the same images are learnt, "
        "too (distillation).",
    )
    teacher_temperature: Positive = Field(
        4.0, description="Only with a teacher. Divides the logits of both networks."
    )
    teacher_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.9,
        description="Only with a teacher. Share of its answers in the loss; the labels have the "
        "rest.",
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
    measure_every: Annotated[int, Field(ge=0)] = Field(
        0,
        description="Number of epochs between measurements of how the network learns, on a fixed "
        "batch; they do not affect the run. 0: none.",
    )
    tensorboard: bool = Field(
        False, description="Also write metrics for TensorBoard; needs the extra tensorboard."
    )
    compile: bool = Field(False, description="Compile the model with torch.compile.")
    graph: Literal["auto", "on", "off"] = Field(
        "auto",
        description="On a CUDA device, each step as one CUDA graph: the same numbers, with less "
        "work for the processor. auto: if it can be, without torchrun and compile. on: or an "
        "error.",
    )
    sync_batchnorm: bool = Field(
        False,
        description="With torchrun on GPUs: batch normalisation over the images of all processes.",
    )

    @model_validator(mode="after")
    def _fit_each_other(self) -> "TrainSettings":
        needs = "needs train.teacher, without which nothing is taught"
        self.only_if(self.teacher is not None, needs, "teacher_temperature", "teacher_share")
        needs = "only for schedule constant and cosine; onecycle has its own"
        self.only_if(self.schedule != "onecycle", needs, "warmup")
        if self.warmup > self.epochs:
            raise ValueError(
                f"warmup: {self.warmup:g} epochs, but train.epochs is {self.epochs}; lower it, too"
            )
        return self


class Config(Settings):
    """One experiment."""

    model: ModelSettings = Field(description="The network.")
    data: DataSettings = Field(DataSettings(), description="The images.")
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="The optimizer.")
    learn: LearnSettings = Field(LearnSettings(), description="How errors reach the weights.")
    train: TrainSettings = Field(TrainSettings(), description="The training run.")

    @model_validator(mode="after")
    def _can_learn_so(self) -> "Config":
        rule, route, sleep = self.learn.rule, self.learn.route, self.learn.sleep
        if sleep.every and self.model.layer == "conv":
            raise ValueError(
                "learn.sleep.every: only for model.layer: spatial; a conv layer shares already"
            )
        if sleep.every and self.model.storage == "dense":
            raise ValueError(
                "learn.sleep.every: only for model.storage: local; dense has no filters"
            )
        if sleep.every and route == "frozen":
            raise ValueError(
                "learn.sleep.every: not with learn.route: frozen, where filters don't learn"
            )
        if route == "local" and self.optimizer.clip_norm is not None:
            raise ValueError(
                "optimizer.clip_norm: not with learn.route: local; one norm over all gradients "
                "would let blocks act on each other"
            )
        if route == "local" and self.train.teacher is not None:
            raise ValueError(
                "train.teacher: not with learn.route: local, whose losses know labels alone"
            )
        if self.optimizer.name == "muon" and self.model.storage == "dense":
            raise ValueError(
                "optimizer.name: muon: only for model.storage: local; dense weights are no matrices"
            )
        if rule == "kp" and self.optimizer.name == "adam" and self.optimizer.weight_decay:
            raise ValueError(
                "optimizer.weight_decay: with learn.rule: kp, adam would let the forward and the "
                "feedback weights decay differently; use adamw, sgd or muon"
            )
        if self.train.sync_batchnorm and self.model.norm == "position":
            raise ValueError(
                "train.sync_batchnorm: only for model.norm: channel; position keeps each process's "
                "statistics to itself"
            )
        return self

    def to_dict(self, *, share: bool = False) -> dict[str, Any]:
        """All settings as plain values; `share` leaves out data.mirror, an absolute data.root, and
        of an absolute train.teacher all but its name.

        Those are about this machine, and a run directory must not name it.
        """
        values = self.model_dump(exclude_none=True)
        del values["data"]["root" if self.data.source == "shapes" else "shapes"]
        if self.learn == LearnSettings():  # so that files of runs without a rule stay as they were
            del values["learn"]
        if share:
            values["data"].pop("mirror", None)
            if Path(self.data.root).is_absolute():
                values["data"].pop("root", None)
            if self.train.teacher is not None and Path(self.train.teacher).is_absolute():
                values["train"]["teacher"] = Path(self.train.teacher).name
        return values

    def to_yaml(self, *, share: bool = False) -> str:
        """`to_dict` as YAML."""
        return dump(self.to_dict(share=share))

    def identity(self) -> dict[str, Any]:
        """All settings but the seed and MAY_CHANGE: equal if two runs are the same experiment."""
        values = self.to_dict() | {"learn": self.learn.model_dump()}
        for key in ("train.seed", *MAY_CHANGE):
            section, name = key.split(".")
            values[section].pop(name, None)
        if self.train.teacher is not None:  # wherever it lies
            values["train"]["teacher"] = Path(self.train.teacher).name
        return values

    def continues(self, began: "Config") -> bool:
        """Whether a run that was started with `began` may be resumed with this config.

        It may if both are the same experiment; with schedule constant, epochs may be increased.
        """
        now, then = self.identity(), began.identity()
        if self.train.schedule == "constant" and self.train.epochs > began.train.epochs:
            then["train"]["epochs"] = self.train.epochs
        return now == then and self.train.seed == began.train.seed
