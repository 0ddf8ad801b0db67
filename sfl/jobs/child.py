"""A worker, seen from the process that started it: its start, its end, and why it failed.

Its input is a pipe: when that is closed, or this process dies, the worker stops and saves. It is in
a session of its own, so that a terminal's Ctrl-C reaches this process alone.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.host_memory import HUGE_PAGES


def asked(config: Config, run: Path | None = None, *, resumes: bool = False) -> dict[str, Any]:
    """What a worker is to do with a config, which it gets as it was given: to train or to resume a
    run, or, without one, to measure how fast it is trained."""
    given = config.model_dump(exclude_unset=True, exclude_none=True)
    return {"config": given, "run": run and str(run.absolute()), "resumes": resumes}


class Child:
    """A worker that has been started. environment: what differs from this process's own."""

    def __init__(self, request: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - the child's as long as it runs
        own = {name: value for name, value in os.environ.items() if name != HUGE_PAGES}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sfl.jobs.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,
            env={**own, **environment},
        )
        self.tell(json.dumps(request))

    def tell(self, line: str) -> None:
        """Writes a line to its input; does nothing if it has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()

    def hear(self) -> str:
        """The next line of its output; "" if it has ended."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode()

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def stop(self) -> None:
        """Makes it stop at the end of a step, and save. Does not wait."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def wait(self) -> None:
        """Returns when it has ended."""
        self._process.wait()

    def close(self) -> None:
        """Kills it if it still runs; it can't be asked any more."""
        self._process.kill()
        self._process.wait()
        self.stop()
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._said.close()

    def error(self) -> UserError | None:
        """Why it failed, of one that has ended; None if it did not."""
        code = self._process.returncode
        if code == Exit.DONE:
            return None
        if code < 0:
            said = f"its process was killed by {signal.Signals(-code).name}"
            return UserError(said, "perhaps the machine had no memory left", Exit.RESOURCES)
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").splitlines()
        reasons = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        known = {exit_.value for exit_ in Exit}
        exit_code = Exit(code) if code in known else Exit.BUG
        return UserError((reasons or lines or ["it said nothing"])[-1], "", exit_code)
