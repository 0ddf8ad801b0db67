"""A worker, seen from the process that starts it: what it is asked for, and why it failed.

Its input is a pipe: when that is closed, or this process dies, the worker stops and saves. It is in
a session of its own, so that a terminal's Ctrl-C reaches this process alone. One that has done what
it was asked for waits for the next request: starting one takes seconds.
"""

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing import Pipe
from pathlib import Path
from typing import IO

from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.host_memory import HUGE_PAGES
from sfl.jobs.job import ReadImages


class Child:
    """A worker; started now, so that several start together, and again after it has failed.

    environment: what differs from this process's own.
    read_images: the images of a config, which it is given; None: it reads them itself.
    place: also of its environment, but told with the first request: the GPU that it may use.
    """

    place: Mapping[str, str] = {}

    def __init__(
        self, environment: Mapping[str, str], read_images: ReadImages | None = None
    ) -> None:
        self._environment = environment
        self._read_images = read_images
        self._given = set[str]()  # what it has images of
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - the child's as long as it runs
        self._done = True
        self._start()

    def train(self, config: Config, path: Path, *, resumes: bool) -> None:
        """Has it train, or resume, the run of that directory. Does not wait."""
        self._ask(config, path.absolute(), resumes)

    def measure(self, config: Config) -> None:
        """Has it say "ready", wait for `tell`, and say how many images a second it trains."""
        self._ask(config, None, False)

    def _ask(self, config: Config, run: Path | None, resumes: bool) -> None:
        if self._process.poll() is not None:
            self._output.close()
            self._start()
        self._done = False
        key, images = config.data.images_key, {}
        if self._read_images is not None and key not in self._given:
            images[key] = self._read_images(config)
            self._given.add(key)
        self.tell((config, images, run, resumes, self.place))

    def _start(self) -> None:
        self._given.clear()
        self._said.seek(0)
        self._said.truncate()
        own = {name: value for name, value in os.environ.items() if name != HUGE_PAGES}
        requests, self._input = Pipe(duplex=False)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sfl.jobs.worker"],
            stdin=requests.fileno(),
            stdout=subprocess.PIPE,
            stderr=self._said,
            start_new_session=True,
            env={**own, **self._environment},
        )
        requests.close()

    def tell(self, what: object) -> None:
        """Sends it something; does nothing if it has ended."""
        with contextlib.suppress(BrokenPipeError):
            self._input.send_bytes(pickle.dumps(what))

    def hear(self) -> str:
        """The next line of its output; "" if it has ended."""
        return self._output.readline().decode()

    @property
    def ended(self) -> bool:
        """Whether what it was asked for is done, or has failed."""
        if not self._done and select.select([self._output], [], [], 0)[0]:
            self.wait()
        return self._done

    def stop(self) -> None:
        """Makes it stop at the end of a step, and save. Does not wait."""
        self._input.close()

    def wait(self) -> None:
        """Returns when `ended`."""
        if not self._done and not self.hear():
            self._process.wait()
        self._done = True

    def close(self) -> None:
        """Kills it if it still runs; it can't be asked any more."""
        self._process.kill()
        self._process.wait()
        self.stop()
        self._output.close()
        self._said.close()

    def error(self) -> UserError | None:
        """Why the last request failed; None if it did not."""
        code = self._process.poll()
        if not code:
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

    @property
    def _output(self) -> IO[bytes]:
        assert self._process.stdout is not None
        return self._process.stdout
