"""Which runs a comparison takes, what it trains, what it leaves out. Training has a stand-in."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfl.cli.compare import show_comparison
from sfl.comparison.model import ComparedModel
from sfl.comparison.plan import plan, refuse_target
from sfl.comparison.results import read_results
from sfl.comparison.run import run_comparison
from sfl.comparison.train_missing import train_missing
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.runs import store
from sfl.runs.directory import Run, lock
from tests.conftest import ENVIRONMENT
from tests.stand_ins import Images, configs, fails, images, planted, trained


def finished_names(found: list[ComparedModel]) -> list[list[str]]:
    """In the order of the seeds."""
    every = [[run for _, run in sorted(model.runs.items())] for model in found]
    return [[Run(run.path).name for run in each if run.status == "finished"] for each in every]


def missing_seeds(found: list[ComparedModel]) -> list[list[int]]:
    return [[job.config.train.seed for job in model.missing] for model in found]


def test_without_seeds_all_finished_runs_of_that_config_count(
    configs: Path, runs_dir: Path
) -> None:
    planted(runs_dir / "other", "one", "train.epochs=3")
    planted(runs_dir / "b", "one", "train.seed=5", "train.device=auto")
    planted(runs_dir / "a", "one", "train.seed=1", "train.keep=weights")
    planted(runs_dir / "half", "one", "train.seed=9", finished=False)
    found = plan(["one", "two"], [], None, runs_dir)
    assert finished_names(found) == [["a", "b"], []]  # in the order of the seeds
    assert missing_seeds(found) == [[], [0]]


def test_seeds_are_the_configs_own_and_those_after_it(configs: Path, runs_dir: Path) -> None:
    for seed in (1, 3, 7):
        planted(runs_dir / f"s{seed}", "one", f"train.seed={seed}")
    found = plan(["one", "two"], ["train.seed=2"], 3, runs_dir)
    assert finished_names(found) == [["s3"], []]
    assert missing_seeds(found) == [[2, 4], [2, 3, 4]]


def test_of_two_runs_of_one_seed_the_newer_counts(
    configs: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = planted(runs_dir / "z", "one")
    new = planted(runs_dir / "a", "one")
    begun = planted(runs_dir / "b", "one", finished=False)
    monkeypatch.setattr(store, "list_runs", lambda root: [old, new, begun])
    assert finished_names(plan(["one", "two"], [], None, runs_dir))[0] == ["a"]


def test_a_folder_makes_another_experiment_if_it_holds_other_images(
    configs: Path, runs_dir: Path, images: Images
) -> None:
    """Its name says nothing: a run on some images must never pass for one on others."""
    run = planted(runs_dir / "a", "one", "data.source=folder", "data.root=elsewhere")
    overrides = ["data.source=folder", "data.root=here"]
    finished = json.loads((run.path / "result.json").read_text())
    for train, expected in (("here", ["a"]), ("there", [])):
        data = {"source": "folder", "train": train, "test": "t"}
        run.write_json("result.json", finished | {"data": data})
        found = plan(["one", "two"], overrides, None, runs_dir)
        assert finished_names(found) == [expected, []]
    assert images.read == ["here", "here"]  # once in each comparison, for both models


def test_a_target_may_be_judged_on_a_folders_own_validation_images(
    configs: Path, runs_dir: Path, images: Images
) -> None:
    settings = ["data.source=folder", "data.root=with-val"]
    refuse_target(plan(["one", "two"], settings, None, runs_dir))
    run = planted(runs_dir / "a", "one", *settings)
    run.write_metrics([line | {"validation_accuracy": 0.5} for line in run.metrics])
    planted(runs_dir / "b", "two", *settings)
    with pytest.raises(UserError, match="not all models log accuracy on the same images"):
        refuse_target(plan(["one", "two"], settings, None, runs_dir, training=False))


def test_without_training_no_images_are_read(configs: Path, runs_dir: Path, images: Images) -> None:
    """They need not be there any more."""
    planted(runs_dir / "a", "one", "data.source=folder")
    found = plan(["one", "two"], ["data.source=folder"], None, runs_dir, training=False)
    assert finished_names(found) == [["a"], []]
    assert images.read == []


def test_a_run_of_another_version_is_passed_over(configs: Path, runs_dir: Path) -> None:
    run = planted(runs_dir / "a", "one")
    (run.path / "config.yaml").write_text(run.config_text + "future: 1\n")
    assert finished_names(plan(["one", "two"], [], None, runs_dir)) == [[], []]


def test_a_storage_is_passed_over_by_a_conv_layer(
    configs: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["train.epochs=7", "model.storage=dense"]
    one, two = plan(["one", "two"], overrides, None, runs_dir)
    assert (one.config.model.storage, two.config.model.storage) == ("dense", None)
    assert one.config.train.epochs == two.config.train.epochs == 7
    assert capsys.readouterr().err == (
        "two: --set model.storage=dense is ignored: a conv layer has no storage\n"
    )


def test_a_storage_counts_where_the_layer_is_set_too(configs: Path, runs_dir: Path) -> None:
    overrides = ["model.storage=dense", "model.layer=spatial"]
    two, _ = plan(["two", "simple"], overrides, None, runs_dir)
    assert two.config.model.storage == "dense"


def test_what_is_missing_is_trained_after_saying_so(
    configs: Path,
    runs_dir: Path,
    trained: list[tuple[str, Config]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    planted(runs_dir / "mine", "one")
    found = plan(["one", "two"], [], 2, runs_dir)
    train_missing(found, runs_dir)
    assert [name for name, _ in trained] == ["two-s0", "one-s1", "two-s1"]
    assert [config.train.seed for _, config in trained] == [0, 1, 1]
    assert [config.model.layer for _, config in trained] == ["conv", "spatial", "conv"]
    assert finished_names(found) == [["mine", "one-s1"], ["two-s0", "two-s1"]]
    assert missing_seeds(found) == [[], []]
    assert "to be trained first: two-s0, one-s1, two-s1\n" in capsys.readouterr().err
    again = plan(["one", "two"], [], 2, runs_dir)
    assert missing_seeds(again) == [[], []]


def test_nothing_is_trained_to_be_compared_with_a_run_on_other_images(
    configs: Path, runs_dir: Path, trained: list[tuple[str, Config]]
) -> None:
    run = planted(runs_dir / "mine", "one")
    finished = json.loads((run.path / "result.json").read_text())
    other = finished["data"] | {"train": "others"}
    run.write_json("result.json", finished | {"data": other})
    found = plan(["mine", "two"], [], None, runs_dir)
    with pytest.raises(UserError, match="two-s0: does not have the train images") as told:
        train_missing(found, runs_dir)
    assert told.value.exit_code == Exit.DATA and trained == []


def test_nothing_is_said_where_nothing_is_missing(
    configs: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        planted(runs_dir / name, name)
    assert train_missing(plan(["one", "two"], [], None, runs_dir), runs_dir) == []
    assert capsys.readouterr().err == ""


def test_without_training_what_is_missing_is_refused(
    configs: Path, runs_dir: Path, trained: list[tuple[str, Config]]
) -> None:
    with pytest.raises(UserError) as caught:
        run_comparison(["one", "two"], [], None, runs_dir, training=False)
    assert caught.value.exit_code is Exit.RUN
    assert str(caught.value) == (
        f"{runs_dir}: no finished run of one-s0, two-s0 with these settings "
        "(without --no-train they are trained)"
    )
    assert trained == []


def test_the_nearest_run_is_named_with_the_settings_in_which_it_differs(
    configs: Path, runs_dir: Path
) -> None:
    planted(runs_dir / "one-s0", "one")
    with pytest.raises(UserError, match=r"of two-s0 with these settings \(without --no-train"):
        run_comparison(["one", "two"], [], 1, runs_dir, training=False)  # one-s0 is compared itself
    planted(runs_dir / "near", "two", "train.epochs=9")
    with pytest.raises(UserError) as caught:
        run_comparison(["one", "two"], [], 2, runs_dir, training=False)
    assert "of one-s1, two-s0, two-s1 with these settings (one-s0 differs in" not in str(
        caught.value
    )
    assert "near differs in train.epochs; without --no-train" in str(caught.value)


def test_an_interrupted_run_is_gone_on_with_on_this_machines_terms(
    configs: Path, runs_dir: Path, trained: list[tuple[str, Config]]
) -> None:
    """Its name, but the device and the data root of now; whatever characters that has."""
    run = planted(runs_dir / "begun", "one", "data.source=folder", finished=False)
    data = {"source": "folder", "train": "a: #b", "test": "t"}
    run.write_json("environment.json", {**ENVIRONMENT, "data": data})
    overrides = ["data.source=folder", "data.root=a: #b", "train.keep=weights"]
    found = plan(["one", "two"], overrides, None, runs_dir)
    train_missing(found, runs_dir)
    (name, config), (other, _) = trained
    assert (name, other) == ("begun", "two-s0")
    assert (config.data.root, config.train.keep) == ("a: #b", "weights")
    assert finished_names(found)[0] == ["begun"]


def test_one_that_fails_is_told_and_the_others_are_compared(
    configs: Path, runs_dir: Path, trained: list[tuple[str, Config]], fails: Callable[..., None]
) -> None:
    fails("one-s0", UserError("diverged", "", Exit.DIVERGED))
    comparison, found = run_comparison(["one", "two"], [], 2, runs_dir)
    assert finished_names(found) == [["one-s1"], ["two-s0", "two-s1"]]
    assert missing_seeds(found) == [[0], []]
    assert [model.runs for model in comparison.models] == [["one-s1"], ["two-s0", "two-s1"]]
    (failure,) = comparison.failed
    assert (failure.run, failure.reason, failure.exit_code) == ("one-s0", "diverged", 5)
    assert comparison.remarks[-1] == "one-s0 failed, and is not counted: diverged"
    with pytest.raises(UserError, match=r"^1 run failed: one-s0") as caught:
        show_comparison(comparison, found, None, "json")
    assert caught.value.exit_code is Exit.DIVERGED


def test_failures_that_leave_nothing_to_compare_are_raised(
    configs: Path, runs_dir: Path, trained: list[tuple[str, Config]], fails: Callable[..., None]
) -> None:
    fails("two-s0", UserError("diverged", "", Exit.DIVERGED))
    with pytest.raises(UserError, match=r"^1 run failed: two-s0") as caught:
        run_comparison(["one", "two"], [], None, runs_dir)
    assert caught.value.exit_code is Exit.DIVERGED
    assert [name for name, _ in trained] == ["one-s0"]


@pytest.mark.parametrize(
    ("section", "setting", "words"),
    [
        ("model", "kernel_sizes: [33]", "a kernel of 33 is larger than its input of 32"),
        ("model", "channels: [1000000000]", "GB"),
        ("data", "validation: 20", "leave none for training"),
        ("data", "normalize: {mean: [0.5], std: [0.5]}", "the images have 3"),
        ("train", "device: cuda:77", "CUDA"),
        ("data", "batch_size: 19", "an epoch's last batch has too few images: 1"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_the_others_are(
    configs: Path,
    runs_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    section: str,
    setting: str,
    words: str,
) -> None:
    def fit(setup: Any, run: Run) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr("sfl.training.start.fit", fit)
    text = (configs / "two.yaml").read_text().replace(", device: cpu", "")
    if "batch_size" in setting:  # a model that normalises maps of 1×1
        net = "SpatialDenseNet, kernel_sizes: [3, 3, 3, 3, 5, 1]"
        text = text.replace("SimpleModel, layer: conv", net)
    (configs / "two.yaml").write_text(text.replace(f"{section}: {{", f"{section}: {{{setting}, "))
    with pytest.raises(UserError, match=words):
        train_missing(plan(["one", "two"], [], None, runs_dir), runs_dir)
    assert not runs_dir.exists()


def test_two_names_of_one_experiment_are_refused(configs: Path, runs_dir: Path) -> None:
    shutil.copy(configs / "one.yaml", configs / "copy.yaml")
    with pytest.raises(UserError) as caught:
        plan(["one", "copy"], [], None, runs_dir)
    assert str(caught.value) == ("copy is the same experiment as one (give each experiment once)")


def test_runs_and_configs_mixed_are_grouped_by_experiment(configs: Path, runs_dir: Path) -> None:
    for seed in (0, 1):
        planted(runs_dir / f"one-s{seed}", "one", f"train.seed={seed}")
        planted(runs_dir / f"three-s{seed}", "one", "train.epochs=9", f"train.seed={seed}")
    elsewhere = planted(configs / "there" / "two-s4", "two", "train.seed=4").path
    names = ["three-s1", str(elsewhere), "one", str(runs_dir / "three-s0")]
    found = plan(names, [], None, runs_dir)
    assert [model.name for model in found] == ["three", "two", "one"]
    assert finished_names(found) == [["three-s0", "three-s1"], ["two-s4"], ["one-s0", "one-s1"]]
    assert missing_seeds(found) == [[], [], []]
    read_results(found)
    assert [one.run.name for one in found[0].results] == ["three-s0", "three-s1"]  # by seed


def test_a_run_of_a_config_that_is_named_too_is_one_of_its_runs(
    configs: Path, runs_dir: Path
) -> None:
    planted(runs_dir / "one-s0", "one")
    odd = planted(configs / "odd", "one", "train.seed=7").path
    planted(runs_dir / "two-s0", "two")
    for names in (["one", str(odd), "two"], [str(odd), "one", "two"]):
        found = plan(names, [], None, runs_dir)
        assert [model.name for model in found] == ["one", "two"]
        assert sorted(finished_names(found)[0]) == ["odd", "one-s0"]


def test_a_config_goes_before_a_run_of_its_name(configs: Path, runs_dir: Path) -> None:
    planted(runs_dir / "one", "one", "train.epochs=9")
    assert missing_seeds(plan(["one", "two"], [], None, runs_dir)) == [[0], [0]]


def test_runs_of_one_experiment_alone_are_no_comparison(configs: Path, runs_dir: Path) -> None:
    for seed in (0, 1):
        planted(runs_dir / f"one-s{seed}", "one", f"train.seed={seed}")
    with pytest.raises(UserError) as caught:
        plan(["one-s0", "one-s1"], [], None, runs_dir)
    assert caught.value.exit_code is Exit.USAGE
    assert str(caught.value) == (
        "compare needs two models or more, not one-s0, one-s1 alone "
        "(runs that differ only in their seeds are one model)"
    )


def test_settings_of_a_run_stay_but_where_its_images_are_can_be_said(
    configs: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planted(runs_dir / "one-s0", "one")
    planted(runs_dir / "two-s0", "two")
    overrides = ["data.root=/there", "train.epochs=7"]
    found = plan(["one-s0", "two-s0"], overrides, None, runs_dir)
    assert {model.config.data.root for model in found} == {"/there"}
    assert {model.config.train.epochs for model in found} == {2}
    said = capsys.readouterr().err
    assert f"{runs_dir / 'one-s0'}: --set train.epochs=7 is ignored: the run was trained" in said


def plant_one_unfinished(runs_dir: Path) -> None:
    """one-s1; one-s0 and two-s0 have finished."""
    for seed in (0, 1):
        planted(runs_dir / f"one-s{seed}", "one", f"train.seed={seed}", finished=not seed)
    planted(runs_dir / "two-s0", "two")


def test_unfinished_runs_are_named_and_left_out(
    configs: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_one_unfinished(runs_dir)
    for names in (["one", "two"], ["one-s0", "one-s1", "two-s0"]):
        found = plan(names, [], None, runs_dir)
        read_results(found)
        assert [one.run.name for one in found[0].results] == ["one-s0"]
        assert capsys.readouterr().err == (
            f"{runs_dir / 'one-s1'}: not finished (1 of 2 epochs); left out "
            "(--unfinished includes it)\n"
        )


def test_a_run_without_weights_is_left_out_of_the_unfinished_too(
    configs: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else nobody could look at a study while one of its runs begins."""
    plant_one_unfinished(runs_dir)
    (runs_dir / "one-s1" / "metrics.jsonl").write_text("")
    found = plan(["one", "two"], [], 2, runs_dir, unfinished=True)
    read_results(found, unfinished=True)
    assert [one.run.name for one in found[0].results] == ["one-s0"]
    assert "one-s1: not finished (0 of 2 epochs); left out: it has no" in capsys.readouterr().err


def test_a_run_that_is_being_trained_is_waited_for(configs: Path, runs_dir: Path) -> None:
    run = planted(runs_dir / "one-s0", "one", finished=False)
    planted(runs_dir / "two-s0", "two")
    with lock(run), pytest.raises(UserError, match=r"include it: --unfinished; or wait\)"):
        read_results(plan(["one-s0", "two-s0"], [], None, runs_dir))


def test_two_runs_of_one_seed_are_no_two_draws(
    configs: Path, runs_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = planted(runs_dir / "one-s0", "one").path
    os.utime(first / "result.json", (1, 1))
    for file in first.iterdir():
        os.utime(file, (1, 1))
    planted(runs_dir / "one-s0-2", "one")
    planted(runs_dir / "two-s0", "two")
    for names in (["one-s0", "one-s0-2", "two"], ["one-s0-2", "one-s0", "two"]):
        found = plan(names, [], None, runs_dir)
        assert finished_names(found) == [["one-s0-2"], ["two-s0"]]
        assert capsys.readouterr().err == (
            f"{first} is left out: {runs_dir / 'one-s0-2'} has the same seed\n"
        )
    assert finished_names(plan(["one-s0", "one-s0", "two"], [], None, runs_dir))[0] == ["one-s0"]
    assert capsys.readouterr().err == ""


def test_runs_of_equal_settings_on_different_images_are_no_pair(
    configs: Path, runs_dir: Path, made_run: Callable[..., Path]
) -> None:
    """Their folders have one name, or none that is saved; their images say what they are."""
    for name in "ab":
        images = {"source": "folder", "train": name, "test": name}
        made_run(runs_dir / name, data=images, environment={"data": images})
    with pytest.raises(UserError, match="the same settings on different images") as told:
        plan(["a", "b"], [], None, runs_dir)
    assert told.value.exit_code == Exit.DATA


def test_a_named_run_is_that_seed_of_its_config(
    configs: Path, runs_dir: Path, trained: list[tuple[str, Config]]
) -> None:
    elsewhere = planted(configs / "there" / "odd", "one").path
    planted(runs_dir / "two-s0", "two")
    for names in ([str(elsewhere), "one", "two"], ["one", str(elsewhere), "two"]):
        found = plan(names, [], 2, runs_dir)
        assert finished_names(found)[0] == ["odd"]
        assert missing_seeds(found) == [[1], [1]]


def test_a_named_run_goes_before_another_of_its_seed(configs: Path, runs_dir: Path) -> None:
    elsewhere = planted(configs / "there" / "odd", "one").path
    planted(runs_dir / "one-s0", "one")
    planted(runs_dir / "two-s0", "two")
    found = plan(["one", str(elsewhere), "two"], [], None, runs_dir)
    assert finished_names(found) == [["odd"], ["two-s0"]]


def test_a_named_run_that_was_stopped_is_gone_on_with_where_its_config_is_named_too(
    configs: Path,
    runs_dir: Path,
    trained: list[tuple[str, Config]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    elsewhere = planted(configs / "there" / "odd", "one", finished=False).path
    planted(runs_dir / "two-s0", "two")
    found = plan([str(elsewhere), "one", "two"], [], None, runs_dir)
    train_missing(found, runs_dir)
    assert [name for name, _ in trained] == ["odd"]
    read_results(found)
    assert [one.run.name for one in found[0].results] == ["odd"]
    assert "left out" not in capsys.readouterr().err


def test_models_have_names_of_their_own(configs: Path, runs_dir: Path) -> None:
    planted(runs_dir / "one-s0", "one")
    planted(runs_dir / "one-s0-2", "one", "train.epochs=7")
    other = planted(configs / "old" / "one-s0-2", "one", "train.epochs=8").path
    names = ["one-s0", "one-s0-2", str(other)]
    assert [e.name for e in plan(names, [], None, runs_dir)] == ["one", "one-s0-2", str(other)]
    assert [e.name for e in plan(["one-s0-2", "one"], [], None, runs_dir)] == ["one-s0-2", "one"]
