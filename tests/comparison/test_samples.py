"""Accuracy against the number of training images: which studies have it, and what is drawn."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from sfl.comparison.compute import compare
from sfl.comparison.model import ComparedModel
from sfl.comparison.results import read_result
from sfl.comparison.samples import efficiency
from sfl.comparison.schema import Cell, Comparison, Grid
from sfl.config.grid import load_grid
from sfl.config.load import from_text
from sfl.runs.directory import Run
from tests.conftest import TINY, make_run

ACCURACY = {("a", "all"): 0.7, ("a", "few"): 0.4, ("b", "all"): 0.6, ("b", "few"): 0.5}


def study(path: Path, images: dict[str, int]) -> Comparison:
    """Two networks by numbers of training images."""
    models, cells = [], []
    for (network, variant), accuracy in ACCURACY.items():
        name, count = f"{network}-{variant}", images[variant]
        run = make_run(path / name, accuracy=accuracy, train_images=count)
        config = from_text(TINY, "c.yaml")
        models.append(ComparedModel(name, config, results=[read_result(Run(run))]))
        variants, none = {"network": network, "images": variant}, {"network": None, "images": None}
        cells.append(Cell(model=name, variants=variants, gaps=none, trials=[], chosen={}))
    axes = {"network": ["a", "b"], "images": list(images)}
    grid = Grid(name="study", axes=axes, cells=cells)
    return compare(models).model_copy(update={"grid": grid})


def test_a_line_for_each_variant_of_the_other_axis(tmp_path: Path) -> None:
    (picture,) = efficiency(study(tmp_path, {"all": 50_000, "few": 500}), "title")
    figure = Figure(figsize=picture.size)
    picture.draw(figure)
    (axes,) = figure.axes
    lines: list[Any] = [bars.lines[0] for bars in axes.containers]  # type: ignore[attr-defined]
    assert [bars.get_label() for bars in axes.containers] == ["a", "b"]
    assert [list(line.get_xdata()) for line in lines] == [[500, 50_000]] * 2
    assert [list(line.get_ydata()) for line in lines] == [
        pytest.approx([40, 70]), pytest.approx([50, 60])
    ]  # fmt: skip
    assert axes.get_xscale() == "log" and picture.name == "accuracy-by-images"


def test_no_picture_where_no_axis_is_of_numbers_of_images(tmp_path: Path) -> None:
    alike = study(tmp_path / "alike", {"all": 64, "few": 64})
    assert efficiency(alike, "title") == []
    assert efficiency(alike.model_copy(update={"grid": None}), "title") == []


def test_the_example_is_a_study_of_them() -> None:
    grid = load_grid("grids/sample-efficiency")
    assert len(grid.cells) == 12
    counts = [cell.config.data.train_images for cell in grid.cells[:6]]
    assert counts == [None, 20_000, 10_000, 5_000, 2_000, 1_000]
    for cell in grid.cells:
        left = cell.config.data.train_images or 45_000
        assert -(-left // cell.config.data.batch_size) * cell.config.train.epochs > 2300
