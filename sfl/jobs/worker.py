"""Runs in a process of their own: trained, resumed, or only measured. See sfl/jobs/child.py.

python -m sfl.jobs.worker reads requests from its input, each a line of JSON, and writes a line when
one is done. When the input is closed, because the process that started it closed it or died, it
stops as by SIGTERM, and saves.
"""

import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from sfl.cli import exits
from sfl.config.load import from_tree
from sfl.config.schema import Config
from sfl.config.yamlfile import YamlTree
from sfl.host_memory import reuse_memory


def main() -> None:
    """Does what the lines of the input ask for; exits as `sfl train` does after one that fails."""
    reuse_memory()
    exits.run(_work)


def _work(arguments: list[str]) -> None:
    lines = SimpleQueue[bytes]()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    images_read: dict[str, Any] = {}
    while True:
        todo = json.loads(lines.get())
        config = from_tree(YamlTree(todo["config"]))
        from sfl.training.images import images_of
        from sfl.training.start import train_at

        if todo["run"] is None:
            print(_measured(config, lines.get), flush=True)
            continue
        images = images_of(config, images_read)
        train_at(Path(todo["run"]), config, images, resumes=todo["resumes"])
        print("done", flush=True)


def _measured(config: Config, wait: Callable[[], object]) -> float:
    """The images a second that are trained; all that are measured together start together."""
    from sfl.jobs.speed import SECONDS, images_per_second
    from sfl.training.device import threads
    from sfl.training.setup import set_up

    def ready() -> None:
        print("ready", flush=True)
        wait()

    with threads(config.train.threads):
        return images_per_second(set_up(config), SECONDS, ready)


def _read(lines: "SimpleQueue[bytes]") -> None:
    # Without a buffer: a thread that waits for one when Python exits would abort the process.
    with open(0, "rb", buffering=0, closefd=False) as given:
        for line in given:
            lines.put(line)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
