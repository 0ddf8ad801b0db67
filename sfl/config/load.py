"""Finds a config by path or name, reads it, applies overrides and checks it.

`load(path, overrides)` returns a Config or raises one UserError that lists every error. The
settings are in `schema`, reading YAML with line numbers in `yamlfile`, the messages in `messages`.
"""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from sfl.config.fields import field_at, has_none, is_text
from sfl.config.messages import describe, did_you_mean
from sfl.config.schema import Config
from sfl.config.yamlfile import YamlTree, parse, read, set_value
from sfl.errors import Exit, UserError

GRIDS = "grids/"  # the folder of studies among the configs


def named_configs() -> dict[str, Path]:
    """The configs that ship with sfl, by name: `conv`, `notebook/conv`, …"""
    return {name: path for name, path in _shipped().items() if not name.startswith(GRIDS)}


def named_grids() -> dict[str, Path]:
    """The studies that ship with sfl, by name: `grids/small`, …"""
    return {name: path for name, path in _shipped().items() if name.startswith(GRIDS)}


def _shipped() -> dict[str, Path]:
    folder = Path(str(resources.files("sfl"))) / "configs"  # in a wheel
    if not folder.is_dir():
        folder = Path(__file__).parent.parent.parent / "configs"  # in the repository
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path
        for path in sorted(folder.rglob("*.yaml"))
    }


def find(name: str | Path, shipped: Mapping[str, Path] | None = None) -> Path:
    """The path of a config: `name` as a path, else configs/<name>.yaml, else the shipped one.

    shipped: those that ship, by name; None: `named_configs`.
    """
    path = Path(name)
    shipped = named_configs() if shipped is None else shipped
    candidates = [path, Path("configs") / f"{name}.yaml", shipped.get(str(name))]
    # configs/<name>.yaml may name a shipped config: the README's commands work from any folder.
    if path.suffix == ".yaml" and path.parts[:1] == ("configs",):
        candidates.append(shipped.get(Path(*path.parts[1:]).with_suffix("").as_posix()))
    for candidate in candidates:
        # os.path returns False for a name that is too long; Path would raise OSError.
        # Not isfile: a pipe is allowed, as in --config <(sed ...).
        if candidate is not None and os.path.exists(candidate) and not os.path.isdir(candidate):
            return candidate
    choice = f"give the path of a YAML file, or one of {', '.join(shipped)}"
    if os.path.isdir(path):
        raise UserError(f"{path}: a folder, not a config file", choice)
    raise UserError(f"{name}: no such config{did_you_mean(str(name), shipped)}", choice)


def load(
    name: str | Path, overrides: Sequence[str] = (), sources: Sequence[str] | None = None
) -> Config:
    """A config from a YAML file and `a.b=v` overrides. Raises UserError (exit 2).

    sources: where each override was given, for messages; None: as `--set`.
    """
    tree = read(path := find(name), named_configs())
    if "axes" in tree.values and "model" not in tree.values:
        raise UserError(f"{path}: a study, not a config", "give it to sfl grid")
    return _validated(apply_overrides(tree, overrides, sources))


def from_text(text: str, name: str) -> Config:
    """A config from the YAML text in a checkpoint; `name` is for messages. UserError: exit 4."""
    with _written_by_sfl():
        return _validated(parse(text, name))


def from_tree(tree: YamlTree) -> Config:
    """A config from a run directory's config.yaml. UserError: exit 4."""
    with _written_by_sfl():
        return _validated(tree)


@contextlib.contextmanager
def _written_by_sfl() -> Iterator[None]:
    try:
        yield
    except UserError as error:
        hint = "written by another version of sfl, or by hand?"
        raise UserError(error.message, hint, Exit.RUN) from None


def override(
    config: Config, overrides: Sequence[str], sources: Sequence[str] | None = None
) -> Config:
    """The config with `a.b=v` overrides, checked as in a file. What nobody has set stays unset.

    sources: as in `load`.
    """
    if not overrides:
        return config
    given = config.model_dump(exclude_unset=True, exclude_none=True)
    return _validated(apply_overrides(YamlTree(given), overrides, sources))


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values with dotted keys: {"a": {"b": 1}} → {"a.b": 1}."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        inner = isinstance(value, Mapping)
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found


def apply_overrides(
    tree: YamlTree, overrides: Sequence[str], sources: Sequence[str] | None = None
) -> YamlTree:
    """The tree with `a.b=v` overrides.

    Each v is read as YAML. Only that of a text setting is taken as it is: a folder may be named
    `images #2` or `2024`. `null` is no text where the setting may be None. sources: as in `load`.
    """
    sources = [f"--set {override}" for override in overrides] if sources is None else sources
    for override, source in zip(overrides, sources, strict=True):
        key, equals, value = override.partition("=")
        loc = tuple(part.strip() for part in key.split("."))
        if not equals or not all(loc):
            raise UserError(f"{source}: expected a.b=value, as in train.epochs=20")
        field = field_at(loc, Config)
        text, may_be_none = (is_text(field), has_none(field)) if field else (False, True)
        if not (value if text else value.strip()):
            default = "leave it out" if text and not may_be_none else f"{key}=null"
            raise UserError(f"{source}: has no value", f"for the default: {default}")
        as_text = text and not (may_be_none and value == "null")
        tree = set_value(tree, loc, value, source, as_text=as_text)
    return tree


def _validated(tree: YamlTree) -> Config:
    try:
        return Config.model_validate(tree.values)
    except ValidationError as error:
        raise UserError(describe(error, tree, Config)) from None
