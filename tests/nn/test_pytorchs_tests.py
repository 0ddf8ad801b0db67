"""Our modules pass what PyTorch tests its own with, where PyTorch's own pass."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = Path(__file__).with_name("pytorchs_samples.py")
ROOT = SAMPLES.parents[2]
Results = list[tuple[str, str, str, "str | None", "str | None"]]


@pytest.fixture(scope="module")
def results() -> Results:
    if importlib.util.find_spec("expecttest") is None:
        pytest.skip("expecttest, which PyTorch's test code imports, is not installed")
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, str(SAMPLES)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    found: Results = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    ("check", "at_least"),
    [
        ("saved", 50), ("made_where_it_is_told", 50), ("one_image", 50), ("strided", 50),
        ("memory_format", 50), ("derivatives", 25), ("conv2d", 150), ("refused", 5),
    ],
)  # fmt: skip
def test_ours_fails_only_where_pytorchs_own_does(
    results: Results, check: str, at_least: int
) -> None:
    of_check = [result for result in results if result[0] == check]
    assert len(of_check) >= at_least
    assert [(*given, ours) for *given, ours, theirs in of_check if ours and not theirs] == []
    assert sum(theirs is not None for *_, theirs in of_check) <= 4
