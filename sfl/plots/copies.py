"""Pictures of tests on copies of the test images: the map of shifts, errors by corruption.

Of one run or of several models side by side. Knows no files and no comparison.
"""

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from sfl.pictures import SEQUENTIAL, Picture, add_legend, add_title, line_styles, shorten
from sfl.runs.records import Corrupted, Shifts

if TYPE_CHECKING:
    from matplotlib.figure import Figure


ACROSS = 3  # maps beside each other


def pictures(tested: Mapping[str, Any], title: str) -> list[Picture]:
    """What there is of each model; none where there is nothing.

    tested: by name, what has `shifts` and `corrupted`: a run's record, or a comparison's model.
    title: without n, which stands beside each name: not all runs need have been tested so.
    """
    shifts = {name: one.shifts for name, one in tested.items() if one.shifts}
    corrupted = {name: one.corrupted for name, one in tested.items() if one.corrupted}
    found = []
    if shifts:
        columns, rows = min(len(shifts), ACROSS), -(-len(shifts) // ACROSS)
        caption = (
            "Test accuracy of images moved down and right by so many pixels (up and left: less "
            "than zero)."
        )
        draw, size = partial(_maps, shifts, title), (2.2 * columns + 1.2, 2.4 * rows + 0.6)
        found.append(Picture("shifts", caption, draw, size))
    if corrupted:
        names = dict.fromkeys(name for each in corrupted.values() for name in each.error)
        caption = (
            "Test error on corrupted images: a line for each severity, a large mark for their mean."
        )
        height = 1.4 + len(names) * (0.12 + 0.13 * len(corrupted))
        draw = partial(_errors, corrupted, list(names), title)
        found.append(Picture("corruptions", caption, draw, (5.2, height)))
    return found


def _label(name: str, found: Shifts | Corrupted) -> str:
    """A model's name, and how many of its runs were tested so; a run's own record doesn't say."""
    return f"{shorten(name, 20)}, n = {getattr(found, 'runs', 1)}"


def _maps(shifts: Mapping[str, Shifts], title: str, figure: "Figure") -> None:
    """One colour scale for all."""
    columns, rows = min(len(shifts), ACROSS), -(-len(shifts) // ACROSS)
    each = [100 * value for one in shifts.values() for row in one.accuracy for value in row]
    low, high = min(each), max(max(each), min(each) + 1e-9)
    drawn, axes = None, []
    for place, (name, one) in enumerate(shifts.items(), 1):
        axes.append(figure.add_subplot(rows, columns, place))
        edge = one.pixels + 0.5
        drawn = axes[-1].imshow(
            [[100 * value for value in row] for row in one.accuracy],
            cmap=SEQUENTIAL, vmin=low, vmax=high, extent=(-edge, edge, edge, -edge),
        )  # fmt: skip
        axes[-1].set_title(_label(name, one))
        axes[-1].set_xlabel("right, pixels")
        axes[-1].set_ylabel("down, pixels")
    assert drawn is not None
    figure.colorbar(drawn, ax=axes, label="test accuracy, %")
    add_title(figure, title)


def _errors(
    corrupted: Mapping[str, Corrupted], names: list[str], title: str, figure: "Figure"
) -> None:
    axes, marks, count = figure.add_subplot(), [], len(corrupted)
    for number, (model, one) in enumerate(corrupted.items()):
        place = {name: at + (number + 0.5) / count * 0.7 - 0.35 for at, name in enumerate(names)}
        known = {name: [100 * error for error in each] for name, each in one.error.items()}
        every = [(error, place[name]) for name, each in known.items() for error in each]
        means = [(sum(each) / len(each), place[name]) for name, each in known.items()]
        colour, marker = f"C{number}", line_styles(count)[number]["marker"]
        axes.plot(*zip(*every, strict=True), ls="", marker="|", color=colour, alpha=0.6)
        marks += axes.plot(
            *zip(*means, strict=True), ls="", marker=marker, color=colour, label=_label(model, one)
        )
    for between in range(1, len(names)):
        axes.axhline(between - 0.5, color="0.9", lw=0.5, zorder=0)
    axes.set_yticks(range(len(names)), [shorten(name.replace("_", " "), 20) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel("test error, %")
    axes.set_xlim(0, 100)
    axes.grid(axis="x", alpha=0.25)
    add_title(figure, title)
    add_legend(figure, marks, loc="outside lower left", ncols=2)
