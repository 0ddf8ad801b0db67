"""The settings tree: what a YAML file may say, with defaults, ranges and one sentence each.

`load(path, overrides)` gives a Config or raises one UserError that lists every mistake. Reading
YAML with line numbers is `sfl.yamlfile`'s part; nothing here knows a model or a data set.
"""

import difflib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from sfl.errors import UserError
from sfl.yamlfile import Key, Place, YamlTree, parse, read, set_value

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
KernelSize = Count | Annotated[list[Count], Field(min_length=2, max_length=2)]
PerChannel = Annotated[list[float], Field(min_length=1)]


class Settings(BaseModel):
    """Strict: unknown keys, `true` for a number, NaN and infinities are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


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
        if not isinstance(given, dict):
            return given
        layer = given.get("layer") or ("conv" if given.get("name") == "RegularConvNet" else None)
        filled = {**given, "layer": layer or "spatial"}
        if filled["layer"] == "spatial" and filled.get("storage") is None:
            filled["storage"] = "local"
        return filled

    @model_validator(mode="after")
    def _storage_needs_spatial(self) -> "ModelSettings":
        if self.layer == "conv" and self.storage is not None:
            raise ValueError("storage: is a setting of layer: spatial; a conv layer has none")
        return self


class AugmentSettings(Settings):
    """How training images are varied; the notebook's by default."""

    crop_padding: Annotated[int, Field(ge=0)] = Field(
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
            raise ValueError(f"mean has {len(self.mean)} channels, std {len(self.std)}")
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
    resize: Count | None = Field(
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
            raise ValueError(f"momentum: is a setting of sgd; {self.name} has betas:")
        if self.name == "sgd" and "betas" in self.model_fields_set and self.betas != [0.9, 0.999]:
            raise ValueError("betas: is a setting of adam and adamw; sgd has momentum:")
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
    compile: bool = Field(False, description="torch.compile the model.")

    @model_validator(mode="after")
    def _warmup_fits(self) -> "TrainSettings":
        if self.schedule == "onecycle" and self.warmup:
            raise ValueError("warmup: is a setting of constant and cosine; onecycle has its own")
        if self.warmup > self.epochs:
            raise ValueError(f"warmup: {self.warmup} is longer than epochs: {self.epochs}")
        return self


class Config(Settings):
    """One experiment."""

    model: ModelSettings = Field(description="Which network, and whether its weights are shared.")
    data: DataSettings = Field(DataSettings(), description="Images.")
    optimizer: OptimizerSettings = Field(OptimizerSettings(), description="The optimizer.")
    train: TrainSettings = Field(TrainSettings(), description="The training run.")

    def to_dict(self, *, share: bool = False) -> dict[str, Any]:
        """Fully resolved, as plain values; `share` leaves out an absolute data root."""
        values = self.model_dump(exclude_none=True)
        if self.data.source != "shapes":
            del values["data"]["shapes"]
        else:
            del values["data"]["root"]
        if share and Path(self.data.root).is_absolute():
            values["data"].pop("root", None)
        return values

    def to_yaml(self, *, share: bool = False) -> str:
        """`to_dict` as YAML."""
        return yaml.safe_dump(self.to_dict(share=share), sort_keys=False, allow_unicode=True)

    def identity(self) -> dict[str, Any]:
        """What makes two runs comparable: all but seed, device, data root and what is kept."""
        values = self.to_dict()
        for key in ("seed", "device", "keep", "checkpoint_every"):
            del values["train"][key]
        for key in ("root", "mirror"):
            values["data"].pop(key, None)
        return values


def named_configs() -> dict[str, Path]:
    """The configs that ship with sfl, by name: `conv`, `notebook/conv`, …"""
    folder = Path(str(resources.files("sfl"))) / "configs"  # in a wheel
    if not folder.is_dir():
        folder = Path(__file__).parent.parent / "configs"  # in the repository
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*.yaml"))
    }


def find(name: str | Path) -> Path:
    """A config's path: the path itself, `configs/<name>.yaml` here, or the one that ships."""
    path = Path(name)
    shipped = named_configs()
    candidates = [path, Path("configs") / f"{name}.yaml", shipped.get(str(name))]
    # A shipped config is found by its path too, so that README commands work from any folder.
    if path.suffix == ".yaml" and path.parts[:1] == ("configs",):
        candidates.append(shipped.get(Path(*path.parts[1:]).with_suffix("").as_posix()))
    for candidate in candidates:
        if candidate is not None and candidate.is_file():
            return candidate
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a config file")
    guess = _did_you_mean(str(name), shipped)
    raise UserError(f"{name}: no such config{guess}", f"there are {', '.join(shipped)}, or a path")


def load(name: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A config from a YAML file and `a.b=v` overrides; raises UserError with every mistake."""
    tree = read(find(name))
    return _validated(apply_overrides(tree, overrides), str(name))


def from_text(text: str, name: str) -> Config:
    """A config from a checkpoint's or a run directory's own YAML text."""
    return _validated(parse(text, name), name)


def override(config: Config, overrides: Sequence[str]) -> Config:
    """The config with `a.b=v` settings put in, checked as in a file."""
    if not overrides:
        return config
    return _validated(apply_overrides(YamlTree(config.to_dict()), overrides), "")


def apply_overrides(tree: YamlTree, overrides: Sequence[str]) -> YamlTree:
    """Puts `a.b=v` values, typed as YAML, into the tree."""
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {override}: expected a.b=value")
        tree = set_value(tree, tuple(key.strip().split(".")), value, f"--set {override}")
    return tree


def _validated(tree: YamlTree, name: str) -> Config:
    try:
        return Config.model_validate(tree.values)
    except ValidationError as error:
        _refuse(error, tree, name)


def _refuse(error: ValidationError, tree: YamlTree, name: str) -> NoReturn:
    """Raises one UserError with all mistakes, each with its file and line."""
    lines: dict[tuple[Place, str], None] = {}  # a dict keeps the order and drops repetitions
    for mistake in error.errors(include_url=False):
        loc = tuple(part for part in mistake["loc"] if _is_key(part, tree, mistake["loc"]))
        place = tree.place(loc)
        lines[(place, _explain(mistake, loc))] = None
    ordered = sorted(lines, key=lambda item: item[0])
    text = "\n".join(f"{place}: {line}" if place.file else line for place, line in ordered)
    raise UserError(text or f"{name}: not a config")


def _is_key(part: Key, tree: YamlTree, loc: tuple[Key, ...]) -> bool:
    """pydantic puts the branch of a union into a location; those parts are no keys of ours."""
    return isinstance(part, int) or not ("[" in part or part in ("int", "constrained-int"))


def _explain(mistake: Mapping[str, Any], loc: tuple[Key, ...]) -> str:
    key = ".".join(str(part) for part in loc)
    kind, given, context = mistake["type"], mistake["input"], mistake.get("ctx", {})
    if kind == "extra_forbidden":
        known = _known_keys(loc[:-1])
        return f"unknown key {key}{_did_you_mean(str(loc[-1]), known)}; allowed: {', '.join(known)}"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "literal_error":
        guess = _did_you_mean(str(given), context["expected"].replace("'", "").split(", "))
        return f"{key}: {given!r} is none of {context['expected'].replace(chr(39), '')}{guess}"
    if kind == "value_error":
        return f"{key}: {context['error']}" if key else str(context["error"])
    if kind in ("model_type", "model_attributes_type"):
        return f"{key or 'the file'}: expected keys and values, not {given!r}"
    if kind == "string_pattern_mismatch":
        return f"{key}: {given!r} is none of auto, cpu, mps, cuda, cuda:N"
    message = mistake["msg"].replace("Input should be a valid", "expected a")
    return f"{key}: {message.replace('Input should be', 'must be')}, not {given!r}"


def _known_keys(loc: tuple[Key, ...]) -> list[str]:
    """The keys of the settings at this place."""
    settings: type[BaseModel] = Config
    for part in loc:
        annotation = settings.model_fields[str(part)].annotation
        assert isinstance(annotation, type) and issubclass(annotation, BaseModel)
        settings = annotation
    return list(settings.model_fields)


def _did_you_mean(word: str, known: Sequence[str] | Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word.lower(), [*known, *map(str.lower, known)], n=1)
    proper = {name.lower(): name for name in known}
    return f": did you mean {proper[close[0].lower()]}?" if close else ""
