"""What a run ends with: the numbers of result.json, by hand, and the same again from the file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfl.data.dataset import Dataset, Split
from sfl.errors import Exit, UserError
from sfl.runs.directory import BEST, PREDICTIONS, RESULT
from sfl.runs.records import Result
from sfl.stats import wilson_interval
from sfl.training import memory
from sfl.training import testing as results
from sfl.training.fit import fit
from sfl.training.recorder import Recorder
from sfl.training.setup import Setup, build_learner
from tests.training.tiny import new_run, random_dataset, result, tiny_setup


class Constant(nn.Module):
    """Takes every image for the same class."""

    def __init__(self, label: int, classes: int = 10) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(classes).index_fill(0, torch.tensor(label), 1.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def test_numbers_by_hand(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dataset = random_dataset(test=32)  # labels 0 to 9, in turn: 4 of the first two, 3 of the rest
    monkeypatch.setattr("sfl.training.images.load_dataset", lambda *a, **k: dataset)
    setup = tiny_setup()
    evaluation, found = results.test_model(setup, Constant(1))
    assert found["n"] == 32
    assert found["accuracy"] == 4 / 32
    assert found["accuracy_interval"] == list(wilson_interval(4, 32))
    e = float(np.e)
    expected = np.log(9 + e) - 4 / 32
    assert found["loss"] == pytest.approx(expected)
    assert found["per_class"] == {f"class {n}": float(n == 1) for n in range(10)}
    assert found["confusion"][0] == [0, 4, 0, 0, 0, 0, 0, 0, 0, 0]
    assert found["confusion"][9] == [0, 3, 0, 0, 0, 0, 0, 0, 0, 0]
    assert found["data"] == {"source": "shapes", **dataset.fingerprints}
    assert found["weights"] == setup.summary.weights
    assert found["weight_bytes"] == setup.summary.bytes
    assert found["flops_per_image"] == setup.summary.flops

    run = new_run(tmp_path)
    trained: dict[str, Any] = {
        "run": "a",
        "model": "b",
        "epochs": 1,
        "seconds": 1.0,
        "seconds_per_epoch": 1.0,
    }
    Recorder(setup, run).finish(evaluation, Result(**found, **trained))
    predictions = np.load(run.path / PREDICTIONS, allow_pickle=False)
    assert predictions.dtype == np.int64 and predictions.tolist() == [1] * 32
    assert json.loads((run.path / RESULT).read_text())["accuracy"] == 4 / 32


def test_a_class_without_test_images_has_no_accuracy(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = random_dataset(test=3)
    monkeypatch.setattr("sfl.training.images.load_dataset", lambda *a, **k: dataset)
    _, found = results.test_model(tiny_setup(), Constant(1))
    assert list(found["per_class"].values()) == [0, 1, 0] + [None] * 7
    json.dumps(found, allow_nan=False)


def test_a_file_of_weights_gives_the_runs_result_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup(), run)
    moved = tmp_path / "anything.safetensors"
    (run.path / BEST).rename(moved)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1000)  # enough to test with
    found = results.test_weights(moved, [], need_train=True).values
    found["accuracy_interval"] = list(found["accuracy_interval"])
    expected = result(run)
    assert found == {key: expected[key] for key in found}
    capsys.readouterr()
    smaller = ["data.shapes.test=20"]
    other = results.test_weights(moved, smaller, need_train=False).values
    assert "these are not the images of its run" in capsys.readouterr().err
    assert other["n"] == 20 and other["data"]["test"] != found["data"]["test"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (random_dataset(classes=9), "was trained on classes disk, .*crescent; .* has class 0, "),
        (
            Dataset(
                "shapes",
                ("disk", "ring"),
                Split(torch.zeros(4, 3, 32, 32).byte(), torch.arange(4) % 2),
                Split(torch.zeros(4, 3, 32, 32).byte(), torch.arange(4) % 2),
            ),
            "has disk, ring",
        ),
    ],
)
def test_other_classes_than_it_was_trained_on(
    images: Dataset, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup("train.epochs=1"), run)
    monkeypatch.setattr("sfl.training.images.load_dataset", lambda *a, **k: images)
    with pytest.raises(UserError, match=message) as error:
        results.test_weights(run.path / BEST, [], need_train=True)
    assert error.value.exit_code == Exit.DATA


def test_other_images_than_it_was_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfl.training.images.load_dataset", lambda *a, **k: random_dataset())
    run = new_run(tmp_path)
    fit(tiny_setup("train.epochs=1"), run)
    larger = random_dataset(size=(3, 40, 32))
    monkeypatch.setattr("sfl.training.images.load_dataset", lambda *a, **k: larger)
    message = "images of the shape 3, 32, 32; data.source shapes has 3, 40, 32"
    with pytest.raises(UserError, match=message) as error:
        results.test_weights(run.path / BEST, [], need_train=True)
    assert error.value.exit_code == Exit.DATA


def test_no_file_of_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint") as error:
        results.test_weights(tmp_path / BEST, [], need_train=True)
    assert error.value.exit_code == Exit.RUN


def test_it_is_tested_with_the_threads_that_were_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, before = new_run(tmp_path), torch.get_num_threads()
    fit(tiny_setup("train.epochs=1"), run)
    found, evaluate = [], Setup.evaluate

    def noting(*arguments: Any, **keywords: Any) -> Any:
        found.append(torch.get_num_threads())
        return evaluate(*arguments, **keywords)

    monkeypatch.setattr(Setup, "evaluate", noting)
    for overrides in ([f"train.threads={before + 2}"], []):
        results.test_weights(run.path / BEST, overrides, need_train=True)
    assert found == [before + 2, before]


def test_feedback_weights_stand_beside_the_weights() -> None:
    for rule, count in (("backprop", None), ("fa", 1800 * 10), ("usf", 0)):
        setup = tiny_setup(f"learn.rule={rule}")
        _, values = results.test_model(setup, build_learner(setup).model)
        assert values.get("feedback_weights") == count
        assert values["weights"] == (27 + 1) * 2 * 900 + (1800 + 1) * 10
