"""Turns pydantic's errors about a config into messages, one line for each.

A line gives the place, the key, the value given and the allowed values. Knows no setting by name.
"""

import difflib
import json
from collections.abc import Iterable

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sfl.config.fields import Loc, all_fields, choice, field_at, settings_at
from sfl.config.yamlfile import Place, YamlTree
from sfl.units import listed

MAX_SHOWN = 60  # characters of a value in a message

# The part of a message between the key and the value given, from pydantic's context of the error.
_RANGES = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "string_type": "expected text (write it in quotes)",
    "model_type": "expected keys and values",
    "dict_type": "expected keys and values",
    "too_short": "expected at least {min_length} entries",
    "too_long": "expected at most {max_length} entries",
}


def describe(error: ValidationError, tree: YamlTree, settings: type[BaseModel]) -> str:
    """All errors, sorted by file and line. settings: the model that the tree was checked with."""
    lines: dict[tuple[Place, str], None] = {}  # a dict keeps the order and drops repetitions
    for mistake in error.errors(include_url=False):
        loc, words = _explain(mistake, settings)
        lines[(tree.place(loc), words)] = None
    ordered = sorted(lines, key=lambda item: item[0])
    return "\n".join(f"{place}: {line}" if place.file else line for place, line in ordered)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ ": did you mean X?", with the known word most like `word`; "" if none is like it."""
    proper = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), proper, n=1)
    return f": did you mean {proper[close[0]]}?" if close else ""


def _elsewhere(word: str, settings: type[BaseModel]) -> str:
    """As `did_you_mean`, with the settings of that name, or nearly so, in the whole tree."""
    named = {name: name.rpartition(".")[2] for name in all_fields(settings)}
    close = difflib.get_close_matches(word, set(named.values()), n=1, cutoff=0.9)
    places = [name for name, last in named.items() if last in close]
    return f": did you mean {' or '.join(places)}?" if places else ""


def _explain(mistake: ErrorDetails, settings: type[BaseModel]) -> tuple[Loc, str]:
    """The place of an error, and its message."""
    loc, kind, context = mistake["loc"], mistake["type"], mistake.get("ctx", {})
    key, given = _dotted(loc), _shown(mistake["input"])
    if kind == "value_error":
        return _from_validator(loc, str(context["error"]), given, settings)
    if kind == "extra_forbidden":
        around = settings_at(loc[:-1], settings)
        assert around is not None, "an unknown key is always inside settings"
        known = list(around.model_fields)
        guess = _elsewhere(str(loc[-1]), settings) or did_you_mean(str(loc[-1]), known)
        return loc, f"unknown key {key}{guess}; allowed: {', '.join(known)}"
    field = field_at(loc, settings)
    words = choice(field) if field else []
    if kind == "missing":
        return loc, f"{key} is missing" + (f"; give {listed(words, 'or')}" if words else "")
    if kind == "literal_error":
        guess = did_you_mean(str(mistake["input"]), words)
        return loc, f"{key}: expected {listed(words, 'or')}, not {given}{guess}"
    if kind == "string_pattern_mismatch":
        assert field is not None
        description = str(field.description).rstrip(".")
        return loc, f"{key}: expected {description}, not {given}"
    if kind in _RANGES:
        bounds = {
            name: int(n) if n == int(n) else n
            for name, n in context.items()
            if isinstance(n, int | float)
        }
        said = _RANGES[kind].format(**bounds).replace(" 1 values", " 1 value")
        return loc, f"{key or 'the file'}: {said}, not {given}"
    return loc, f"{key}: {mistake['msg']}, not {given}"


def _from_validator(
    loc: Loc, message: str, given: str, settings: type[BaseModel]
) -> tuple[Loc, str]:
    """An error that our own validator raised: "a.b: …" is about that key of its settings."""
    found = settings_at(loc, settings)
    if found is None:
        return loc, f"{_dotted(loc)}: {message}, not {given}"
    key, colon, rest = message.partition(": ")
    named = (*loc, *key.split("."))
    if colon and field_at(named, settings):
        return named, f"{_dotted(named)}: {rest}"
    return loc, f"{_dotted(loc)}: {message}".removeprefix(": ")


def _dotted(loc: Loc) -> str:
    """("optimizer", "betas", 1) → "optimizer.betas[1]"."""
    return "".join(
        f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc
    ).removeprefix(".")


def _shown(value: object) -> str:
    """A value on one line, written as JSON (which is YAML, too), shortened if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
