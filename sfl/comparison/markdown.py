"""A comparison in Markdown, in which no name has a meaning of its own."""

import re
from collections.abc import Sequence

from sfl.comparison.cells import sheets
from sfl.comparison.schema import Comparison
from sfl.comparison.table import rows
from sfl.units import one_line


def to_markdown(comparison: Comparison) -> str:
    """The tables, the remarks, the conclusion and the methods."""
    parts = []
    for sheet in sheets(comparison):
        parts += [f"{escaped(sheet.title)}:", _table(sheet.head, sheet.rows)]
    parts.append(_table(["", *(model.name for model in comparison.models)], rows(comparison)))
    parts.append("\n".join(f"- {escaped(remark)}" for remark in comparison.remarks))
    parts += map(escaped, comparison.conclusion)
    if comparison.methods:
        parts.append(f"**Methods.** {escaped(' '.join(comparison.methods))}")
    return "\n\n".join(filter(None, parts)) + "\n"


def _table(head: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)]]
    lines += [[label.strip(), *cells] for label, cells in rows]
    return "\n".join(f"| {' | '.join(map(escaped, line))} |" for line in lines)


def escaped(text: str) -> str:
    """Text on one line in which no sign has a meaning in Markdown, nor in GitHub's."""
    inner = re.sub(r"([\\`*_\[\]<|&$~])", r"\\\1", one_line(text))
    # What makes a heading, a quotation or a list of a line that begins with it.
    return re.sub(r"^(\d*)(>|#+(?=\s)|[+-](?=\s)|(?<=\d)[.)](?=\s))", r"\1\\\2", inner)
