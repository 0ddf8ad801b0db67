"""A study of how many images a network needs: accuracy against the number of training images."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from sfl.comparison.schema import Comparison, Grid, Model
from sfl.pictures import WIDE, Picture, add_legend, add_title, line_styles, log_ticks, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = list[tuple[int, Model]]  # models with their numbers of training images, the fewest first


def efficiency(comparison: Comparison, title: str) -> list[Picture]:
    """Of a study with an axis of numbers of training images: a line for each variant of the other
    axis; else nothing."""
    grid = comparison.grid
    axis = _axis_of_images(comparison, grid) if grid else None
    if grid is None or axis is None:
        return []
    lines = _lines(comparison, grid, axis)
    caption = (
        "Test accuracy against the number of training images; bars: 95 % intervals, over seeds or, "
        "of one run, images."
    )
    width, height = WIDE
    rows = -(-len(lines) // 2) if len(lines) > 1 else 0
    draw = partial(_draw, lines, title)
    return [Picture("accuracy-by-images", caption, draw, (width, height + 0.2 * rows))]


def _axis_of_images(comparison: Comparison, grid: Grid) -> str | None:
    """The axis each of whose variants has one number of training images, not all the same."""
    for axis in grid.axes:
        counts: dict[str, set[int]] = {}
        for cell, count in zip(grid.cells, comparison.data.train_images, strict=True):
            counts.setdefault(cell.variants[axis], set()).add(count)
        if all(len(of) == 1 for of in counts.values()) and len(set.union(*counts.values())) > 1:
            return axis
    return None


def _lines(comparison: Comparison, grid: Grid, axis: str) -> dict[str, Line]:
    """By the variant of the other axis; of a study with one axis, one without a name."""
    lines: dict[str, Line] = {}
    cells = zip(grid.cells, comparison.models, comparison.data.train_images, strict=True)
    for cell, model, count in cells:
        others = [variant for of, variant in cell.variants.items() if of != axis]
        lines.setdefault(", ".join(others), []).append((count, model))
    return {name: sorted(line, key=lambda one: one[0]) for name, line in lines.items()}


def _draw(lines: dict[str, Line], title: str, figure: "Figure") -> None:
    axes, drawn = figure.add_subplot(), []
    for style, (name, line) in zip(line_styles(len(lines)), lines.items(), strict=True):
        counts, values = [count for count, _ in line], [100 * model.accuracy for _, model in line]
        bars = list(zip(*(interval_bar(model) for _, model in line), strict=True))
        looks = {"markersize": 5, "capsize": 3, "label": shorten(name), **style}
        drawn.append(axes.errorbar(counts, values, bars, **looks))
    counts = sorted({count for line in lines.values() for count, _ in line})
    axes.set_xscale("log")
    log_ticks(axes.xaxis, (1.0, 2.0, 5.0) if counts[-1] / counts[0] < 200 else (1.0,))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("training images")
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.25)
    add_title(figure, title)
    if len(lines) > 1:
        add_legend(figure, drawn, loc="outside lower left", ncols=2)


def interval_bar(model: Model) -> Sequence[float]:
    """How far its interval goes below and above its accuracy, in points."""
    low, high = model.accuracy_interval or (model.accuracy, model.accuracy)
    return max(0.0, 100 * (model.accuracy - low)), max(0.0, 100 * (high - model.accuracy))
