"""One run in a process of its own: trained, resumed, or only measured. See sfl/jobs/child.py.

python -m sfl.jobs.worker reads one line of JSON from its input, the request. When the input is
closed, because the process that started it closed it or died, it stops as by SIGTERM, and saves.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path

from sfl.cli import exits
from sfl.config.load import from_tree
from sfl.config.yamlfile import YamlTree
from sfl.host_memory import reuse_memory
from sfl.runs.directory import Run


def main() -> None:
    """Does what the first line of the input asks for, and exits as `sfl train` does."""
    reuse_memory()
    exits.run(_work)


def _work(arguments: list[str]) -> None:
    # Without a buffer: a thread that waits for one when Python exits would abort the process.
    with open(0, "rb", buffering=0, closefd=False) as lines:
        asked = lines.readline()
        if not asked:
            sys.exit(signal.SIGTERM + 128)
        todo = json.loads(asked)
        config = from_tree(YamlTree(todo["config"]))
        if todo["run"] is None:
            from sfl.jobs.speed import SECONDS, images_per_second
            from sfl.training.device import threads
            from sfl.training.setup import set_up

            def ready() -> None:  # all that are measured together start together
                print("ready", flush=True)
                lines.readline()

            with threads(config.train.threads):
                print(images_per_second(set_up(config), SECONDS, ready), flush=True)
            return
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    from sfl.training import start

    run = Run(Path(todo["run"]))
    if todo["resumes"]:
        start.resume(run, config)
    else:
        start.train(config, run.path.parent, run.name, exact=True)


def _stop_with_parent() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
