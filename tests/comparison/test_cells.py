"""A study's cells as tables: what stands where, which gaps, what was chosen; colours of cells."""

import csv
import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from rich.text import Text

from sfl.cli.tables import SHADES, sheet_table
from sfl.comparison.cells import by_axes, sheets
from sfl.comparison.figures import pictures
from sfl.comparison.grid import run_grid
from sfl.comparison.markdown import to_markdown
from sfl.comparison.schema import Cell, Comparison, Trial
from sfl.comparison.table import to_csv
from sfl.config.grid import Grid
from tests.comparison.test_grid import study
from tests.stand_ins import configs, images, trained

__all__ = ["configs", "images", "study", "trained"]

ACCURACY = {"local-backprop": 0.6, "local-fa": 0.25, "conv-backprop": 0.7}


def known(comparison: Comparison) -> Comparison:
    """The study's comparison with accuracies of our own, and the gaps that follow from them."""
    assert comparison.grid is not None
    models = []
    for model in comparison.models:
        accuracy = ACCURACY[model.name]
        interval = [accuracy - 0.05, accuracy + 0.02]
        models.append(
            model.model_copy(update={"accuracy": accuracy, "accuracy_interval": interval})
        )
    gaps: list[dict[str, float | None]]
    gaps = [{"sharing": 0, "learning": 0}, {"sharing": 0, "learning": -0.35},
            {"sharing": 0.1, "learning": 0}]  # fmt: skip
    cells: list[Cell] = [
        cell.model_copy(update={"gaps": gap})
        for cell, gap in zip(comparison.grid.cells, gaps, strict=True)
    ]
    grid = comparison.grid.model_copy(update={"cells": cells})
    return comparison.model_copy(update={"models": models, "grid": grid})


def test_cells_by_both_axes_with_their_gaps(study: Grid, runs_dir: Path) -> None:
    comparison = known(run_grid(study, runs_dir)[0])
    table, trials = sheets(comparison)
    assert table.head == ["sharing × learning", "backprop", "fa"]
    assert table.rows == [
        ("local", ["60.00 ± 5.00", "25.00 ± 5.00"]),
        ("  gap to backprop, points", ["–", "−35.00"]),
        ("conv", ["70.00 ± 5.00", "–"]),
        ("  gap to local, points", ["+10.00", "–"]),
    ]
    assert table.title.endswith("shapes, 100 test images, n = 2")
    assert trials.head == ["cell", "lr = 0.1", "lr = 0.2", "lr = 0.3", "chosen"]
    assert trials.rows[1][1] == ["80.00 %", "90.00 %", "100.00 %", "lr = 0.3; the highest tried"]
    text = to_markdown(comparison)
    for label, cells in [*table.rows, *trials.rows]:
        assert f"| {' | '.join([label.strip(), *cells])} |" in text
    last = list(csv.DictReader(io.StringIO(to_csv(comparison))))[2]
    of_the_study = ("variant.", "gap.", "chosen.")
    assert {key: value for key, value in last.items() if key.startswith(of_the_study)} == {
        "variant.sharing": "conv", "variant.learning": "backprop", "gap.sharing": "0.1",
        "gap.learning": "0", "chosen.optimizer.lr": "0.1",
    }  # fmt: skip


def test_what_is_tuned_may_be_lists_or_settings_with_settings(study: Grid, runs_dir: Path) -> None:
    comparison = known(run_grid(study, runs_dir)[0])
    assert comparison.grid is not None
    values: list[dict[str, object]]
    values = [{"data.augment": {"flip": True}}, {"data.augment": {"cutout": 8}}, {"betas": [0.9]}]
    cells = [
        cell.model_copy(
            update={"trials": [Trial(values=tried, run="r", accuracy=0.5)] * 3, "chosen": tried}
        )
        for cell, tried in zip(comparison.grid.cells, values, strict=True)
    ]
    grid = comparison.grid.model_copy(update={"cells": cells})
    comparison = comparison.model_copy(update={"grid": grid})
    assert [cells[-1] for _, cells in sheets(comparison)[1].rows] == [
        "augment = {'flip': True}", "augment = {'cutout': 8}", "betas = [0.9]",
    ]  # fmt: skip
    first, second, third = csv.DictReader(io.StringIO(to_csv(comparison)))
    assert first["chosen.data.augment.flip"] == "True" and third["chosen.betas"] == "0.9"
    assert second["chosen.data.augment.flip"] == "" and second["chosen.data.augment.cutout"] == "8"


def test_cells_with_other_numbers_of_runs_say_so(study: Grid, runs_dir: Path) -> None:
    comparison = known(run_grid(study, runs_dir)[0])
    models = [comparison.models[0].model_copy(update={"n": 1}), *comparison.models[1:]]
    table = by_axes(comparison.model_copy(update={"models": models}))
    assert table is not None and table.rows[0][1][0] == "60.00 ± 5.00 (n\u00a0=\u00a01)"
    assert "n =" not in table.title


def test_a_comparison_has_no_cells(study: Grid, runs_dir: Path) -> None:
    comparison = run_grid(study, runs_dir)[0].model_copy(update={"grid": None})
    assert sheets(comparison) == []


def test_the_higher_the_brighter(study: Grid, runs_dir: Path) -> None:
    table = by_axes(known(run_grid(study, runs_dir)[0]))
    assert table is not None
    cells = [cell for row in sheet_table(table).rows for cell in row if isinstance(cell, Text)]
    assert [str(cell.style) for cell in cells] == [SHADES[3], SHADES[0], SHADES[4]]


def test_a_heat_map_has_the_numbers_in_ink_that_can_be_read(study: Grid, runs_dir: Path) -> None:
    comparison, compared = run_grid(study, runs_dir)
    picture = pictures(known(comparison), compared, None)[0]
    figure = Figure(figsize=picture.size)
    picture.draw(figure)
    axes = figure.axes[0]
    assert picture.name == "heat-map"
    assert {text.get_text(): text.get_color() for text in axes.texts} == {
        "60.00\n± 5.00": "black", "25.00\n± 5.00": "white", "70.00\n± 5.00": "black",
        "": "black", "↔ −35.00": "white", "↕ +10.00": "black",  # gaps to the first cell
    }  # fmt: skip
    array = axes.images[0].get_array()
    assert array is not None
    values = np.asarray(array)
    assert values[0].tolist() == [60, 25] and values[1, 0] == 70
    assert np.ma.getmaskarray(array).tolist() == [[False] * 2, [False, True]]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["local", "conv"]
