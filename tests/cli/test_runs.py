"""`sfl runs` as a person sees it: failures in words, and the table that is shown anew."""

import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sfl.errors import UserError
from sfl.runs.directory import Run
from tests.conftest import call_sfl as sfl
from tests.conftest import make_run


def test_why_a_run_failed_stands_below_the_table(runs_dir: Path) -> None:
    path = make_run(runs_dir / "odd-s0")
    (path / "result.json").unlink()
    Run(path).write_failure(UserError("training diverged"))
    lines = sfl("runs", "--runs", runs_dir).stdout.splitlines()
    assert lines[1].split()[:3] == ["odd-s0", "failed", "1/1"]
    assert lines[-1] == "odd-s0: training diverged"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such terminals")
def test_watch_shows_what_changes_until_ctrl_c(runs_dir: Path) -> None:
    make_run(runs_dir / "first-s0")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sfl", "runs", "--watch", "--runs", str(runs_dir)],
        stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    try:
        _wait_for(ours, "first-s0")
        make_run(runs_dir / "second-s0")
        _wait_for(ours, "second-s0")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        os.close(ours)
        os.close(theirs)


def _wait_for(terminal: int, words: str) -> None:
    seen, until = "", time.monotonic() + 60
    while words not in seen:
        assert time.monotonic() < until, seen
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 4096).decode(errors="replace")
