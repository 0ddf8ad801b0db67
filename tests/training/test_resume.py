"""Going on with a run: the same run as if it had never stopped; what is refused."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sfl.errors import Exit, UserError
from sfl.runs.directory import BEST, CONFIG, LAST, METRICS, RESULT, UNSAVED, Run
from sfl.training import fit as fitting
from sfl.training.checkpoint import read_checkpoint
from sfl.training.fit import fit
from sfl.training.resume import config_to_resume, restore
from sfl.training.setup import build_learner, set_up
from tests.training.tiny import (
    SPATIAL,
    interrupted_after,
    metrics,
    new_run,
    random_dataset,
    result,
    same,
    tensors,
    tiny_config,
    tiny_setup,
)

SLOW = ("fa", "usf", "frsf", "brsf")  # as mirror, but simpler
RECIPES: dict[str, list[str]] = {
    "everything": [],
    "conv, channels last": ["model.layer=conv"],
    "dense, notebook": [
        "model={name: SimpleModel, storage: dense, init: notebook, channels: [1], dropout: 0.3}"
    ],
    "sgd with momentum, cosine": [
        "optimizer={name: sgd, lr: 0.01, momentum: 0.9}",
        "train.schedule=cosine",
        "train.warmup=1",
    ],
    "adamw, no validation": ["optimizer.name=adamw", "data.validation=0"],
    **{rule: [f"learn.rule={rule}"] for rule in ("mirror", *SLOW)},
    "few checkpoints": ["train.checkpoint_every=2"],
}


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(changes, id=name, marks=pytest.mark.slow if name in SLOW else ())
        for name, changes in RECIPES.items()
    ],
)
def test_resumed_at_any_epoch_it_is_the_same_run(changes: list[str], tmp_path: Path) -> None:
    setup = tiny_setup(*changes, base=SPATIAL)
    straight = new_run(tmp_path, "straight")
    fit(setup, straight)
    for stopped_after in (0, 1, 2):
        run = new_run(tmp_path, f"stopped-{stopped_after}")
        with interrupted_after(stopped_after):
            fit(setup, run)
        assert len(Run(run.path).metrics) == stopped_after
        assert not (run.path / RESULT).exists()
        fit(setup, Run(run.path))
        for name in (LAST, BEST):
            assert same(tensors(straight, name), tensors(run, name))
        assert metrics(straight) == metrics(run)
        assert result(straight) == result(run)


def test_more_epochs_of_a_finished_run_are_those_of_a_longer_one(tmp_path: Path) -> None:
    changes = ("train.schedule=constant", "train.warmup=0.5", "train.checkpoint_every=2")
    straight, run = new_run(tmp_path, "straight"), new_run(tmp_path, "longer")
    fit(tiny_setup(*changes, "train.epochs=4", base=SPATIAL), straight)
    fit(tiny_setup(*changes, "train.epochs=1", base=SPATIAL), run)
    fit(tiny_setup(*changes, "train.epochs=4", base=SPATIAL), Run(run.path))
    for file in (LAST, BEST):
        assert same(tensors(straight, file), tensors(run, file))
    assert metrics(straight) == metrics(run) and result(straight) == result(run)
    assert (straight.path / CONFIG).read_text() == (run.path / CONFIG).read_text()


def test_resumed_in_another_process_it_is_the_same_run(tmp_path: Path) -> None:
    straight, run = new_run(tmp_path, "straight"), new_run(tmp_path, "stopped")
    fit(tiny_setup(base=SPATIAL), straight)
    with interrupted_after(1):
        fit(tiny_setup(base=SPATIAL), run)
    code = f"""
import torch
from pathlib import Path
from sfl.config.load import load
from sfl.runs.directory import Run
from sfl.training.fit import fit
from sfl.training.setup import set_up
torch.set_num_threads({torch.get_num_threads()})
fit(set_up(load({str(run.path / CONFIG)!r})), Run(Path({str(run.path)!r})))
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert same(tensors(straight), tensors(run))
    assert metrics(straight) == metrics(run) and result(straight) == result(run)


@pytest.mark.parametrize(("stopped_after", "saved"), [(1, 0), (3, 2)])
def test_epochs_that_no_checkpoint_has_are_announced_and_their_metrics_kept(
    stopped_after: int, saved: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    setup, run = tiny_setup("train.epochs=4", "train.checkpoint_every=2"), new_run(tmp_path)
    with interrupted_after(stopped_after):
        fit(setup, run)
    before = (run.path / METRICS).read_text()
    assert "run: starts" not in capsys.readouterr().err
    with interrupted_after(stopped_after):
        fit(setup, Run(run.path))
    kept = run.path / UNSAVED
    assert (
        f"run: starts again at epoch {saved + 1}: of {stopped_after} trained epochs {saved} are in "
        f"a checkpoint (train.checkpoint_every: 2); the metrics of all are kept in {kept}\n"
    ) in capsys.readouterr().err
    assert kept.read_text() == before


def test_a_run_stopped_in_its_first_epoch_says_that_it_starts_anew(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = new_run(tmp_path)
    with interrupted_after(0):
        fit(tiny_setup(), run)
    assert "starts" not in capsys.readouterr().err
    with interrupted_after(1):
        fit(tiny_setup(), run)
    assert "run: has no checkpoint yet; starts at epoch 1\n" in capsys.readouterr().err
    fit(tiny_setup(), Run(run.path))
    assert "starts" not in capsys.readouterr().err and not (run.path / UNSAVED).exists()


def test_stopped_before_the_test_it_only_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    returned = fit(tiny_setup(), run)
    (run.path / RESULT).unlink()
    monkeypatch.setattr(fitting, "train_epoch", lambda *a: pytest.fail("trained"))
    again = fit(tiny_setup(), Run(run.path))
    assert again == returned


def test_a_run_that_is_made_longer_has_no_result_meanwhile(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup("train.epochs=1"), run)
    with interrupted_after(1):
        fit(tiny_setup("train.epochs=3"), Run(run.path))
    assert run.status == "interrupted" and not (run.path / RESULT).exists()


# --- what is refused


def test_a_missing_best_checkpoint_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    with interrupted_after(1):
        fit(tiny_setup(base=SPATIAL), run)
    (run.path / BEST).unlink()
    monkeypatch.delattr(fitting, "train_epoch")  # not reached
    with pytest.raises(UserError, match=rf"{BEST}: no such checkpoint"):
        fit(tiny_setup(base=SPATIAL), Run(run.path))


@pytest.mark.parametrize(
    "changes", [("train.schedule=cosine", "train.epochs=4"), ("train.epochs=2",)], ids=str
)
def test_a_schedule_over_the_whole_run_and_fewer_epochs_are_refused(
    changes: tuple[str, ...], tmp_path: Path
) -> None:
    run, schedule = new_run(tmp_path), changes[0] if len(changes) > 1 else "train.epochs=3"
    with interrupted_after(1):
        fit(tiny_setup(schedule), run)
    before = {path: path.read_bytes() for path in run.path.iterdir()}
    with pytest.raises(UserError, match="not the settings with which the run was started"):
        fit(tiny_setup(*changes), Run(run.path))
    assert before == {path: path.read_bytes() for path in run.path.iterdir()}


def test_checkpoints_it_does_not_go_on_from(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup("train.epochs=1"), run)
    last, best = run.path / LAST, (run.path / BEST).read_bytes()
    refused = [
        (tiny_setup("optimizer.lr=1"), "not the settings with which the run was started", Exit.RUN),
        (tiny_setup("train.seed=8"), "not the settings with which the run was started", Exit.RUN),
        (
            tiny_setup("data.shapes.jitter=1"),
            "trained on other images than data.source shapes has",
            Exit.DATA,
        ),
    ]
    for setup, message, code in refused:
        with pytest.raises(UserError, match=message) as error:
            fit(setup, run)
        assert error.value.exit_code == code
    for content, message in (
        (best, "holds only weights"),
        (best[:99], "not a checkpoint, or damaged"),
    ):
        last.write_bytes(content)
        with pytest.raises(UserError, match=message) as error:
            fit(tiny_setup(), run)
        assert error.value.exit_code == Exit.RUN


def test_validation_images_that_it_did_not_begin_with_are_named(tmp_path: Path) -> None:
    """As a folder's val/ was passed over by the first versions."""
    run, clean = new_run(tmp_path), random_dataset(32, 16)
    with interrupted_after(1):
        fit(set_up(tiny_config(), clean), run)
    own = replace(clean, validation=random_dataset(16).train)
    with pytest.raises(UserError, match="without the validation images that the folder") as error:
        fit(set_up(tiny_config(), own), run)
    assert error.value.exit_code == Exit.DATA


def test_a_run_whose_checkpoint_was_taken_away_is_not_begun_anew(tmp_path: Path) -> None:
    """That would throw its best weights and its metrics away."""
    run = new_run(tmp_path)
    fit(tiny_setup("train.epochs=1", "train.keep=weights"), run)
    before = {file.name: file.read_bytes() for file in run.path.iterdir()}
    with pytest.raises(UserError, match=r"has no last\.safetensors to resume from") as error:
        fit(tiny_setup("train.epochs=1", "train.keep=weights"), Run(run.path))
    assert error.value.exit_code == Exit.RUN
    after = {file.name: file.read_bytes() for file in run.path.iterdir()}
    assert after | {"environment.json": b""} == before | {"environment.json": b""}


def test_a_run_cut_off_between_its_first_two_checkpoints_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """best.safetensors is there then, and last.safetensors is not."""

    def full(*_: object) -> None:
        raise UserError("disk full", exit_code=Exit.RESOURCES)

    run, every = new_run(tmp_path), "train.checkpoint_every=2"
    with monkeypatch.context() as patched:
        patched.setattr("sfl.training.recorder.Recorder._write_last", full)
        with pytest.raises(UserError, match="disk full"):
            fit(tiny_setup(every), run)
    assert (run.path / BEST).exists() and not (run.path / LAST).exists()
    fit(tiny_setup(every), Run(run.path))
    whole = new_run(tmp_path / "whole")
    fit(tiny_setup(every), whole)
    assert metrics(run) == metrics(whole) and same(tensors(run), tensors(whole))


def test_a_checkpoint_of_another_rule_or_route_is_refused(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with interrupted_after(1):
        fit(tiny_setup("learn.rule=fa"), run)
    for other in ("rule=kp", "rule=usf", "rule=backprop", "route=dfa"):
        with pytest.raises(UserError, match="not the settings with which the run was st") as error:
            fit(tiny_setup(f"learn.{other}"), Run(run.path))
        assert error.value.exit_code == Exit.RUN
    with pytest.raises(UserError, match="make it another experiment") as error:
        config_to_resume(Run(run.path), ["learn.rule=kp"])
    assert error.value.exit_code == Exit.USAGE


def test_a_checkpoint_without_its_feedback_weights_is_refused(tmp_path: Path) -> None:
    setup, run = tiny_setup("learn.rule=fa"), new_run(tmp_path)
    with interrupted_after(1):
        fit(setup, run)
    found = read_checkpoint(run.path / LAST)
    kept = {name: t for name, t in found.tensors.items() if not name.startswith("feedback.")}
    for tensors_, said in (
        (kept, r"is none there, the config's feedback has \(10, 1"),
        (found.tensors | {"feedback.x.weights": torch.ones(1)}, r"is \(1,\) there, .* has none"),
    ):
        with pytest.raises(UserError, match=f"a checkpoint of another feedback: .* {said}") as e:
            restore(replace(found, tensors=tensors_), build_learner(setup), setup.device)
        assert e.value.exit_code == Exit.RUN
