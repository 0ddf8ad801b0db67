"""A study whose processes are killed again and again ends as one that was let alone."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

BASE = """\
model: {name: SimpleModel, channels: [2], kernel_sizes: [3]}
data: {source: shapes, shapes: {train: 200, test: 40}, validation: 40}
train: {epochs: 3, device: cpu, threads: 1}
"""
STUDY = """\
base: base.yaml
axes:
  sharing: {local: {}, conv: {model.layer: conv}, wide: {model.channels: [4]}}
  learning: {backprop: {}, fa: {learn.rule: fa}, frozen: {learn.route: frozen}}
seeds: 2
tune: {optimizer.lr: [1.0e-3, 1.0e-2], epochs: 1}
"""
MEASURED = re.compile("second|peak_memory|methods|conclusion|remarks")  # and what is said of it


def start(runs: str, said: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "sfl", "grid", "study.yaml", "--jobs", "2", "--json"]
    with said.open("w") as errors:
        return subprocess.Popen(
            [*command, "--runs", runs], stdout=subprocess.PIPE, stderr=errors, text=True
        )


def result(process: "subprocess.Popen[str]") -> Any:
    printed = process.communicate()[0]
    assert process.returncode == 0
    return without_what_is_measured(json.loads(printed))


def without_what_is_measured(found: Any) -> Any:
    if isinstance(found, list):
        return [without_what_is_measured(each) for each in found]
    if not isinstance(found, dict):
        return found
    kept = {name: each for name, each in found.items() if not MEASURED.search(name)}
    return {name: without_what_is_measured(each) for name, each in kept.items()}


def worker_of(pid: int) -> int | None:
    """One of the processes that train for it."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with contextlib.suppress(FileNotFoundError):  # it may have ended
            if b"sfl.jobs.worker" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    return None


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="its workers are found in /proc")
def test_killed_five_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent.parent))
    Path("base.yaml").write_text(BASE)
    Path("study.yaml").write_text(STUDY)
    whole = result(start("whole", Path("whole.txt")))
    runs = len(list(Path("whole").glob("*/result.json")))
    assert runs == 9 * (2 + 2)
    moments = random.Random(0)
    for number, finished in enumerate(sorted(moments.sample(range(runs - 2), 5))):
        with start("killed", Path(f"{number}.txt")) as process:
            while len(list(Path("killed").glob("*/result.json"))) < finished or not (
                worker := worker_of(process.pid)
            ):
                assert process.poll() is None, "it ended before it was killed"
                time.sleep(0.01)
            time.sleep(moments.uniform(0, 0.3))
            os.kill(worker, signal.SIGKILL)
            os.kill(process.pid, signal.SIGKILL)
    assert result(start("killed", Path("last.txt"))) == whole
