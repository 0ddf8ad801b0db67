"""Runs in a process of their own: trained, resumed, or only measured. See sfl/jobs/child.py.

python -m sfl.jobs.worker gets requests through its input, with their images where it hasn't had
them, and writes a line when one is done. When the input is closed, because the process that started
it closed it or died, it stops as by SIGTERM, and saves.
"""

import contextlib
import os
import pickle
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import TYPE_CHECKING

from sfl.cli import exits
from sfl.config.schema import Config
from sfl.host_memory import reuse_memory

if TYPE_CHECKING:
    from sfl.data.dataset import Dataset


def main() -> None:
    """Does what it is asked for; exits as `sfl train` does after what fails."""
    reuse_memory()
    exits.run(_work)


def _work(arguments: list[str]) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    requests = SimpleQueue[bytes]()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    from sfl.training.images import images_of
    from sfl.training.start import train_at

    def answer(what: object) -> None:
        print(what, file=answers, flush=True)

    def wait_for_others() -> None:
        answer("ready")
        requests.get()

    images_read = dict[str, "Dataset"]()
    while True:
        config, given, run, resumes, place = pickle.loads(requests.get())
        os.environ.update(place)
        images_read |= given
        images = images_of(config, images_read)
        if run is None:
            answer(_measured(config, images, wait_for_others))
            continue
        train_at(run, config, images, resumes=resumes)
        answer("done")


def _measured(config: Config, images: "Dataset", ready: Callable[[], object]) -> float:
    """The images a second that are trained. ready: called before the first step that counts."""
    from sfl.jobs.speed import SECONDS, images_per_second
    from sfl.training.device import threads
    from sfl.training.setup import set_up

    with threads(config.train.threads):
        return images_per_second(set_up(config, images), SECONDS, ready)


def _read(requests: "SimpleQueue[bytes]") -> None:
    # Without a buffer: a thread that waits for one when Python exits would abort the process.
    given = Connection(0, writable=False)
    with contextlib.suppress(EOFError, OSError):
        while True:
            requests.put(given.recv_bytes())
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
