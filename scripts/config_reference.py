"""Writes docs/config.md, the JSON schemas, and the tables of fields in docs/run-directory.md.

The JSON schemas are those of configs and of what `sfl compare --json` prints.

    .venv/bin/python scripts/config_reference.py

tests/test_docs.py says when they are out of date.
"""

import json
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sfl.comparison.schema import Comparison
from sfl.config.schema import Config
from sfl.runs.records import Copies, Environment, Epoch, Record, Result

DOCS = Path(__file__).resolve().parent.parent / "docs"

HEAD = """# Settings

<!-- made by scripts/config_reference.py from sfl/config/schema.py -->

What a YAML file, or `--set a.b=v`, may say. Unknown keys, wrong types, duplicate keys and values
out of range are errors, each with its file and line. Scalars are read as in YAML 1.2: `1e-3` is a
number, `no` and `010` are neither a boolean nor an octal. `extends: other.yaml` at the top builds
on another file: a name that ships with sfl, or a path relative to this one; `key: null` takes a
setting back to its default. For editors there is a JSON schema,
[config.schema.json](config.schema.json).
"""

BEGIN = "<!-- fields: made by scripts/config_reference.py from sfl/runs/records.py -->"
END = "<!-- end of fields -->"
RECORDS: dict[str, type[Record]] = {
    "metrics.jsonl": Epoch,
    "result.json": Result,
    "copies.json": Copies,
    "environment.json": Environment,
}


def reference() -> str:
    """The page, in Markdown."""
    lines = [HEAD]
    for name, field in Config.model_fields.items():
        lines += [f"## {name}", "", "| setting | default | values | |", "|---|---|---|---|"]
        lines += [*_rows(name, _settings(field)), ""]
    return "\n".join(lines)


def schema(of: type[BaseModel] = Config) -> str:
    """The JSON schema of a config, or of a comparison, as text."""
    return json.dumps(of.model_json_schema(), indent=2, ensure_ascii=False) + "\n"


def run_directory(page: str) -> str:
    """The page with the tables of fields between its marks made anew."""
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{fields()}\n{END}{rest.split(END)[1]}"


def fields() -> str:
    """What a run's files hold, in Markdown."""
    lines = []
    for name, record in RECORDS.items():
        lines += [f"## {name}", "", "| field | values | |", "|---|---|---|", *_fields(record), ""]
    return "\n".join(lines)


def _fields(record: type[BaseModel], prefix: str = "") -> list[str]:
    rows = []
    for name, field in record.model_fields.items():
        values = _values(field.annotation, *field.metadata)
        rows.append(f"| `{prefix}{name}` | {values} | {field.description} |")
        if typing.get_origin(field.annotation) is not list:
            for kind in (field.annotation, *typing.get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, Record):
                    rows += _fields(kind, f"{prefix}{name}.")
    return rows


def _rows(prefix: str, settings: type[BaseModel]) -> list[str]:
    rows = []
    for name, field in settings.model_fields.items():
        key = f"{prefix}.{name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            rows += _rows(key, field.annotation)
        else:
            cells = (f"`{key}`", _default(key, field), _values(field.annotation, *field.metadata))
            sentence = str(field.description).replace("<", "&lt;")
            rows.append(f"| {' | '.join(cells)} | {sentence} |")
    return rows


def _settings(field: FieldInfo) -> type[BaseModel]:
    assert isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    return field.annotation


def _default(key: str, field: FieldInfo) -> str:
    if field.default is PydanticUndefined:
        return "required"
    if field.default is None:
        return "the model's own" if key.startswith("model.") else "none"
    return f"`{json.dumps(field.default)}`"


def _values(annotation: Any, *bounds: Any) -> str:
    """A type in words, with its bounds."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _values(*arguments)
    if origin is typing.Literal:
        return ", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_values(kind) for kind in arguments if kind is not type(None))
    if origin is list:
        return f"list of {_values(arguments[0])}"
    if origin is dict:
        return f"object: text → {_values(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "object"
    word = {int: "integer", float: "number", str: "text", bool: "`true`, `false`"}[annotation]
    return ", ".join([word, *_bounds(bounds)])


def _bounds(constraints: Iterable[Any]) -> Iterator[str]:
    """≥ 0 and the like, from `Field(ge=0)` and from what pydantic makes of it."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    for constraint in constraints:
        inner = constraint.metadata if isinstance(constraint, FieldInfo) else [constraint]
        for bound in inner:
            for name, sign in signs.items():
                if hasattr(bound, name):
                    yield f"{sign} {getattr(bound, name)}"


def main() -> None:
    (DOCS / "config.md").write_text(reference(), encoding="utf-8")
    page = DOCS / "run-directory.md"
    page.write_text(run_directory(page.read_text(encoding="utf-8")), encoding="utf-8")
    (DOCS / "compare.schema.json").write_text(schema(Comparison), encoding="utf-8")
    (DOCS / "config.schema.json").write_text(schema(), encoding="utf-8")


if __name__ == "__main__":
    main()
