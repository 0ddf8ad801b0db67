"""Tables, lines, JSON and CSV on standard output, whole in every terminal and every encoding.

A table that is too wide first loses the columns that matter least; then its cells are broken
between words; if that isn't enough, each row becomes a block of lines, with all columns. Words and
numbers are never broken or cut.
"""

import io
import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from sfl.progress import wrapped
from sfl.units import csv_text, one_line

PLAIN_WIDTH = 160  # of tables that are written to a file or a pipe
GAP = 2  # blanks between columns
NARROWEST = 12  # no column is made narrower by breaking its cells: "2 min 05 s" stays whole
Cell = str | Text


@dataclass
class Table:
    """Text in the first column, numbers in the others.

    optional: columns that a narrow terminal may do without, the least important one first.
    prose: whether the last column is text that may be broken between words.
    Line breaks and other control characters in names are shown as "�", and what standard output's
    encoding lacks as it will be printed there, so that columns are aligned.
    """

    columns: Sequence[str]
    title: str | None = None
    optional: Sequence[str] = ()
    prose: bool = False
    rows: list[list[Cell]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.columns = list(map(_printed, self.columns))
        self.optional = list(map(_printed, self.optional))

    def add_row(self, *cells: Cell) -> None:
        self.rows.append([_printed(cell) if isinstance(cell, str) else cell for cell in cells])

    def lines(self, width: int) -> list[Text]:
        """The table in lines of at most that many columns, if names and numbers allow it."""
        shown, left_out = self._shown(width)
        title = wrapped(self.title, width) if self.title else []
        widths = self._widths(shown) if self.prose else self._narrowed(shown, width)
        if widths is None:
            return [*map(Text, title), *self._blocks()]
        note = f"(not shown in {width} columns: {', '.join(left_out)}; --json has all)"
        notes = wrapped(note, width) if left_out else []
        return [*map(Text, title), *self._aligned(shown, widths, width), *map(Text, notes)]

    def _shown(self, width: int) -> tuple[list[int], list[str]]:
        """The columns that are shown, as numbers; the names of the others.

        Of the optional columns, the most important ones that there is room for.
        """
        shown = [n for n, name in enumerate(self.columns) if name not in self.optional]
        left_out = []
        for name in reversed(self.optional):
            more = sorted([*shown, self.columns.index(name)])
            if self._width(more) <= width:
                shown = more
            else:
                left_out.append(name)
        return shown, left_out[::-1]

    def fits(self, width: int) -> bool:
        """Whether all columns do."""
        return self._width(range(len(self.columns))) <= width

    def _widths(self, shown: Sequence[int]) -> list[int]:
        table = [self.columns, *self.rows]
        return [max(_length(row[column]) for row in table) for column in shown]

    def _width(self, shown: Sequence[int]) -> int:
        widths = self._widths(shown)
        return sum(widths) + GAP * (len(widths) - 1)

    def _narrowed(self, shown: Sequence[int], width: int) -> list[int] | None:
        """Widths that fit if cells are broken between words; None if even then they don't."""
        widths, least = self._widths(shown), list[int]()
        if self._width(shown) <= width:
            return widths
        for place, column in enumerate(shown):
            words = [wrapped(_plain(row[column]), 1) for row in (self.columns, *self.rows)]
            longest = max(cell_len(word) for cell in words for word in cell)
            least.append(max(NARROWEST, longest + (GAP if place == 0 else 0)))
        while sum(widths) + GAP * (len(widths) - 1) > width:
            can = [place for place, room in enumerate(widths) if room > least[place]]
            if not can:
                return None
            widths[max(can, key=lambda place: widths[place])] -= 1
        return widths

    def _aligned(self, shown: Sequence[int], widths: Sequence[int], width: int) -> list[Text]:
        made = []
        for number, row in enumerate([self.columns, *self.rows]):
            rooms = zip(shown, widths, strict=True)
            parts = [_parts(row[column], room, GAP * (column == 0)) for column, room in rooms]
            for cells in zip_longest(*parts, fillvalue=""):
                made += self._line(cells, widths, width, "bold" if number == 0 else "")
        return made

    def _line(
        self, cells: Sequence[Cell], widths: Sequence[int], width: int, style: str
    ) -> list[Text]:
        """Cells beside each other: one line, or several where the last one is prose."""
        filled = []
        for place, (cell, room) in enumerate(zip(cells, widths, strict=True)):
            blanks = " " * (room - _length(cell))
            left = place == 0 or (self.prose and place == len(cells) - 1)
            filled.append(Text.assemble(*((cell, blanks) if left else (blanks, cell))))
        line = Text(" " * GAP).join(filled)
        line.rstrip()
        line.style = style
        whole = not self.prose or line.cell_len <= width
        return [line] if whole else self._broken(filled, width)

    def _broken(self, cells: Sequence[Text], width: int) -> list[Text]:
        """A row whose last cell is broken between words; what follows stands below that cell.

        If a word has no room there, all of the cell stands below the others.
        """
        blanks = " " * GAP
        head = blanks.join(cell.plain for cell in cells[:-1]) + blanks
        indent, text = cell_len(head), cells[-1].plain
        parts = wrapped(text, max(1, width - indent))
        if max(map(cell_len, parts)) <= width - indent:
            return [Text((" " * indent if n else head) + part) for n, part in enumerate(parts)]
        return [Text(head.rstrip()), *(Text(blanks + part) for part in wrapped(text, width - GAP))]

    def _blocks(self) -> list[Text]:
        """A row is a line with its first cell, and below it a line for each of the others."""
        made = []
        for first, *others in self.rows:
            heading = f"{self.columns[0]}: " if self.columns[0] else ""
            made.append(Text.assemble(heading, first, style="bold"))
            named = zip(self.columns[1:], others, strict=True)
            made += [Text.assemble(f"  {name}: ", cell) for name, cell in named if _length(cell)]
        return made


def _printed(text: str) -> str:
    """As it will look on standard output: one line, with signs that its encoding has."""
    encoding, errors = sys.stdout.encoding or "utf-8", sys.stdout.errors or "strict"
    return one_line(text).encode(encoding, errors).decode(encoding)


def _plain(cell: Cell) -> str:
    return cell.plain if isinstance(cell, Text) else cell


def _length(cell: Cell) -> int:
    return cell_len(_plain(cell))


def _parts(cell: Cell, room: int, indent: int) -> list[Cell]:
    """A cell in lines of at most `room` columns; all but the first begin with `indent` blanks."""
    if _length(cell) <= room:
        return [cell]
    first, *others = wrapped(_plain(cell), room - indent)
    return [first, *(" " * indent + part for part in others)]


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
    for line in map(one_line, lines):
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
    print_utf8(csv_text(columns, rows))
