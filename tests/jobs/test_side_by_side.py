"""Real runs in processes of their own: their results, their failures, and how they are stopped."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sfl.config.load import from_text, override
from sfl.errors import Exit, UserError
from sfl.jobs.child import Child
from sfl.jobs.job import AtOnce, Failure, Job
from sfl.jobs.pool import run_all
from sfl.runs.directory import BEST, LAST, PREDICTIONS, Run
from sfl.runs.store import list_runs
from sfl.training.images import load_images
from tests.training.tiny import SPATIAL, metrics, result, same, tensors

BASE = SPATIAL.replace("device: cpu", "device: cpu, threads: 1")
CONFIG = from_text(BASE, "tiny")


def job(name: str, *overrides: str) -> Job:
    return Job(name, override(CONFIG, overrides))


def train(jobs: list[Job], root: Path, at_once: int) -> list[Run | Failure]:
    return run_all(jobs, root, load_images, AtOnce(at_once))


def test_side_by_side_is_bit_for_bit_one_after_the_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And one that diverges stops none of the others."""
    jobs = [job("a"), job("bad", "optimizer.lr=1e30"), job("b", "train.seed=1")]
    first, failed, second = train(jobs, tmp_path / "beside", 2)
    said = capsys.readouterr().err
    for epoch in (1, 2, 3):
        assert f"a  epoch {epoch}/3  loss " in said and f"b  epoch {epoch}/3  loss " in said
    assert isinstance(failed, Failure) and failed.error.exit_code is Exit.DIVERGED
    assert failed.name == "bad" and "loss" in failed.error.message
    assert "bad: failed" in said
    assert said.count("spatial layers: ") == 1

    alone = train([jobs[0], jobs[2]], tmp_path / "alone", 1)
    for one, other in zip((first, second), alone, strict=True):
        assert isinstance(one, Run) and isinstance(other, Run)
        assert metrics(one) == metrics(other) and result(one) == result(other)
        assert same(tensors(one), tensors(other))  # weights and the optimizer's moments
        for name in (BEST, PREDICTIONS):
            assert (one.path / name).read_bytes() == (other.path / name).read_bytes()


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> "list[subprocess.Popen[bytes]]":
    """The processes of the workers, as they are started."""
    found = list[subprocess.Popen[bytes]]()

    def start(*arguments: Any, **options: Any) -> "subprocess.Popen[bytes]":
        found.append(subprocess.Popen(*arguments, **options))
        return found[-1]

    monkeypatch.setattr("sfl.jobs.child.subprocess", SimpleNamespace(Popen=start, PIPE=-1))
    return found


def test_a_worker_trains_one_run_after_another(tmp_path: Path, started: list[object]) -> None:
    """Starting one and reading its images takes longer than many a run."""
    short = ("train.epochs=1", "data.shapes.train=64")
    jobs = [job(name, f"train.seed={name}", *short) for name in "1234"]
    assert [Run(tmp_path / name) for name in "1234"] == train(jobs, tmp_path, 2)
    assert len(started) == 2


def test_workers_start_while_the_runs_are_checked_and_end_where_one_is_refused(
    tmp_path: Path, started: "list[subprocess.Popen[bytes]]", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfl.jobs.pool.usable_cores", lambda: 2)
    wide = job("wide", "model.channels=[1000000, 1000000, 1000000]")
    with pytest.raises(UserError, match="wide: "):
        train([job("a"), wide], tmp_path, 2)
    assert [process.poll() for process in started] == [-signal.SIGKILL] * 2
    with pytest.raises(UserError, match="wide: "):
        train([job("a"), job("b"), wide], tmp_path, 3)  # more than cores: first the memory
    assert len(started) == 2 and list(tmp_path.iterdir()) == []


def test_a_worker_is_told_its_place(tmp_path: Path) -> None:
    """Of the GPU that it is to use it hears when it has started, but has not looked for one."""
    with closing(Child({}, load_images)) as child:
        child.place = {"SFL_ENGINE": "reference"}
        child.train(override(CONFIG, ["train.epochs=1"]), tmp_path / "run", resumes=False)
        child.wait()
        environment = Run(tmp_path / "run").environment
        assert environment is not None and environment.engine == "reference"


def test_a_worker_is_given_the_images(tmp_path: Path) -> None:
    """A folder of many files is read once, not by each of the workers."""
    drawn = load_images(CONFIG)
    gone = override(CONFIG, ["data.source=folder", f"data.root={tmp_path / 'gone'}"])
    with closing(Child({}, lambda config: drawn)) as child:
        for name in "12":
            child.train(override(gone, ["train.epochs=1"]), tmp_path / name, resumes=False)
            child.wait()
            assert child.error() is None and Run(tmp_path / name).status == "finished"


def test_what_a_library_prints_is_no_answer(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, threading, time\n"
        "def say():\n"
        "    while True:\n"
        "        time.sleep(0.05)\n"
        "        if 'torch' in sys.modules: print('hello', flush=True)\n"
        "if 'NOISY' in os.environ: threading.Thread(target=say, daemon=True).start()\n"
    )
    noisy = {"PYTHONPATH": str(tmp_path), "NOISY": "1"}
    with closing(Child(noisy, load_images)) as child:
        child.train(CONFIG, tmp_path / "run", resumes=False)
        child.wait()
        assert child.error() is None and Run(tmp_path / "run").status == "finished"


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def compare(tmp_path: Path) -> Iterator[Start]:
    """Starts `sfl compare` of two networks by two jobs, with overrides."""
    started: list[subprocess.Popen[str]] = []
    for name, layer in (("one", "spatial"), ("two", "conv")):
        text = BASE.replace("SpatialDenseNet", f"SpatialDenseNet\n  layer: {layer}")
        (tmp_path / f"{name}.yaml").write_text(text)

    def begin(*overrides: str) -> "subprocess.Popen[str]":
        given = [word for one in overrides for word in ("--set", one)]
        names = ("one.yaml", "two.yaml", "--jobs", "2", "--runs", "runs")
        process = subprocess.Popen(
            [sys.executable, "-m", "sfl", "compare", *names, *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def wait_until(happened: Callable[[], object]) -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        (signal.SIGKILL, -signal.SIGKILL),
    ],
)
def test_a_signal_stops_all_and_they_are_saved(
    number: signal.Signals, code: int, compare: Start, tmp_path: Path
) -> None:
    """A killed parent, too, leaves no process that trains."""
    from sfl.training.checkpoint import read_checkpoint
    from sfl.training.resume import check_resumable

    process = compare("train.epochs=100000")
    runs = [Run(tmp_path / "runs" / f"{name}-s0") for name in ("one", "two")]
    wait_until(lambda: all((run.path / LAST).exists() for run in runs) or process.poll())
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code and "Traceback" not in err, err
    if number == signal.SIGKILL:
        wait_until(lambda: not any(run.is_locked() for run in runs))
    else:
        assert "stopped; the same command goes on with them" in err
    for run in runs:
        assert run.status == "interrupted"
        checkpoint = read_checkpoint(run.path / LAST)
        assert checkpoint.metrics == Run(run.path).metrics  # saved when it stopped
        check_resumable(run, from_text(run.config_text, "run"))


@pytest.mark.slow
def test_two_comparisons_at_once_train_each_run_once(compare: Start, tmp_path: Path) -> None:
    both = [compare("train.epochs=20"), compare("train.epochs=20")]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted(run.name for run in list_runs(tmp_path / "runs")) == ["one-s0", "two-s0"]
    for name in ("one-s0", "two-s0"):
        # Both may show how it gets on; trained twice, its epochs would have two speeds.
        shown = [line for _, err in said for line in err.splitlines()]
        assert len({line for line in shown if line.startswith(f"{name}  epoch ")}) == 20
    assert said[0][0] == said[1][0]  # the same table


@pytest.mark.slow
def test_auto_measures_real_processes(tmp_path: Path) -> None:
    from sfl.jobs.speed import fastest

    assert fastest(CONFIG, 1) == 1
    assert fastest(CONFIG, 2) in (1, 2)
