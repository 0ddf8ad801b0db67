"""Tests on copies of the test images: against accuracies by hand; what is kept, and where."""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
import torch

import sfl
from sfl.data.augmentation import Fill
from sfl.data.corrupted import Corrupted
from sfl.data.dataset import Split
from sfl.pictures import Picture
from sfl.runs.directory import COPIES, Run
from sfl.training.copies import Asked, test_copies
from sfl.training.evaluate import evaluate
from sfl.training.setup import build_learner
from sfl.training.views import Viewed, averaged_views
from tests.training.tiny import tiny_setup

test_copies.__test__ = False  # type: ignore[attr-defined]  # for pytest: this is no test
Sfl = Callable[..., CompletedProcess[str]]


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "runs" / trained.name))


def corrupted(folder: Path, run: Path) -> Path:
    folder.mkdir()
    draw = np.random.default_rng(0)
    labels = np.tile(np.load(run / "labels.npy"), 5)
    np.save(folder / "labels.npy", labels)
    for name in ("fog", "spatter"):
        pixels = draw.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
        np.save(folder / f"{name}.npy", pixels)
    return folder


def test_each_number_is_that_of_the_copied_images(tmp_path: Path) -> None:
    setup = tiny_setup()
    model = build_learner(setup).model
    np.save(tmp_path / "labels.npy", setup.test.labels.numpy())
    spoilt = Corrupted(corrupted(tmp_path / "c", tmp_path), (3, 32, 32), setup.test.labels)
    found = test_copies(Asked(2, 1, tmp_path / "c"), setup, model, spoilt)

    def accuracy(images: torch.Tensor) -> float:
        split = Split(images, setup.test.labels)
        how: dict[str, Any] = {"mean": setup.mean, "std": setup.std, "precision": "float32"}
        return evaluate(model, split, **how).accuracy

    test = setup.test.images
    down, left = torch.zeros_like(test), torch.zeros_like(test)
    down[:, :, 1:], left[..., :-1] = test[:, :, :-1], test[..., 1:]
    shifts = found["shifts"]
    assert (shifts["pixels"], shifts["fill"]) == (1, "black")
    assert shifts["accuracy"][2][1] == accuracy(down)
    assert shifts["accuracy"][1][0] == accuracy(left)
    assert shifts["accuracy"][1][1] == accuracy(test)
    assert found["views"]["count"] == 2 and len(found["views"]["accuracy_interval"]) == 2
    errors = found["corrupted"]["error"]
    for name, each in errors.items():
        assert each == [1 - accuracy(split.images) for split in spoilt.splits(name)]
    assert errors["fog"] != errors["spatter"]  # of which one is in the mean
    assert found["corrupted"]["mean_error"] == pytest.approx(sum(errors["fog"]) / 5)


@pytest.mark.parametrize("fill", ["black", "reflect"])
def test_views_are_as_many_as_asked_and_filled_as_in_training(fill: Fill) -> None:
    setup = tiny_setup(f"data.augment={{crop_padding: 4, crop_fill: {fill}}}")
    model = build_learner(setup).model
    found = test_copies(Asked(views=18), setup, model, None)["views"]
    viewed = Viewed(model, averaged_views(18), fill, -setup.mean / setup.std)
    how: dict[str, Any] = {"mean": setup.mean, "std": setup.std, "precision": "float32"}
    assert (found["count"], found["fill"]) == (18, fill)
    assert found["loss"] == evaluate(viewed, setup.test, **how).loss


def test_all_is_printed_beside_the_plain_number_and_kept(
    sfl: Sfl, run: Path, tmp_path: Path
) -> None:
    asked = ("--views", 2, "--shifts", 1, "--corrupted", corrupted(tmp_path / "c", run))
    done = sfl("evaluate", run, *asked, "--json")
    assert done.returncode == 0, done.stderr
    found, plain = json.loads(done.stdout), json.loads((run / "result.json").read_text())
    assert found["accuracy"] == plain["accuracy"] == found["shifts"]["accuracy"][1][1]
    assert found["views"]["count"] == 2
    errors = found["corrupted"]["error"]
    assert list(errors) == ["fog", "spatter"] and all(len(each) == 5 for each in errors.values())
    assert found["corrupted"]["mean_error"] == pytest.approx(sum(errors["fog"]) / 5)
    kept = json.loads((run / COPIES).read_text())
    assert kept == {key: found[key] for key in ("views", "shifts", "corrupted")}
    text = sfl("evaluate", run, "--shifts", 2).stdout
    assert "moved by up to 2 pixels each way, filled with black: accuracy" in text
    assert "test accuracy" in text and re.search(r"^pixels +-2 +-1 +0 +\+1 +\+2$", text, re.M)
    again = json.loads((run / COPIES).read_text())
    assert again["shifts"]["pixels"] == 2 and again["views"] == kept["views"]


def test_pictures_of_evaluate_and_of_plot(
    sfl: Sfl, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = list[tuple[Path, str]]()

    def write_pictures(shown: Sequence[Picture], folder: Path) -> None:
        written.extend((folder, picture.name) for picture in shown)

    monkeypatch.setattr("sfl.pictures.write_pictures", write_pictures)
    out = tmp_path / "out"
    asked = ("--shifts", 1, "--corrupted", corrupted(tmp_path / "c", run), "--out", out)
    assert sfl("evaluate", run, *asked).returncode == 0
    assert written == [(out, "shifts"), (out, "corruptions")]
    assert sfl("plot", run).returncode == 0
    assert {(run / "plots", "shifts"), (run / "plots", "corruptions")} <= set(written)


def test_nothing_is_kept_of_other_images_settings_or_weights(sfl: Sfl, run: Path) -> None:
    other = sfl("evaluate", run, "--views", 2, "--set", "data.shapes.test=20")
    assert other.returncode == 0 and "not written, because settings or images" in other.stderr
    outside = Path(shutil.copy(run / "best.safetensors", run.parent / "w.safetensors"))
    assert sfl("evaluate", outside, "--views", 2).returncode == 0
    assert not (run / COPIES).exists() and not (run.parent / COPIES).exists()
    (run / COPIES).write_text("[]")
    damaged = sfl("evaluate", run, "--views", 2)
    assert damaged.returncode == 0 and "not kept: " in damaged.stderr
    assert "mean over 2 views" in damaged.stdout


@pytest.mark.parametrize(
    ("asked", "code", "message"),
    [
        (("--views", 7), 2, "--views 7: expected 2, 18 or 50"),
        (("--shifts", 32), 2, "--shifts 32: images of 32 pixels can't be moved by 32"),
        (("--corrupted", "nowhere"), 3, "nowhere: no such folder"),
        (("--out", "somewhere"), 2, "--out: nothing to draw (give --shifts or --corrupted, too)"),
    ],
)
def test_what_cannot_be_tested_is_one_line(
    sfl: Sfl, trained: Path, asked: tuple[object, ...], code: int, message: str
) -> None:
    done = sfl("evaluate", trained, *asked)
    assert done.returncode == code and message in done.stderr.splitlines()[-1]
    assert not done.stdout and not (trained / COPIES).exists()


def test_the_function_takes_the_same(run: Path, tmp_path: Path) -> None:
    tested = sfl.evaluate(run, views=2, shifts=1, corrupted=corrupted(tmp_path / "c", run))
    assert tested.views and tested.shifts and tested.corrupted
    assert tested.to_dict()["views"] == tested.views.to_dict()
    assert Run(run).path.joinpath(COPIES).exists()
