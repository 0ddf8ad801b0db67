"""The heat map of a study with two axes: accuracy and gaps of each cell, printed in it."""

from functools import partial
from typing import TYPE_CHECKING, Any

from sfl.comparison.cells import Sheet, by_axes
from sfl.comparison.schema import Comparison
from sfl.pictures import SEQUENTIAL, Picture, add_title, ink_on, shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def heat_map(comparison: Comparison, title: str) -> list[Picture]:
    """Of a study with two axes: accuracy by both, the numbers in the cells; else nothing."""
    sheet = by_axes(comparison)
    if sheet is None:
        return []
    size = (1.6 + 1.0 * (len(sheet.head) - 1), 1.6 + 0.7 * len({row for row, _ in sheet.values}))
    caption = (
        f"{sheet.title[0].upper()}{sheet.title[1:]}. Under each number, in points: ↕ the gap to "
        "the first row, ↔ to the first column."
    )
    return [Picture("heat-map", caption, partial(_cells, sheet, title), size)]


def _cells(sheet: Sheet, title: str, figure: "Figure") -> None:
    import matplotlib
    import numpy as np

    axes = figure.add_subplot()
    rows = sorted({row for row, _ in sheet.values})
    values = np.full((len(rows), len(sheet.head) - 1), np.nan)
    for (row, column), value in sheet.values.items():
        values[rows.index(row), column] = 100 * value
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    high = max(high, low + 1e-9)  # all cells equal: one colour
    drawn = axes.imshow(values, cmap=SEQUENTIAL, vmin=low, vmax=high, aspect="auto")
    colours = matplotlib.colormaps[SEQUENTIAL]
    for (row, column), value in sheet.values.items():
        text = sheet.rows[row][1][column].replace(" ±", "\n±").replace(" (", "\n(")
        ink = ink_on(colours((100 * value - low) / (high - low)))
        looks: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 8, "color": ink}
        place = rows.index(row)
        axes.text(column, place - 0.1, text, **looks)
        gaps = "  ".join(sheet.gaps.get((row, column), ()))
        axes.text(column, place + 0.33, gaps, **{**looks, "fontsize": 6})
    down, _, across = sheet.head[0].partition(" × ")
    names = [shorten(name, 14) for name in sheet.head[1:]]
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), [shorten(sheet.rows[row][0], 20) for row in rows])
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    axes.spines[:].set_visible(False)
    figure.colorbar(drawn, ax=axes, label="test accuracy, %")
    add_title(figure, title)
