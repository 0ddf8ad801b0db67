"""Sizes, counts, times and fractions as short text for tables; names as they can be shown."""

import csv
import io
import unicodedata
from collections.abc import Iterable, Mapping, Sequence


def bytes_text(count: float) -> str:
    """4,096 → "4.1 kB"."""
    return _scaled(count, ("B", "kB", "MB", "GB", "TB"))


def count_text(count: float) -> str:
    """14,431,088 → "14.4 M"."""
    return _scaled(count, ("", "k", "M", "G", "T")).strip()


def _scaled(count: float, units: Sequence[str]) -> str:
    *smaller, largest = units
    for unit in smaller:
        digits = 0 if unit == smaller[0] else 1
        if round(count, digits) < 1000:
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    return f"{count:.1f} {largest}"


def age_text(seconds: float) -> str:
    """90 → "1 min"; of a file from the future "0 s"."""
    seconds = max(0.0, seconds)
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit}"
    return f"{seconds:.0f} s"


def seconds_text(seconds: float) -> str:
    """7.25 → "7.2 s", 125 → "2 min 05 s", 7300 → "2 h 02 min"."""
    if round(seconds, 1) < 100:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def points_text(fraction: float) -> str:
    """-0.0769 → "−7.69": a difference of accuracies in percentage points, with its sign."""
    text = f"{100 * fraction:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "−")


def percent_text(fraction: float) -> str:
    """0.5752 → "57.52 %"."""
    return f"{100 * fraction:.2f} %"


def one_line(name: str) -> str:
    """A name without signs that break lines or turn their direction: each is shown as "�".

    Neither has it bytes that are not UTF-8 (surrogates), nor what XML can't hold.
    """
    return "".join("�" if _is_unseen(sign) else sign for sign in name)


def listed(words: Iterable[object], joint: str = "and") -> str:
    """[10, 20, 32] → "10, 20 and 32"."""
    *others, last = map(str, words)
    return f"{', '.join(others)} {joint} {last}" if others else last


def few(names: Sequence[str], most: int = 4) -> str:
    """["a", "b", "c"] → "a, b, c"; of more than `most`, "a, b and 3 more"."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """A line of columns, and a line for each row.

    A text that a spreadsheet would run as a formula (`=…`) gets an apostrophe before it.
    """
    written = io.StringIO()
    writer = csv.DictWriter(written, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({column: _cell(value) for column, value in row.items()} for row in rows)
    return written.getvalue()


def _cell(value: object) -> object:
    runs = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if runs else value


def _is_unseen(sign: str) -> bool:
    turns = unicodedata.bidirectional(sign) in BIDI
    return turns or sign in NOT_XML or unicodedata.category(sign) in ("Cc", "Cs", "Zl", "Zp")


BIDI = ("LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI")  # they turn what follows
NOT_XML = "\ufffe\uffff"
