"""What the settings tree says of a setting: its field, its allowed words, whether it is text.

Walks any tree of pydantic models. Knows no setting by name.
"""

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from sfl.config.yamlfile import Key

Loc = tuple[Key, ...]


def settings_at(loc: Loc, settings: type[BaseModel]) -> type[BaseModel] | None:
    """The settings at `loc`; None if a plain value is there."""
    for part in loc:
        field = settings.model_fields.get(str(part))
        inner = _inner(field) if field else None
        if inner is None:
            return None
        settings = inner
    return settings


def field_at(loc: Loc, settings: type[BaseModel]) -> FieldInfo | None:
    """The field of one setting; None if there is no such setting."""
    around = settings_at(loc[:-1], settings)
    return around.model_fields.get(str(loc[-1])) if around else None


def all_fields(settings: type[BaseModel], prefix: str = "") -> dict[str, FieldInfo]:
    """Every setting by its dotted name: {"data.root": …, "data.augment.flip": …}."""
    found: dict[str, FieldInfo] = {}
    for name, field in settings.model_fields.items():
        inner = _inner(field)
        found |= all_fields(inner, f"{prefix}{name}.") if inner else {f"{prefix}{name}": field}
    return found


def choice(field: FieldInfo) -> list[str]:
    """The allowed words of a setting; [] if it isn't a choice of words."""
    if field.annotation is bool:
        return ["true", "false"]
    literals = [kind for kind in _kinds(field) if get_origin(kind) is Literal]
    words = [word for literal in literals for word in get_args(literal)]
    return [str(word).lower() if isinstance(word, bool) else str(word) for word in words]


def is_text(field: FieldInfo) -> bool:
    """Whether a setting takes any text: a folder, a URL, a device."""
    return all(kind in (str, type(None)) for kind in _kinds(field))


def has_none(field: FieldInfo) -> bool:
    """Whether a setting may be None."""
    return type(None) in _kinds(field)


def _kinds(field: FieldInfo) -> tuple[Any, ...]:
    """The branches of a union; else the type alone."""
    kind = field.annotation
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _inner(field: FieldInfo) -> type[BaseModel] | None:
    """The settings that a field holds; None if it holds a plain value."""
    settings = (k for k in _kinds(field) if isinstance(k, type) and issubclass(k, BaseModel))
    return next(settings, None)
