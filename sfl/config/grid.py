"""A study as its YAML file says it: a base config, one or two axes of variants, seeds, tuning.

The variants of the axes are combined into cells; each cell is a config.
"""

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from sfl.config.load import find, flat, load, named_configs, named_grids
from sfl.config.messages import describe
from sfl.config.schema import Config
from sfl.config.settings import Count, Settings
from sfl.config.yamlfile import YamlTree, read
from sfl.errors import UserError

Overrides = dict[str, Any]  # dotted keys, or nested ones: {"optimizer.lr": 1e-3}
Axis = Annotated[dict[str, Overrides | None], Field(min_length=1)]


class TuneSettings(Settings):
    """What each cell chooses for itself: settings with the values to be tried."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[list[Any], Field(min_length=2)]]

    on: Literal["validation"] = Field("validation", description="The images that choose.")
    epochs: Count = Field(description="Number of epochs of each trial, with the first seed.")

    @model_validator(mode="before")
    @classmethod
    def _dotted(cls, given: Any) -> Any:
        return flat(given) if isinstance(given, dict) else given

    @model_validator(mode="after")
    def _something(self) -> "TuneSettings":
        if not self.__pydantic_extra__:
            raise ValueError("names no setting; give one with its values: optimizer.lr: [1e-3, …]")
        for key in ("data.validation", "train.epochs", "train.seed"):
            if key in self.__pydantic_extra__:
                raise ValueError(f"{key}: can't be tuned: all trials have the same")
        for key, values in self.values.items():
            if any(value in values[:number] for number, value in enumerate(values)):
                raise ValueError(f"{key}: a value is there twice")
        return self

    @property
    def values(self) -> dict[str, list[Any]]:
        """The values to be tried, by dotted setting."""
        return dict(self.__pydantic_extra__)


class GridSettings(Settings):
    """The file of `sfl grid`."""

    base: str = Field(description="The config that all cells build on: a path or a name.")
    set: Overrides = Field({}, description="Settings of all cells.")
    axes: Annotated[dict[str, Axis], Field(min_length=1, max_length=2)] = Field(
        description="One axis or two, each with named variants: what they set. The first variants "
        "make the reference."
    )
    seeds: Count = Field(1, description="Runs of each cell: the config's seed and those after it.")
    tune: TuneSettings | None = Field(None, description="What each cell chooses for itself.")
    leave_out: list[dict[str, str | list[str]]] = Field(
        [], description="Cells that make no sense: for each axis the variant, or several."
    )

    @model_validator(mode="after")
    def _names(self) -> "GridSettings":
        for name in itertools.chain(*self.axes.values()):
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_+.-]*", name):
                raise ValueError(f"axes: {name!r} can't be part of a run's name; use letters, _+.-")
        for number, left in enumerate(self.leave_out):
            for axis, variants in left.items():
                if axis not in self.axes:
                    known = ", ".join(self.axes)
                    raise ValueError(f"leave_out: [{number}]: no axis {axis!r}; there is {known}")
                for variant in [variants] if isinstance(variants, str) else variants:
                    if variant not in self.axes[axis]:
                        known = ", ".join(self.axes[axis])
                        raise ValueError(f"leave_out: [{number}]: no {axis} {variant!r}; {known}")
        return self


@dataclass(frozen=True)
class Cell:
    """One combination of variants, by axis, and its config."""

    variants: Mapping[str, str]
    config: Config

    @property
    def name(self) -> str:
        """Also the beginning of its runs' names."""
        return "-".join(self.variants.values())


@dataclass(frozen=True)
class Grid:
    """A study, checked: the first of its cells is the reference."""

    name: str
    settings: GridSettings
    base: str  # its config: a name that ships with sfl, or a path from where we are
    cells: tuple[Cell, ...]
    tuned_at: Mapping[str, str]  # the place of each setting that is tuned
    images_read: dict[str, Any] = field(default_factory=dict)  # by the settings of the data


def load_grid(name: str, overrides: Sequence[str] = (), seeds: int | None = None) -> Grid:
    """A grid from a YAML file, or from the name of one that ships with sfl.

    overrides: `a.b=v` settings of all cells, over those of the file. seeds: instead of the file's.
    Raises UserError (exit 2).
    """
    path = find(name, named_grids())
    tree = read(path, named_configs() | named_grids())
    if "model" in tree.values and "axes" not in tree.values:
        raise UserError(f"{path}: a config, not a study", "give it to sfl train")
    try:
        settings = GridSettings.model_validate(tree.values)
    except ValidationError as error:
        raise UserError(describe(error, tree, GridSettings)) from None
    if seeds is not None:
        settings = settings.model_copy(update={"seeds": seeds})
    base = _base(settings.base, tree)
    cells = tuple(_cells(settings, base, tree, overrides))
    first = {axis: next(iter(variants)) for axis, variants in settings.axes.items()}
    if not cells or cells[0].variants != first:
        place = tree.place(("leave_out",))
        said = f"{place}: leave_out: leaves out {'-'.join(first.values())}"
        raise UserError(said, "the first variants make the reference of all cells")
    if len(cells) < 2:
        raise UserError(f"{path}: axes: one cell alone; a study needs two or more")
    names = [cell.name.lower() for cell in cells]  # not every disk tells X from x
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"{path}: axes: two cells are called {twice}", "rename a variant")
    tuned = settings.tune.values if settings.tune else {}
    tuned_at = {key: f"{tree.place(('tune', key))}: tune" for key in tuned}
    return Grid(path.stem, settings, base, cells, tuned_at)


def _cells(
    settings: GridSettings, base: str, tree: YamlTree, overrides: Sequence[str]
) -> Iterator[Cell]:
    for combination in itertools.product(*settings.axes.values()):
        variants = dict(zip(settings.axes, combination, strict=True))
        if any(_matches(left, variants) for left in settings.leave_out):
            continue
        given = list(_given(("set",), settings.set, tree))
        for axis, variant in variants.items():
            set_ = settings.axes[axis][variant]
            given += _given(("axes", axis, variant), set_ or {}, tree)
        given += [(override, f"--set {override}") for override in overrides]
        tuned = settings.tune.values if settings.tune else {}
        for override, place in given:
            if (key := override.partition("=")[0]) in tuned:
                raise UserError(f"{place}: {key} is tuned", "take it out here, or out of tune:")
        texts, sources = zip(*given, strict=True) if given else ((), ())
        yield Cell(variants, load(base, texts, sources))


def _base(base: str, tree: YamlTree) -> str:
    """A path is relative to the grid's file, else to where we are."""
    place = tree.place(("base",))
    beside = Path(place.file).parent / base
    if beside.is_file():
        return str(beside)
    try:
        find(base)
    except UserError as error:
        raise UserError(f"{place}: base: {error.message}", error.hint) from None
    return base


def _matches(left: Mapping[str, str | list[str]], variants: Mapping[str, str]) -> bool:
    return all(
        variants[axis] == which or (isinstance(which, list) and variants[axis] in which)
        for axis, which in left.items()
    )


def _given(loc: tuple[str, ...], values: Overrides, tree: YamlTree) -> Iterator[tuple[str, str]]:
    """Each override as `a.b=v`, and the place where it was given."""
    for key, value in flat(values).items():
        place = tree.place((*loc, key))
        yield as_override(key, value), str(place)


def as_override(key: str, value: Any) -> str:
    """`a.b=v`, as `--set` reads it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{key}={text}"
