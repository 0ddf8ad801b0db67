"""Runs side by side: means, intervals and differences by hand."""

from collections.abc import Callable
from pathlib import Path

import pytest
from scipy import stats

from sfl.analysis.compare import compare
from sfl.config import Config, from_text
from sfl.errors import Exit, UserError
from sfl.rundir import Run

MadeRun = Callable[..., Path]


def config(model: str = "{name: SimpleModel}") -> Config:
    return from_text(f"model: {model}\n", "c.yaml")


def test_means_differences_and_what_is_taken_from_a_run(tmp_path: Path, made_run: MadeRun) -> None:
    first = [
        Run(made_run(tmp_path / f"a{i}", accuracy=a, loss=loss, seconds_per_epoch=s))
        for i, (a, loss, s) in enumerate([(0.5, 1.0, 2.0), (0.6, 2.0, 4.0), (0.7, 3.0, 6.0)])
    ]
    second = [Run(made_run(tmp_path / "b", accuracy=0.45, accuracy_interval=[0.35, 0.55]))]
    a, b = compare([("conv", config(), first), ("mine", config(), second)])["models"]
    assert a["name"] == "conv" and a["model"] == "SimpleModel" and a["n"] == 3
    assert a["accuracy"] == pytest.approx(0.6)
    assert a["loss"] == pytest.approx(2.0)
    assert a["seconds_per_epoch"] == pytest.approx(4.0)
    assert (a["weights"], a["weight_bytes"], a["flops_per_image"], a["epochs"]) == (
        1000,
        4000,
        2000,
        1,
    )
    assert a["difference"] == 0
    assert b["difference"] == pytest.approx(-0.15)
    # One run: Wilson's interval over the test images, as its result has it.
    assert b["n"] == 1 and b["accuracy_interval"] == [0.35, 0.55]


def test_several_seeds_have_students_interval(tmp_path: Path, made_run: MadeRun) -> None:
    """By hand: mean 0.6, s 0.1, n 3, t(0.975; 2) = 4.30265: half 4.30265 · 0.1 / √3 = 0.24841."""
    accuracies = [0.5, 0.6, 0.7]
    found = [Run(made_run(tmp_path / str(a), accuracy=a)) for a in accuracies]
    row = compare([("a", config(), found), ("b", config(), found[:1])])["models"][0]
    low, high = row["accuracy_interval"]
    assert (low, high) == pytest.approx((0.6 - 0.24841, 0.6 + 0.24841), abs=1e-5)
    expected = stats.t.interval(0.95, 2, loc=0.6, scale=stats.sem(accuracies))
    assert (low, high) == pytest.approx(expected)


def test_an_interval_of_accuracies_stays_between_0_and_1(tmp_path: Path, made_run: MadeRun) -> None:
    """n 2, s 0.0636: half is 12.706 · 0.0636 / √2 = 0.57, more than either accuracy."""
    low_runs = [Run(made_run(tmp_path / str(a), accuracy=a)) for a in (0.01, 0.1)]
    high_runs = [Run(made_run(tmp_path / str(a), accuracy=a)) for a in (0.9, 0.99)]
    low, high = compare([("a", config(), low_runs), ("b", config(), high_runs)])["models"]
    assert low["accuracy_interval"][0] == 0.0 and low["accuracy_interval"][1] < 1
    assert high["accuracy_interval"][1] == 1.0 and high["accuracy_interval"][0] > 0


TWINS = "not twins: other graphs"
SEED = "one seed says little: these intervals cover the test images, not the seed"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("{name: SimpleModel}", "{name: SimpleModel, layer: conv}", []),
        ("{name: SimpleModel}", "{name: SpatialDenseNet}", [TWINS]),
        ("{name: SimpleModel}", "{name: SimpleModel, channels: [7]}", [TWINS]),
        ("{name: SimpleModel}", "{name: SimpleModel, dropout: 0.5}", [TWINS]),
        # Fully connected after one step: no twin of what is local or shared.
        ("{name: SimpleModel}", "{name: SimpleModel, storage: dense}", [TWINS]),
        ("{name: SimpleModel, layer: conv}", "{name: SimpleModel, storage: dense}", [TWINS]),
        (
            "{name: SimpleModel}",
            "{name: SimpleModel, layer: conv, init: notebook}",
            ["not the same model.init: receptive_field, notebook"],
        ),
        (
            "{name: SimpleModel}\ntrain: {epochs: 3, seed: 1}",
            "{name: SimpleModel, layer: conv}\ntrain: {epochs: 2}\noptimizer: {clip_norm: 1.0}",
            ["not the same optimizer.clip_norm: none, 1.0", "not the same train.epochs: 3, 2"],
        ),
        ("{name: SimpleModel}", "{name: SimpleModel}", ["one experiment under several names"]),
    ],
)
def test_what_differs_besides_sharing_is_said(
    tmp_path: Path, made_run: MadeRun, one: str, other: str, expected: list[str]
) -> None:
    run = Run(made_run(tmp_path / "a"))
    remarks = compare([("a", config(one), [run]), ("b", config(other), [run])])["remarks"]
    assert sorted(remarks[:-1]) == sorted(expected) and remarks[-1] == SEED


def test_with_several_seeds_of_each_nothing_is_remarked(tmp_path: Path, made_run: MadeRun) -> None:
    found = [Run(made_run(tmp_path / str(a), accuracy=a)) for a in (0.5, 0.6)]
    twin = config("{name: SimpleModel, layer: conv}")
    compared = compare([("a", config(), found), ("b", twin, found)])
    assert compared["remarks"] == []
    assert compared["models"][0]["runs"] == ["0.5", "0.6"]


def test_a_result_of_wrong_types_is_named(tmp_path: Path, made_run: MadeRun) -> None:
    run = Run(made_run(tmp_path / "a", accuracy="high"))
    with pytest.raises(UserError, match="lacks accuracy") as caught:
        compare([("a", config(), [run]), ("b", config(), [run])])
    assert caught.value.exit_code is Exit.RUN


@pytest.mark.parametrize("split", ["train", "test"])
def test_runs_on_other_images_are_refused(tmp_path: Path, made_run: MadeRun, split: str) -> None:
    data = {"source": "folder", "train": "aa", "test": "bb"}
    one = Run(made_run(tmp_path / "one", data=data))
    two = Run(made_run(tmp_path / "two", data=data | {split: "cc"}))
    with pytest.raises(UserError) as caught:
        compare([("a", config(), [one]), ("b", config(), [two])])
    assert caught.value.exit_code is Exit.DATA
    assert str(caught.value) == (
        f"two and one were not made with the same {split} images (compare runs of one data set: "
        "keep others in another folder, with --runs)"
    )


def test_a_result_that_lacks_something_is_named(tmp_path: Path, made_run: MadeRun) -> None:
    path = made_run(tmp_path / "a")
    (path / "result.json").write_text('{"model": "SimpleModel", "accuracy": 0.5}')
    with pytest.raises(UserError) as caught:
        compare([("a", config(), [Run(path)]), ("b", config(), [Run(path)])])
    assert caught.value.exit_code is Exit.RUN
    assert str(caught.value).startswith(f"{path / 'result.json'}: lacks accuracy_interval, loss")


def test_a_run_that_has_not_finished_is_refused(tmp_path: Path, made_run: MadeRun) -> None:
    path = made_run(tmp_path / "a")
    (path / "result.json").unlink()
    with pytest.raises(UserError, match="has not finished") as caught:
        compare([("a", config(), [Run(path)]), ("b", config(), [Run(path)])])
    assert caught.value.exit_code is Exit.RUN
