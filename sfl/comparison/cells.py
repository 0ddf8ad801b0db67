"""A study's cells as tables: accuracy by its two axes, and what each cell tried and chose."""

from dataclasses import dataclass, field

from sfl.comparison.schema import Cell, Comparison, Grid, Model
from sfl.comparison.table import NONE, mean_explained, mean_text
from sfl.units import percent_text, points_text


@dataclass(frozen=True)
class Sheet:
    """A table: each row has a label, and a text for each column but the first.

    values: what a cell is coloured by, by (row, column); most have none. gaps: of some of these, as
    in the rows below: to the first of the column (↕) and of the row (↔).
    """

    title: str
    head: list[str]
    rows: list[tuple[str, list[str]]]
    values: dict[tuple[int, int], float]
    gaps: dict[tuple[int, int], list[str]] = field(default_factory=dict)


def sheets(comparison: Comparison) -> list[Sheet]:
    """Of a study with two axes its cells, of one that has tuned its trials; else nothing."""
    found = [by_axes(comparison), _trials(comparison)]
    return [sheet for sheet in found if sheet is not None]


def by_place(comparison: Comparison, grid: Grid) -> dict[tuple[str, str], tuple[Model, Cell]]:
    """The cells of a study with two axes by their variants of the first and of the second."""
    pairs = zip(comparison.models, grid.cells, strict=True)
    return {tuple(cell.variants[axis] for axis in grid.axes): (m, cell) for m, cell in pairs}  # type: ignore[misc]


def by_axes(comparison: Comparison) -> Sheet | None:
    """Accuracy by two axes, with the gaps to the first variants; None without two axes."""
    grid = comparison.grid
    if grid is None or len(grid.axes) < 2:
        return None
    (down, rows), (across, columns) = grid.axes.items()
    places = by_place(comparison, grid)
    counted = len({model.n for model in comparison.models}) > 1
    made, values = list[tuple[str, list[str]]](), dict[tuple[int, int], float]()
    gaps = dict[tuple[int, int], list[str]]()
    for row in rows:
        here, found = len(made), [places.get((row, column)) for column in columns]
        for number, one in enumerate(found):
            if one:
                values[here, number] = one[0].accuracy
        made.append((row, [_mean(one[0], counted) if one else NONE for one in found]))
        cells = [one and one[1] for one in found]
        for sign, axis, first in (("↕", down, rows[0]), ("↔", across, columns[0])):
            texts = [_gap(cell, axis, first) for cell in cells]
            for number, text in enumerate(texts):
                if text != NONE:
                    gaps.setdefault((here, number), []).append(f"{sign} {text}")
            if any(text != NONE for text in texts):
                made.append((f"  gap to {first}, points", texts))
    return Sheet(mean_explained(comparison), [f"{down} × {across}", *columns], made, values, gaps)


def _mean(model: Model, counted: bool) -> str:
    return f"{mean_text(model)} (n\u00a0=\u00a0{model.n})" if counted else mean_text(model)


def _gap(cell: Cell | None, axis: str, first: str) -> str:
    if cell is None or cell.variants[axis] == first:
        return NONE
    gap = cell.gaps[axis]
    return NONE if gap is None else points_text(gap)


def _trials(comparison: Comparison) -> Sheet | None:
    cells = comparison.grid.cells if comparison.grid else []
    tried = {_values(trial.values): None for cell in cells for trial in cell.trials}
    if not tried:
        return None
    rows = []
    for cell in cells:
        accuracy = {_values(trial.values): trial.accuracy for trial in cell.trials}
        texts = [_tried(accuracy[each]) if each in accuracy else NONE for each in tried]
        edges = [edge for key in cell.chosen if (edge := _edge(cell, key))]
        rows.append((cell.model, [*texts, "; ".join([_values(cell.chosen), *edges])]))
    title = "validation accuracy of what each cell tried, with one seed, and what it chose"
    return Sheet(title, ["cell", *tried, "chosen"], rows, {})


def _edge(cell: Cell, key: str) -> str:
    """Of a number chosen at the end of those tried that it is: a better one may lie beyond."""
    tried = [each for trial in cell.trials if isinstance(each := trial.values[key], int | float)]
    if len(tried) < len(cell.trials) or len(set(tried)) < 3:
        return ""
    ends = {min(tried): "the lowest tried", max(tried): "the highest tried"}
    return ends.get(cell.chosen[key], "")  # type: ignore[call-overload, no-any-return]


def _tried(accuracy: float | None) -> str:
    return "diverged" if accuracy is None else percent_text(accuracy)


def _values(values: dict[str, object]) -> str:
    return ", ".join(f"{key.rpartition('.')[2]} = {value}" for key, value in values.items())
