"""Tests on copies of the test images as lines and tables. Computes nothing."""

from collections.abc import Iterator

from sfl.cli.layout import Table
from sfl.cli.tables import shaded
from sfl.runs.records import Copies, Corrupted, Shifts


def copies_lines(copies: Copies) -> Iterator[str]:
    """A line for each test, in the style of that of the test accuracy."""
    if views := copies.views:
        low, high = views.accuracy_interval
        yield (
            f"mean over {views.count} views: accuracy {views.accuracy:.2%} (95 % interval "
            f"{low:.2%} to {high:.2%})  loss {views.loss:.3f}"
        )
    if shifts := copies.shifts:
        each = [one for row in shifts.accuracy for one in row]
        yield (
            f"moved by up to {shifts.pixels} pixels each way, filled with {shifts.fill}: accuracy "
            f"{shifts.mean:.2%} on average, {min(each):.2%} to {max(each):.2%}"
        )
    if corrupted := copies.corrupted:
        count = len(corrupted.in_the_mean)
        yield (
            f"error on corrupted images {corrupted.mean_error:.2%}, mean over "
            f"{count} corruption{'s' * (count > 1)} and the severities"
        )


def copies_tables(copies: Copies) -> Iterator[Table]:
    if copies.shifts:
        yield _shifts_table(copies.shifts)
    if copies.corrupted:
        yield _corrupted_table(copies.corrupted)


def _shifts_table(shifts: Shifts) -> Table:
    """Odd columns may be left out on a narrow terminal."""
    moves = [f"{move:+d}" if move else "0" for move in range(-shifts.pixels, shifts.pixels + 1)]
    odd = [name for name in moves if int(name) % 2]
    title = "accuracy in % of images moved down (rows) and right (columns) by so many pixels"
    made = Table(["pixels", *moves], title, sorted(odd, key=lambda name: -abs(int(name))))
    each = [one for row in shifts.accuracy for one in row]
    for name, row in zip(moves, shifts.accuracy, strict=True):
        made.add_row(name, *(shaded(f"{100 * v:.1f}", v, min(each), max(each)) for v in row))
    return made


def _corrupted_table(corrupted: Corrupted) -> Table:
    severities = range(1, 1 + max(map(len, corrupted.error.values())))
    made = Table(["error, %, by severity", *map(str, severities), "mean"])
    for name, errors in corrupted.error.items():
        extra = "" if name in corrupted.in_the_mean else " (not in the mean)"
        texts = [f"{100 * error:.1f}" for error in (*errors, sum(errors) / len(errors))]
        made.add_row(f"{name}{extra}", *texts)
    return made
