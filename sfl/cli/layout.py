"""Tables, lines, JSON and CSV on standard output, whole in every terminal and every encoding.

A table that is too wide first loses the columns that matter least; if that isn't enough, each row
becomes a block of lines. Names and numbers are never broken or cut.
"""

import csv
import io
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from sfl.units import one_line

PLAIN_WIDTH = 160  # of tables that are written to a file or a pipe
GAP = 2  # blanks between columns
Cell = str | Text


@dataclass
class Table:
    """Text in the first column, numbers in the others.

    optional: columns that a narrow terminal may do without, the least important one first.
    prose: whether the last column is text that may be broken between words.
    """

    columns: Sequence[str]
    title: str | None = None
    optional: Sequence[str] = ()
    prose: bool = False
    rows: list[list[Cell]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.columns = list(map(_as_shown, self.columns))
        self.optional = list(map(_as_shown, self.optional))

    def add_row(self, *cells: Cell) -> None:
        self.rows.append([_as_shown(cell) if isinstance(cell, str) else cell for cell in cells])

    def lines(self, width: int) -> list[Text]:
        """The table in lines of at most that many columns, if names and numbers allow it."""
        everything = list(range(len(self.columns)))
        shown, left_out = [*everything], list[str]()
        for name in self.optional:
            if self._width(shown) <= width:
                break
            shown.remove(list(self.columns).index(name))
            left_out.append(name)
        title = wrapped(self.title, width) if self.title else []
        if not self.prose and self._width(shown) > width:
            return [*map(Text, title), *self._blocks(everything)]
        note = f"(not shown in {width} columns: {', '.join(left_out)}; --json has all)"
        notes = wrapped(note, width) if left_out else []
        return [*map(Text, title), *self._aligned(shown, width), *map(Text, notes)]

    def fits(self, width: int) -> bool:
        """Whether all columns do."""
        return self._width(range(len(self.columns))) <= width

    def _widths(self, shown: Sequence[int]) -> list[int]:
        table = [self.columns, *self.rows]
        return [max(_length(row[column]) for row in table) for column in shown]

    def _width(self, shown: Sequence[int]) -> int:
        widths = self._widths(shown)
        return sum(widths) + GAP * (len(widths) - 1)

    def _aligned(self, shown: Sequence[int], width: int) -> list[Text]:
        widths = self._widths(shown)
        made = []
        for number, row in enumerate([self.columns, *self.rows]):
            cells = [row[column] for column in shown]
            line = Text(style="bold" if number == 0 else "")
            for place, (cell, room) in enumerate(zip(cells, widths, strict=True)):
                blanks = " " * (room - _length(cell))
                left = place == 0 or (self.prose and place == len(cells) - 1)
                line.append_text(
                    Text.assemble(cell, blanks) if left else Text.assemble(blanks, cell)
                )
                line.append(" " * GAP if place < len(cells) - 1 else "")
            line.rstrip()
            made += self._broken(line, width, sum(widths[:-1]) + GAP * (len(widths) - 1))
        return made

    def _broken(self, line: Text, width: int, indent: int) -> list[Text]:
        """A line of prose, broken between words; what follows stands below its last column."""
        if not self.prose or line.cell_len <= width:
            return [line]
        head, tail = line.plain[:indent], line.plain[indent:]
        parts = wrapped(tail, max(20, width - indent))
        return [Text((head if n == 0 else " " * indent) + part) for n, part in enumerate(parts)]

    def _blocks(self, shown: Sequence[int]) -> list[Text]:
        """A row is a line with its first cell, and below it a line for each of the others."""
        made = []
        for row in self.rows:
            made.append(Text.assemble(row[shown[0]] or self.columns[0], style="bold"))
            filled = [column for column in shown[1:] if _length(row[column])]
            made += [Text.assemble(f"  {self.columns[n]}: ", row[n]) for n in filled]
        return made


def _length(cell: Cell) -> int:
    return cell.cell_len if isinstance(cell, Text) else cell_len(cell)


def _as_shown(cell: str) -> str:
    """On one line, and as the encoding of standard output will write it: as wide as it looks."""
    encoding, errors = sys.stdout.encoding or "utf-8", sys.stdout.errors or "strict"
    return one_line(cell).encode(encoding, errors).decode(encoding)


def wrapped(text: str, width: int) -> list[str]:
    """Lines broken between words, never inside one; `textwrap` knows no letters of two columns."""
    first, *words = text.split(" ")
    lines = [first]
    for word in words:
        if cell_len(longer := f"{lines[-1]} {word}") <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def width() -> int:
    """Of the terminal; of a file or a pipe, wide enough for all tables."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH


def print_table(table: Table) -> None:
    # Brackets and colons in a name are printed as they are: no markup, no emoji.
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    console.print(text(table, width()))


def text(table: Table, width: int) -> Text:
    """As text that is to be printed as it is."""
    return Text("\n", no_wrap=True, overflow="ignore").join(table.lines(width))


def print_lines(lines: Sequence[str]) -> None:
    """Prints sentences. On a terminal, lines are broken between words."""
    for line in lines:
        print("\n".join(wrapped(line, width())) if sys.stdout.isatty() else line)


def print_json(values: dict[str, Any]) -> None:
    """As ASCII, which is the same in every encoding."""
    print(json.dumps(values, indent=2))


def print_utf8(text: str) -> None:
    """Prints CSV or Markdown, which programs read: in UTF-8, whatever the terminal's encoding."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    print(text, end="")


def print_csv(columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    """A line of columns, and a line for each row, every text as it is, as `print_utf8` prints."""
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    print_utf8(written.getvalue())
