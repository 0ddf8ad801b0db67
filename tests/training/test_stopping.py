"""Stopping by a signal: real ones, in mid-epoch and in evaluation; going on as if never stopped."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sfl.learning.learner import Learner
from sfl.runs.directory import BEST, LAST, RESULT, Run
from sfl.training import evaluate as evaluating
from sfl.training.checkpoint import read_checkpoint
from sfl.training.fit import fit
from sfl.training.recorder import Recorder
from sfl.training.stopping import Stopped, asked, signals_noted, stop
from tests.training.tiny import SPATIAL, metrics, new_run, result, same, tensors, tiny_setup

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


def signals_at(
    call: int, number: signal.Signals, function: Callable[..., Any], times: int = 1
) -> Callable[..., Any]:
    """The function, in whose call of that number (from 0) signals come to this process."""
    calls = 0

    def calling(*arguments: Any, **keywords: Any) -> Any:
        nonlocal calls
        if calls == call:
            for _ in range(times):
                os.kill(os.getpid(), number)
        calls += 1
        return function(*arguments, **keywords)

    return calling


@pytest.mark.parametrize("number", CODES)
@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        (Learner, "step", 0),
        (Learner, "step", 1),  # the last one of the first epoch
        (Learner, "step", 4),
        (evaluating, "test_batches", 0),  # validation after the first epoch
        (evaluating, "test_batches", 3),  # the test set at the end
    ],
    ids=str,
)
def test_stopped_by_a_signal_anywhere_it_goes_on_as_if_never_stopped(
    module: Any,
    name: str,
    call: int,
    number: signal.Signals,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    setup = tiny_setup(base=SPATIAL)
    straight, run = new_run(tmp_path, "straight"), new_run(tmp_path, "stopped")
    fit(setup, straight)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, signals_at(call, number, getattr(module, name)))
        with pytest.raises(Stopped) as stopped:
            fit(setup, run)
    assert stopped.value.code == CODES[number]
    assert "stopping and saving (a second signal" in capsys.readouterr().err
    assert run.status == "interrupted" and not (run.path / RESULT).exists()
    fit(setup, Run(run.path))
    for file in (LAST, BEST):
        assert same(tensors(straight, file), tensors(run, file))
    assert metrics(straight) == metrics(Run(run.path))
    assert result(straight) == result(run)


def test_the_handler_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """It may interrupt what holds the locks of printing: printing there waits for ever."""
    with signals_noted():
        signal.raise_signal(signal.SIGINT)
        assert asked() == signal.SIGINT and capsys.readouterr().err == ""
    with pytest.raises(Stopped):
        stop(signal.SIGINT)
    assert "stopping and saving" in capsys.readouterr().err


RECIPES = {
    "plain": [],
    "augmented": ["data.augment={policy: rand, cutout: 8, crop_fill: reflect, flip: alternate}"],
    "sleep, kp": [
        "learn.sleep={every: 3, strength: 0.4, kernels: k2}",
        "learn.rule=kp",
        "optimizer={name: adamw, lr: 0.01, weight_decay: 0.1}",
    ],
    "dfa": ["learn.route=dfa"],
    "local": ["learn.route=local", "optimizer={lr: 0.01, name: adamw}"],
    "frozen": ["learn.route=frozen"],
}


@pytest.mark.parametrize("changes", RECIPES.values(), ids=RECIPES.keys())
def test_stopped_at_every_step_it_is_the_same_run(
    changes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = tiny_setup("train.epochs=2", *changes, base=SPATIAL)
    straight, run = new_run(tmp_path, "straight"), new_run(tmp_path, "stopped")
    fit(setup, straight)
    for step in range(2 * setup.steps_per_epoch):
        with monkeypatch.context() as patch:
            patch.setattr(Learner, "step", signals_at(0, signal.SIGINT, Learner.step))
            with pytest.raises(Stopped):
                fit(setup, Run(run.path))
        done = read_checkpoint(run.path / LAST).so_far
        assert done is not None and done["steps"] == step % setup.steps_per_epoch + 1
    fit(setup, Run(run.path))
    assert same(tensors(straight), tensors(run)) and metrics(straight) == metrics(Run(run.path))


def test_a_signal_while_the_result_is_written_ends_what_comes_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    told = signals_at(0, signal.SIGTERM, Recorder.finish)
    monkeypatch.setattr(Recorder, "finish", told)
    with pytest.raises(Stopped):
        fit(tiny_setup(), run)
    assert run.status == "finished"


def test_the_second_signal_leaves_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, step = new_run(tmp_path), Learner.step
    monkeypatch.setattr(Learner, "step", signals_at(1, signal.SIGTERM, step, times=2))
    with pytest.raises(SystemExit) as left:
        fit(tiny_setup(), run)
    assert left.value.code == 143 and not isinstance(left.value, Stopped)
    assert not (run.path / LAST).exists()  # in mid-step there was nothing to save


def test_a_terminal_that_goes_may_say_so_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shell sends SIGHUP, and so does the system: the step is finished all the same."""
    run, step = new_run(tmp_path), Learner.step
    monkeypatch.setattr(Learner, "step", signals_at(1, signal.SIGHUP, step, times=2))
    with pytest.raises(Stopped) as stopped:
        fit(tiny_setup(), run)
    assert stopped.value.code == 143
    so_far = read_checkpoint(run.path / LAST).so_far
    assert so_far is not None and so_far["steps"] == 2


def test_what_torchrun_passes_on_is_the_same_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfl.torchrun.count", lambda: 2)
    with signals_noted():
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGTERM)
        assert asked() == signal.SIGTERM
        monkeypatch.setattr("sfl.training.stopping.FORWARDED", 0.0)  # later
        with pytest.raises(SystemExit) as left:
            os.kill(os.getpid(), signal.SIGTERM)
        assert not isinstance(left.value, Stopped)


@pytest.mark.parametrize("ignored", [signal.SIGTERM, signal.SIGHUP])
def test_handlers_are_put_back_and_what_is_ignored_stays_so(ignored: signal.Signals) -> None:
    before = signal.signal(ignored, signal.SIG_IGN)
    own = signal.getsignal(signal.SIGINT)
    try:
        with signals_noted():
            assert signal.getsignal(ignored) is signal.SIG_IGN  # as under nohup
            os.kill(os.getpid(), signal.SIGINT)
            with pytest.raises(Stopped):
                stop(asked())
        assert signal.getsignal(signal.SIGINT) is own
        stop(asked())  # nobody asks any more
    finally:
        signal.signal(ignored, before)
