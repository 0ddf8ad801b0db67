"""Real processes: signals to them, several at once, and readers while others write."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sfl.runs.directory import Run
from sfl.runs.store import list_runs
from tests.conftest import call_sfl as sfl
from tests.training.tiny import metrics, result, same, tensors

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}
# Two steps an epoch, and an evaluation that takes far longer than they do.
CONFIG = """
model: {name: SpatialDenseNet, channels: [2, 2, 2, 2, 2, 2], hidden_sizes: [4]}
data: {source: shapes, batch_size: 32, shapes: {train: 64, test: 2000}}
train: {epochs: EPOCHS, precision: float32, device: cpu, test_every: 1}
"""
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `sfl …`; whatever still runs at the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(*arguments: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "sfl", *map(str, arguments)],
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


@pytest.fixture
def config(tmp_path: Path) -> Callable[[int], Path]:
    def write(epochs: int) -> Path:
        path = tmp_path / f"e{epochs}.yaml"
        path.write_text(CONFIG.replace("EPOCHS", str(epochs)))
        return path

    return write


def wait_until(happened: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def images(root: Path, count: int) -> Path:
    """A folder of images, half of them to train on."""
    for number in range(count):
        name = "cat" if number % 4 < 2 else "dog"
        path = root / ("train" if number % 2 else "test") / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (number % 256, 0, 0)).save(path)
    return root


# --- signals


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_in_training_or_evaluation_saves_and_says_how_to_go_on(
    number: signal.Signals, start: Start, config: Callable[[int], Path], tmp_path: Path
) -> None:
    process = start("train", "--config", config(30), "--name", "a", "--runs", "runs")
    logged = tmp_path / "runs" / "a" / "metrics.jsonl"
    wait_until(lambda: logged.exists() and logged.stat().st_size, process)  # an epoch
    time.sleep(0.3)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (CODES[number], "") and "Traceback" not in err
    said = re.search("stopped; resume with: sfl (.*)\n", err)
    assert said is not None, err
    assert Run(tmp_path / "runs" / "a").status == "interrupted"
    again = start(*said[1].split())
    assert again.wait(60) == 0, again.communicate()[1]
    straight = start("train", "--config", config(30), "--name", "b", "--runs", "runs")
    assert straight.wait(60) == 0
    one, other = (Run(tmp_path / "runs" / name) for name in "ab")
    assert same(tensors(one), tensors(other))  # weights and the optimizer's moments
    assert metrics(one) == metrics(other) and result(one) == result(other)


@pytest.mark.parametrize("number", CODES)
def test_a_signal_while_images_are_decoded_leaves_nothing_behind(
    number: signal.Signals, start: Start, config: Callable[[int], Path], tmp_path: Path
) -> None:
    root = images(tmp_path / "images", 4000)
    before = sorted(root.rglob("*"))
    given = ("--set", "data.source=folder", "--set", f"data.root={root}")
    process = start("train", "--config", config(1), "--runs", "runs", *given)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Decoding"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == CODES[number] and "Traceback" not in err
    assert sorted(root.rglob("*")) == before
    assert not (tmp_path / "runs").exists()


def test_ctrl_c_in_an_evaluation(start: Start, trained: Path) -> None:
    process = start("evaluate", trained, "--set", "data.shapes.test=50000")
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("Drawing"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "") and "Traceback" not in err


# --- several at once


@pytest.mark.parametrize("count", [2, pytest.param(10, marks=pytest.mark.slow)])
def test_started_together_each_has_its_run_and_images_are_decoded_once(
    count: int, start: Start, config: Callable[[int], Path], tmp_path: Path
) -> None:
    root = images(tmp_path / "images", 400)
    given = ("--set", "data.source=folder", "--set", f"data.root={root}")
    processes = [
        start("train", "--config", config(1), "--runs", "runs", *given) for _ in range(count)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * count, said
    assert sum("Decoding the images" in err for err in said) == 1
    found = [run.name for run in list_runs(tmp_path / "runs") if run.status == "finished"]
    assert sorted(found) == sorted(f"e1-s0{'' if n == 1 else f'-{n}'}" for n in range(1, count + 1))
    assert [path.name for path in root.iterdir() if path.name.endswith(".lock")] == []


def test_readers_never_see_half_a_file(
    start: Start, config: Callable[[int], Path], tmp_path: Path, trained: Path
) -> None:
    small = ("--set", "data.shapes.test=10", "--set", "model.storage=dense")  # 5 MB a save
    changes: tuple[Any, ...] = ("--name", "a", "--runs", "runs", *small)
    process, runs = start("train", "--config", config(100_000), *changes), tmp_path / "runs"
    wait_until((runs / "a" / "best.safetensors").exists, process)
    first = (runs / "a" / "best.safetensors").stat().st_mtime_ns
    for _ in range(10):
        listed = sfl("runs", "--runs", runs, "--json")
        assert (listed.returncode, listed.stderr) == (0, "")
        assert '"status": "running"' in listed.stdout
        evaluated = sfl("evaluate", "a", "--runs", runs, "--json")
        assert evaluated.returncode == 0, evaluated.stderr
        # The other runs are looked through for those of the comparison.
        compared = sfl("compare", "conv", "spatial", "--no-train", "--runs", runs)
        assert compared.returncode == 4 and "no finished run of conv-s0" in compared.stderr
    assert process.poll() is None
    assert (runs / "a" / "best.safetensors").stat().st_mtime_ns != first  # it was written meanwhile

    second = sfl("train", "--resume", "a", "--runs", runs)
    assert second.returncode == 4
    assert f"{runs / 'a'}: another process is training it" in second.stderr
    assert sfl("runs", "rm", "a", "--yes", "--runs", runs).returncode == 4
    assert process.poll() is None
