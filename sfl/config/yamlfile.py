"""Reads YAML into plain values, with the file and line of each; writes YAML.

Scalars are read as in YAML 1.2's core schema: `1e-3` is a number, `no` is text, `010` is ten. Only
maps, lists and scalars are constructed, so no file can run code. Knows nothing of what the values
mean.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from sfl.errors import UserError

Key = str | int
MAX_BYTES = 1_000_000  # of a file; a config has a few thousand
MAX_VALUES = 10_000  # a config has about fifty; aliases of aliases could make billions
MAX_DEPTH = 20  # of nested values; a config has four
MAX_EXTENDS = 10

_SCALARS: tuple[tuple[str, Any], ...] = (
    (r"|~|null|Null|NULL", lambda text: None),
    (r"true|True|TRUE|false|False|FALSE", lambda text: text.lower() == "true"),
    (r"[-+]?[0-9]+", int),
    (r"0o[0-7]+", lambda text: int(text, 8)),
    (r"0x[0-9a-fA-F]+", lambda text: int(text, 16)),
    (r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", float),
    (r"[-+]?\.(inf|Inf|INF)", lambda text: float(text.replace(".", "", 1))),
    (r"\.(nan|NaN|NAN)", lambda text: float("nan")),
)


_STRING = "tag:yaml.org,2002:str"
_TAGS = (_STRING, "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


@dataclass(frozen=True, order=True)
class Place:
    """The place of a value: a file and line, or an option of the command line (line 0)."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass
class YamlTree:
    """Nested dicts, lists and scalars; `places` maps the path of keys of each to its place."""

    values: Any
    places: dict[tuple[Key, ...], Place] = field(default_factory=dict)

    def place(self, loc: tuple[Key, ...]) -> Place:
        """The place of a value, else of the innermost known value that contains it."""
        while loc and loc not in self.places:
            loc = loc[:-1]
        return self.places.get(loc, Place(""))


def read(path: Path, named: Mapping[str, Path] | None = None, _depth: int = 0) -> YamlTree:
    """Reads a YAML file that is a map, merged over the file that it `extends`.

    named: files that can be extended by name; other values of `extends` are paths, relative to the
    file. Raises UserError (exit 2).
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES / 1e6:.0f} MB: not a config")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file (UTF-8)") from None
    except OSError as error:
        raise UserError(f"{path}: can't be read: {error.strerror}") from None
    tree = parse(text, str(path))
    base = tree.values.pop("extends", None)
    if base is None:
        return tree
    place = tree.places[("extends",)]
    if not isinstance(base, str):
        raise UserError(f"{place}: extends: expected a path, not {base!r}")
    if _depth == MAX_EXTENDS:
        raise UserError(f"{place}: more than {MAX_EXTENDS} files extend one another; in a circle?")
    under = path.parent / base
    if not os.path.isfile(under):
        under = (named or {}).get(base, under)
    if not os.path.isfile(under):
        hint = "give the name of a config that ships with sfl, or a path relative to this file"
        raise UserError(f"{place}: extends: {under}: no such file", hint)
    return _merged(read(under, named, _depth + 1), tree)


def parse(text: str, name: str) -> YamlTree:
    """Reads YAML text that is a map; `name` is the file's name in messages."""
    try:
        node = _compose(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{name}:{line}: not YAML: {error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not YAML: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise UserError(f"{name}: nested too deeply for a config") from None
    if node is None:
        hint = "a config needs at least model: {name: …}, a study base and axes"
        raise UserError(f"{name}: the file is empty", hint)
    reader = _Reader(name)
    values = reader.value(node, ())
    if not isinstance(values, dict):
        kind = "a list" if isinstance(values, list) else "a single value"
        hint = "a colon needs a space after it" if ":" in str(values) else ""
        raise UserError(f"{name}: expected keys and values, found {kind}", hint)
    return YamlTree(values, reader.places)


def set_value(
    tree: YamlTree, loc: tuple[str, ...], text: str, source: str, *, as_text: bool = False
) -> YamlTree:
    """The tree with the value at `loc` set to `text`; `source` names it in messages.

    as_text: if True, the value is the text itself; otherwise it is read as YAML.
    """
    _refuse_inside_a_value(tree, loc, source)
    reader = _Reader(source, line_numbers=False)
    value: Any = text
    if not as_text:
        try:
            node = _compose(text)
        except (yaml.YAMLError, RecursionError):
            raise UserError(f"{source}: {text!r} is not a YAML value") from None
        value = reader.value(node, loc) if node is not None else None
    around: list[tuple[Key, ...]] = [loc[:depth] for depth in range(1, len(loc))]
    places = {part: Place(source) for part in around if part not in tree.places}
    places |= {**reader.places, loc: Place(source)}
    for key in reversed(loc):
        value = {key: value}
    return _merged(tree, YamlTree(value, places), replace_at=loc)


def _refuse_inside_a_value(tree: YamlTree, loc: tuple[str, ...], source: str) -> None:
    values = tree.values
    for depth, key in enumerate(loc[:-1], start=1):
        values = values.get(key)
        if values is None:
            return
        if not isinstance(values, dict):
            raise UserError(f"{source}: {'.'.join(loc[:depth])} is a value and has no keys")


def dump(values: dict[str, Any]) -> str:
    """YAML text that `parse` reads as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.2 would not read as text; PyYAML quotes by the rules of YAML 1.1."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = "'" if any(re.fullmatch(pattern, data) for pattern, _ in _SCALARS) else None
        if set(data) & set("\x85\u2028\u2029"):  # YAML 1.1 line breaks; only "…" escapes them
            style = '"'
        return self.represent_scalar(_STRING, data, style=style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _compose(text: str) -> yaml.Node | None:
    """The tree of nodes. With BaseLoader, only nodes tagged in the text have a special tag."""
    nodes = list(islice(yaml.compose_all(text, Loader=yaml.BaseLoader), 2))
    if len(nodes) > 1:
        problem = "a second document begins here; a config is one (extends: FILE builds on another)"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=nodes[1].start_mark)
    return nodes[0] if nodes else None


class _Reader:
    """Turns YAML nodes into plain values and records the place of each."""

    def __init__(self, name: str, line_numbers: bool = True) -> None:
        self.name, self.line_numbers = name, line_numbers
        self.places: dict[tuple[Key, ...], Place] = {}
        self.open: list[yaml.Node] = []  # the nodes that contain the one being read

    def value(self, node: yaml.Node, loc: tuple[Key, ...]) -> Any:
        place = self._place(node)
        self.places.setdefault(loc, place)
        if any(node is outer for outer in self.open):
            raise UserError(f"{place}: a value that contains itself")
        if len(self.places) > MAX_VALUES:
            raise UserError(f"{place}: more than {MAX_VALUES:,} values: not a config")
        if len(self.open) == MAX_DEPTH:
            raise UserError(f"{place}: nested too deeply for a config")
        if node.tag not in _TAGS:
            raise UserError(f"{place}: the tag {node.tag} is not allowed; use plain values")
        self.open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return dict(self._items(node, loc))
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*loc, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.ScalarNode)
            return self._scalar(node)
        finally:
            self.open.pop()

    def _items(self, node: yaml.MappingNode, loc: tuple[Key, ...]) -> Iterator[tuple[str, Any]]:
        seen: dict[str, Place] = {}
        for key_node, value_node in node.value:
            place = self._place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{place}: a key must be a word, not a list or map")
            key = str(key_node.value)
            if key == "<<" and key_node.style is None:
                raise UserError(f"{place}: << does not merge here (use extends: FILE at the top)")
            if key in seen:
                raise UserError(f"{place}: {key} is given twice, first in line {seen[key].line}")
            seen[key] = self.places[(*loc, key)] = place
            yield key, self.value(value_node, (*loc, key))

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        if node.style is not None:  # quoted, or a block: always a string
            return node.value
        for pattern, convert in _SCALARS:
            if re.fullmatch(pattern, node.value):
                try:
                    return convert(node.value)
                except ValueError:  # Python refuses integers of more than 4,300 digits
                    raise UserError(f"{self._place(node)}: number with too many digits") from None
        return node.value

    def _place(self, node: yaml.Node) -> Place:
        return Place(self.name, node.start_mark.line + 1 if self.line_numbers else 0)


def _merged(under: YamlTree, over: YamlTree, replace_at: tuple[Key, ...] | None = None) -> YamlTree:
    """Merges maps key by key; other values, and the value at `replace_at`, are replaced."""

    def merge(low: Any, high: Any, loc: tuple[Key, ...]) -> Any:
        if not (isinstance(low, dict) and isinstance(high, dict)) or loc == replace_at:
            return high
        merged = dict(low)
        for key, value in high.items():
            merged[key] = merge(low[key], value, (*loc, key)) if key in low else value
        return merged

    return YamlTree(merge(under.values, over.values, ()), {**under.places, **over.places})
