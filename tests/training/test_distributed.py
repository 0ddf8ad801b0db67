"""Two workers over gloo, started by torchrun as a user would: the run that one alone would make."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sfl import torchrun
from sfl.errors import UserError
from sfl.learning.world import ALONE, World
from sfl.runs.directory import Run
from sfl.training.checkpoint import read_checkpoint
from sfl.training.device import pick_device
from sfl.training.distributed import open_world
from sfl.training.resume import config_to_resume
from sfl.training.setup import set_up
from sfl.training.start import resume, train
from tests.training.tiny import metrics, tensors, tiny_config

# 65 images in batches of 32: the last has one, and the second worker nothing of it. 21 steps.
CONFIG = """
model: {name: SimpleModel, channels: [2]}
data: {source: shapes, batch_size: 32, validation: 15, shapes: {train: 80, test: 33}}
optimizer: {name: sgd, lr: 1.0e-3}
train: {epochs: 7, precision: float32, device: cpu, label_smoothing: 0.1}
"""
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    """`sfl train` with two workers."""
    return subprocess.Popen(
        [*TORCHRUN, "-m", "sfl", "train", *arguments, "--runs", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    """Their process numbers."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    return sorted(map(int, found.stdout.split()))


def wait_for_epoch(process: "subprocess.Popen[str]", run: Run) -> None:
    deadline = time.monotonic() + 120
    while not Run(run.path).metrics:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def alone(config: Path, folder: Path, name: str, *overrides: str) -> Run:
    from sfl.config.load import load

    train(load(config, overrides), folder, name)
    return Run(folder / name)


def expect_the_same_losses(one: Run, other: Run, within: float) -> None:
    first, second = metrics(one), metrics(other)
    assert [line["epoch"] for line in first] == [line["epoch"] for line in second]
    for mine, yours in zip(first, second, strict=True):
        for key in ("train_loss", "validation_loss"):
            assert mine[key] == pytest.approx(yours[key], abs=within), (mine, yours)
        assert mine["train_accuracy"] == yours["train_accuracy"]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG)
    return path


@pytest.mark.parametrize(
    "learn",
    [
        "rule: backprop",
        *(
            pytest.param(learn, marks=pytest.mark.slow)
            for learn in ("rule: kp", "route: dfa", "route: frozen", "sleep: {every: 3}")
        ),
    ],
)
def test_two_workers_make_the_run_that_one_makes(learn: str, config: Path, tmp_path: Path) -> None:
    config.write_text(config.read_text() + f"learn: {{{learn}}}\n")
    straight = alone(config, tmp_path, "alone")
    process = start(tmp_path, "--config", str(config), "--name", "two", "--json")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    two = Run(tmp_path / "two")
    assert two.result is not None and json.loads(out) == two.result.to_dict()  # one of them speaks
    assert err.count("epoch 7/7") == 1
    expect_the_same_losses(straight, two, 1e-5)
    for name, tensor in tensors(straight).items():
        assert torch.allclose(tensor, tensors(two)[name], atol=1e-5), name
    assert straight.result is not None
    assert straight.result.confusion == two.result.confusion
    assert two.environment is not None and two.environment.workers == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "config.yaml", "two"]


@pytest.mark.parametrize("told", ["first", "second", "all"])
def test_all_stop_when_one_is_told_to_and_one_alone_goes_on(
    told: str, config: Path, tmp_path: Path
) -> None:
    changes = ["train.epochs=150", "optimizer.lr=1e-4"]
    given = [part for change in changes for part in ("--set", change)]
    process, run = (
        start(tmp_path, "--config", str(config), "--name", "two", *given),
        tmp_path / "two",
    )
    wait_for_epoch(process, Run(run))
    first, second = workers_of(process)
    # All: as Slurm does; torchrun passes its own on, too.
    for number in {"first": [first], "second": [second], "all": [process.pid, first, second]}[told]:
        os.kill(number, signal.SIGTERM)
    err = process.communicate(timeout=120)[1]
    assert process.returncode == 1, err
    assert told == "all" or "exitcode  : 143" in err, err
    assert f"stopped; resume with: sfl train --resume {run}" in err
    assert Run(run).status in ("interrupted", "failed")  # failed: the first one was left alone
    reached = read_checkpoint(run / "last.safetensors")
    assert reached.metrics == Run(run).metrics
    assert reached.so_far is not None  # the step in which the signal came is not lost
    resume(Run(run), config_to_resume(Run(run)))
    straight = alone(config, tmp_path, "alone", *changes)
    expect_the_same_losses(straight, Run(run), 1e-4)


def test_a_killed_worker_ends_all_and_leaves_a_run_to_go_on_with(
    config: Path, tmp_path: Path
) -> None:
    given = ("--set", "train.epochs=100_000".replace("_", ""))
    process, run = (
        start(tmp_path, "--config", str(config), "--name", "two", *given),
        tmp_path / "two",
    )
    wait_for_epoch(process, Run(run))
    os.kill(workers_of(process)[-1], signal.SIGKILL)
    err = process.communicate(timeout=120)[1]
    assert (
        process.returncode == 1
        and 'Traceback (most recent call last):\n  File "' + str(run) not in err
    )
    assert "a bug of sfl" not in err, err
    assert Run(run).status in ("interrupted", "failed")  # failed: the first one was left alone
    done = len(read_checkpoint(run / "last.safetensors").metrics or [])
    assert done >= 1


SLOW_DISK = """
import os, time
real = os.fsync
def fsync(descriptor):
    if os.environ.get("RANK") == "0" and os.path.exists(os.environ["SLOW"]):
        time.sleep(6)
    real(descriptor)
os.fsync = fsync
"""


@pytest.mark.slow
def test_nobody_leaves_before_the_first_one_has_saved(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or torchrun would end it, for longer than what is taken for the same signal."""
    (tmp_path / "sitecustomize.py").write_text(SLOW_DISK)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.getcwd()}")
    monkeypatch.setenv("SLOW", str(tmp_path / "slow"))
    given = ("--config", str(config), "--name", "two", "--set", "train.epochs=100000")
    process, run = start(tmp_path, *given), tmp_path / "two"
    wait_for_epoch(process, Run(run))
    first, _ = workers_of(process)
    (tmp_path / "slow").touch()
    os.kill(first, signal.SIGTERM)
    err = process.communicate(timeout=120)[1]
    assert "exitcode  : 143" in err, err
    assert read_checkpoint(run / "last.safetensors").so_far is not None


def test_workers_that_would_train_other_things_are_refused(config: Path, tmp_path: Path) -> None:
    command = f"exec {sys.executable} -m sfl train --config {config} --runs {tmp_path / 'runs'}"
    process = subprocess.run(
        [*TORCHRUN, "--no-python", "sh", "-c", f"{command} --seed $RANK"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "worker 1 has other settings than worker 0 (all machines need" in process.stderr
    assert "exitcode  : 3" in process.stderr and not (tmp_path / "runs").exists()


def test_what_the_first_one_refuses_the_others_leave_silently(config: Path, tmp_path: Path) -> None:
    (tmp_path / "taken" / "by something").mkdir(parents=True)
    process = start(tmp_path, "--config", str(config), "--name", "taken")
    err = process.communicate(timeout=120)[1]
    assert err.count("error (worker") == 1 and "exists, and is not a run" in err
    assert "lost the other ranks" not in err and "SIGABRT" not in err


# --- one process


def test_alone_nothing_is_shared_and_nobody_waited_for() -> None:
    numbers, model = torch.arange(3), nn.Linear(1, 1)
    assert ALONE.is_first and ALONE.mine() == slice(0, None, 1)
    assert ALONE.sum(numbers) is numbers and ALONE.gather(numbers, 3) is numbers
    assert ALONE.largest(1, 2) == [1, 2] and ALONE.from_first(lambda: "a") == "a"
    assert ALONE.parallel(model) is model
    ALONE.copy_first(model)
    with open_world(torch.device("cpu")) as world:
        assert world == ALONE


@pytest.mark.parametrize("count", [0, 1, 5, 32])
def test_the_places_of_all_workers_are_all_places(count: int) -> None:
    places = [list(range(count))[World(3, rank).mine()] for rank in range(3)]
    assert sorted(itertools.chain(*places)) == list(range(count))
    assert max(map(len, places)) - min(map(len, places)) <= 1


@pytest.fixture
def second_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun says it."""
    told = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}
    told["LOCAL_WORLD_SIZE"] = "2"
    for name, value in told.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("second_of_two")
def test_who_it_is_comes_from_torchrun_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (torchrun.count(), torchrun.rank(), torchrun.local_rank()) == (2, 1, 1)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")  # another launcher's variables
    assert (torchrun.count(), torchrun.rank(), torchrun.local_rank()) == (1, 0, 0)


@pytest.mark.usefixtures("second_of_two")
@pytest.mark.parametrize(
    "command", [("evaluate",), ("compare", "conv", "spatial"), ("runs",), ("data",)]
)
def test_several_workers_only_train(
    command: tuple[str, ...], sfl: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = sfl(*command)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")  # the first one says it
    monkeypatch.setenv("RANK", "0")
    done = sfl(*command)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == (
        f"error (worker 0): torchrun works only with sfl train, not with sfl {command[0]}\n"
    )


def test_what_workers_cannot_do_is_refused() -> None:
    with pytest.raises(UserError, match="2 images can't be divided among 3 workers"):
        set_up(tiny_config("data.batch_size=2"), world=World(3, 0))
    with pytest.raises(UserError, match=r"train\.sync_batchnorm: PyTorch has it for CUDA devices"):
        set_up(tiny_config("train.sync_batchnorm=true"))


@pytest.mark.usefixtures("second_of_two")
def test_each_worker_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert pick_device("auto") == pick_device("cuda") == torch.device("cuda:1")
    with pytest.raises(UserError, match="torchrun gives each process a GPU"):
        pick_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for rank in ("0", "1"):  # the first, too: of such errors only its own is printed
        monkeypatch.setenv("LOCAL_RANK", rank)
        with pytest.raises(UserError, match="torchrun: 2 processes here, but CUDA devices: 1"):
            pick_device("auto")
