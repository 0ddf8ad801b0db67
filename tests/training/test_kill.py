"""Killed at any moment, a run has a whole checkpoint, and goes on as if nothing had been."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from sfl.runs.directory import BEST, LAST, Run
from sfl.training.checkpoint import read_checkpoint
from sfl.training.fit import fit
from tests.training.tiny import SPATIAL, metrics, new_run, same, tensors, tiny_setup

KILLS = 50
# Under a constant schedule a longer run begins as a shorter one; an epoch, and a save, take 20 ms.
CHANGES = ("train.schedule=constant",)


def test_leftovers_are_removed_at_the_next_start(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    left = run.path / f".{LAST}.abc.tmp"
    left.write_bytes(b"half a checkpoint")
    from sfl.runs.directory import lock

    with lock(run):
        assert not left.exists()


@pytest.mark.slow
def test_killed_while_it_saves_all_the_time(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    values = yaml.safe_load(SPATIAL)
    values["train"] |= {"schedule": "constant", "epochs": 100_000}
    config.write_text(yaml.safe_dump(values))
    path, draw, found_half = tmp_path / "runs" / "killed", random.Random(0), 0
    begin = ["--config", str(config), "--name", "killed"]
    for kill in range(KILLS):
        killed_in(begin if kill == 0 else ["--resume", "killed"], tmp_path, path, draw)
        for name in (LAST, BEST):
            read_checkpoint(path / name)  # raises where the hash isn't that of the content
        found_half += any(path.glob(".*.tmp"))
        assert Run(path).status == "interrupted"
    assert found_half  # else no kill ever came in the middle of a write

    reached = read_checkpoint(path / LAST).metrics
    assert reached is not None and len(reached) > KILLS / 2
    straight = new_run(tmp_path, "straight")
    setup = tiny_setup(*CHANGES, f"train.epochs={len(reached)}", base=SPATIAL)
    fit(setup, straight)
    assert same(tensors(straight), tensors(Run(path)))
    clock = ("seconds", "images_per_second", "peak_memory_bytes")
    assert metrics(straight) == [
        {key: value for key, value in line.items() if key not in clock} for line in reached
    ]


def killed_in(arguments: list[str], folder: Path, run: Path, draw: random.Random) -> None:
    """Starts training and kills it at a random moment after it has saved something."""
    before = saved_at(run)
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # as the straight run has them
    process = subprocess.Popen(
        [sys.executable, "-m", "sfl", "train", *arguments, "--runs", str(folder / "runs")],
        stderr=subprocess.PIPE,
        env={**os.environ, **threads},
    )
    deadline = time.monotonic() + 120
    while saved_at(run) == before:
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(draw.uniform(0, 0.2))
    process.send_signal(signal.SIGKILL)
    process.communicate()


def saved_at(run: Path) -> int:
    """When the last checkpoint got its name."""
    return (run / LAST).stat().st_mtime_ns if (run / LAST).exists() else 0
