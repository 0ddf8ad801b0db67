"""The picture of a run's measures: what it draws, and what theory predicts."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from torch import nn

from sfl.nn.spatial import SpatialFeatureLayer
from sfl.plots.measures import DECREASE, PANELS, measures_pictures, predictions
from tests.conftest import call_sfl as sfl
from tests.training.tiny import tiny_config

VALUES = {"gradient_angle": 40.0, "feedback_distance": 2.0, "feedback_angle": 50.0}
LINES: list[dict[str, Any]] = [
    {"epoch": 1},
    {"epoch": 2, "measures": {"a": {"gradient_angle": 9.0}, "b": VALUES}, "lr_sum": 1.0,
     "probe_decrease": 0.1},
    {"epoch": 4, "measures": {"a": {"gradient_angle": 8.0}, "b": VALUES}, "lr_sum": 3.0,
     "probe_decrease": None},
]  # fmt: skip
SGD = "optimizer={name: sgd, lr: 0.1, weight_decay: 0.05, momentum: 0.5}"


def drawn(predicted: Any = None) -> dict[str, dict[str, list[list[float]]]]:
    """By panel and label: the points of its lines."""
    (picture,) = measures_pictures(LINES, predicted or {}, "a run")
    figure = Figure(picture.size)
    picture.draw(figure)
    return {
        axes.get_ylabel(): {
            str(line.get_label()): [list(map(float, point)) for point in line.get_xydata()]  # type: ignore[union-attr,arg-type]
            for line in axes.lines
        }
        for axes in figure.axes
        if axes.axison
    }


def test_a_panel_a_measure_and_a_line_a_layer() -> None:
    found = drawn({"feedback_distance": {"b": [(2, 2.0), (4, 1.0)]}})
    assert list(found) == [*(PANELS[n] for n in PANELS if n in VALUES), DECREASE]
    angles = found[PANELS["gradient_angle"]]
    assert angles == {"a": [[2, 9], [4, 8]], "b": [[2, 40], [4, 40]]}
    assert found[PANELS["feedback_distance"]]["predicted"] == [[2, 2], [4, 1]]
    assert found[DECREASE]["all layers"] == [[2, 0.1]]
    assert measures_pictures([{"epoch": 1}], {}, "not measured") == []


def test_kp_is_predicted_by_decay_and_learning_rates() -> None:
    config = tiny_config(SGD, "learn.rule=kp")
    found = predictions(config, LINES, nn.Sequential(), {})
    (second, fourth) = found["feedback_distance"]["b"]
    assert second == (2, 2.0) and fourth[0] == 4
    assert fourth[1] == pytest.approx(2 * math.exp(-0.05 / (1 - 0.5) * (3 - 1)))
    muon = SGD.replace("sgd", "muon")  # whose decay is beside its momentum
    (_, fourth) = predictions(tiny_config(muon, "learn.rule=kp"), LINES, nn.Sequential(), {})[
        "feedback_distance"
    ]["b"]
    assert fourth[1] == pytest.approx(2 * math.exp(-0.05 * (3 - 1)))
    assert predictions(tiny_config(SGD), LINES, nn.Sequential(), {}) == {}
    spatial = ("model.layer=spatial", "learn.sleep.every=2", "learn.rule=kp")
    assert predictions(tiny_config(SGD, *spatial), LINES, nn.Sequential(), {}) == {}


@pytest.mark.parametrize(
    ("layer", "inputs", "samples"),
    [
        (nn.Linear(30, 4), 30, 1),
        (nn.Conv2d(2, 4, 3), 18, 25),
        (SpatialFeatureLayer((2, 7, 7), 4, 3), 18, 1),
    ],
    ids=["linear", "conv", "local"],
)
def test_mirror_is_predicted_by_the_number_of_samples(
    layer: nn.Module, inputs: int, samples: int
) -> None:
    config = tiny_config("learn={rule: mirror, mirror: {images: 10, rate: 0.5}}")
    model = nn.Sequential()
    model.add_module("b", layer)
    found = predictions(config, LINES, model, {"b": 25} if inputs == 18 else {})
    angle = math.degrees(math.atan(math.sqrt(inputs / (samples * 10 * 1.5 / 0.5))))
    ((second, at_second), (fourth, at_fourth)) = found["feedback_angle"]["b"]
    assert (second, fourth) == (2, 4)
    assert at_second == at_fourth == pytest.approx(angle)


def test_sfl_plot_draws_them(tiny: Path, tmp_path: Path) -> None:
    done = sfl(
        "train", "--config", tiny, "--name", "kp", "--runs", tmp_path, "--set", "learn.rule=kp",
        "--set", "train.measure_every=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shown = json.loads(sfl("plot", "kp", "--runs", tmp_path, "--json").stdout)["pictures"]
    (caption,) = [one["caption"] for one in shown if one["name"] == "measures"]
    assert "predicts" in caption
    for suffix in ("svg", "png"):
        assert (tmp_path / "kp" / "plots" / f"measures.{suffix}").stat().st_size > 1000
