"""The pictures of a comparison with few and many classes, equal answers, names of any kind."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from sfl.comparison.compute import compare
from sfl.comparison.figures import pictures
from sfl.comparison.model import ComparedModel
from sfl.comparison.results import read_result
from sfl.config.load import from_text
from sfl.pictures import ON_LIGHT, Picture
from sfl.plots.test_images import TestImages
from sfl.runs.directory import Run
from tests.conftest import make_run


def model(path: Path, name: str, classes: Sequence[str], right: Sequence[bool]) -> ComparedModel:
    """A run with one test image of each class. Wrong ones are taken for the class after theirs."""
    labels = np.arange(len(classes))
    predictions = np.where(right, labels, (labels + 1) % len(classes))
    confusion = np.zeros((len(classes), len(classes)), int)
    confusion[labels, predictions] = 1
    accuracies = {each: float(is_right) for each, is_right in zip(classes, right, strict=True)}
    make_run(path / "run", right=right, per_class=accuracies, confusion=confusion.tolist())
    np.save(path / "run" / "labels.npy", labels)
    np.save(path / "run" / "predictions.npy", predictions)
    config = from_text("model: {name: SimpleModel}\n", "c.yaml")
    return ComparedModel(name, config, results=[read_result(Run(path / "run"))])


def drawn(
    path: Path, names: Sequence[str], classes: Sequence[str], *right: Sequence[bool]
) -> dict[str, tuple[Picture, Figure]]:
    models = [
        model(path / str(place), name, classes, each)
        for place, (name, each) in enumerate(zip(names, right, strict=True))
    ]
    pixels = torch.zeros(len(classes), 3, 4, 4, dtype=torch.uint8)
    images = TestImages(pixels, torch.arange(len(classes)), tuple(classes))
    found = {}
    for picture in pictures(compare(models), models, images):
        figure = Figure(figsize=picture.size)
        picture.draw(figure)
        found[picture.name] = picture, figure
    return found


def labels(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.get_ticklabels()]


@pytest.mark.parametrize(
    ("count", "rows", "every", "bars"),
    [(1, 1, 1, 1), (2, 2, 1, 2), (20, 20, 1, 20), (100, 100, 3, 40), (201, 40, 1, 40)],
)
def test_any_number_of_classes(
    tmp_path: Path, count: int, rows: int, every: int, bars: int
) -> None:
    """Names that can be read, and of many classes those in which the models differ most."""
    classes = [f"class {place}" for place in range(count)]
    differing = {place for place in range(count) if place % 7 == 3}
    right = [[True] * count, [place not in differing for place in range(count)]]
    found = drawn(tmp_path, ("a", "b"), classes, *right)
    picture, figure = found["confusion-b-against-a"]
    axes = figure.axes[0]
    assert axes.images[0].get_array().shape == (rows, rows)  # type: ignore[union-attr]
    assert len(labels(axes.yaxis)) == len(labels(axes.xaxis)) == -(-rows // every) <= 40
    assert bool(axes.texts) == (rows <= 20) == (len(figure.axes) == 1)  # numbers, or a scale
    few = "the 40 of 201 classes in which the models differ most"
    assert (few in picture.caption) == (count == 201)
    (axes,) = found["classes"][1].axes
    assert len(labels(axes.yaxis)) == bars
    shown = {int(name.removeprefix("class ")) for name in labels(axes.yaxis)}
    assert shown >= differing


def test_equal_answers_leave_no_picture_of_images(tmp_path: Path) -> None:
    found = drawn(tmp_path, ("a", "b"), ["x", "y"], [True, False], [True, False])
    assert not [name for name in found if name.startswith("images")]


def test_digits_are_said_to_be_classes_and_images(tmp_path: Path) -> None:
    right = [True, True, False], [False, True, True]
    picture, figure = drawn(tmp_path, ("a", "b"), ["0", "1", "2"], *right)["images-b"]
    cells = [axes for axes in figure.axes if axes.images]
    assert [(axes.get_title(), axes.get_xlabel()) for axes in cells] == [
        ("is: 0\ntaken for: 1", "image 0"), ("is: 2\ntaken for: 0", "image 2"),
    ]  # fmt: skip
    assert picture.size[1] < 3.5  # a row for each side


def test_names_that_begin_with_an_underscore_have_their_line_in_legends(tmp_path: Path) -> None:
    """matplotlib leaves such labels out."""
    names = ("_a", "b", "c", "d", "_e")  # so many have a legend beside the points, too
    found = drawn(tmp_path, names, ["x", "y"], *[[True, False]] * 5)
    for name in ("loss", "classes", "accuracy-by-weights"):
        (axes,) = found[name][1].axes
        (legend,) = [axes.get_legend()] if name == "loss" else found[name][1].legends
        assert legend is not None
        assert [text.get_text() for text in legend.get_texts()] == list(names)


def test_of_many_models_each_has_its_look_and_no_legend_hides_a_curve(tmp_path: Path) -> None:
    names = [f"m{place}" for place in range(12)]
    found = drawn(tmp_path, names, ["x", "y"], *[[True, False]] * 12)
    (axes,) = found["loss"][1].axes
    colours = len(ON_LIGHT)
    looks = {(n % colours, str(line.get_marker())) for n, line in enumerate(axes.lines)}
    assert len(looks) == 12 and axes.get_legend() is None
    assert [text.get_text() for text in found["loss"][1].legends[0].get_texts()] == names


def test_letters_of_three_bytes_leave_a_file_its_name(tmp_path: Path) -> None:
    found = drawn(tmp_path, ("猫" * 60, "犬" * 60), ["x", "y"], [True, False], [False, True])
    assert max(len(f"{name}.svg".encode()) for name in found) < 255


def test_how_models_learn_is_drawn_of_those_that_measured_it(tmp_path: Path) -> None:
    def shown(*lines: dict[str, Any]) -> dict[str, Figure]:
        path = tmp_path / str(len(lines))
        models = [model(path / name, name, ["a", "b"], [True, False]) for name in ("one", "two")]
        metrics = path / "one" / "run" / "metrics.jsonl"
        first = json.loads(metrics.read_text())
        metrics.write_text("".join(json.dumps(first | line) + "\n" for line in lines))
        newest = read_result(Run(path / "one" / "run"))
        models[0] = dataclasses.replace(models[0], results=[newest, *models[0].results[1:]])
        found = {}
        for picture in pictures(compare(models), models, None):
            found[picture.name] = Figure(figsize=picture.size)
            picture.draw(found[picture.name])
        return found

    layers: dict[str, dict[str, float]]
    layers = {"a": {"gradient_angle": 10.0}, "b": {"gradient_angle": 20.0, "error_rank": 9.0}}
    found = shown({}, {"epoch": 2, "measures": layers, "probe_decrease": 0.25})
    for name, value in (("gradient-angle", 15.0), ("error-rank", 9.0), ("probe-decrease", 0.25)):
        (line,) = found[name].axes[0].lines
        assert line.get_label() == "one" and line.get_xydata().tolist() == [[2, value]]  # type: ignore[union-attr]
    # With a layer that doesn't learn there is no mean over all.
    layers["c"] = {"gradient_ratio": 0.0}
    drawn = shown({}, {}, {"measures": layers, "probe_decrease": 0.25}).keys()
    assert {"gradient-angle", "probe-decrease"} & drawn == {"probe-decrease"}
    assert not {"gradient-angle", "probe-decrease"} & shown({}).keys()
