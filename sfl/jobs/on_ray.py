"""Runs on a Ray cluster: each is a task of Ray's, which starts a worker where Ray puts it.

The folder of runs must be on a disk that all machines share, under one path; the images under one
path on each. See docs/cluster.md.
"""

import os
import socket
import time
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sfl.config.schema import Config
from sfl.config.yamlfile import YamlTree
from sfl.errors import Exit, UserError
from sfl.jobs.child import Child
from sfl.jobs.job import AtOnce, Job, state
from sfl.units import one_line

RETRIES = 3  # after machines that were lost
POLL = 0.5  # seconds between looks at a run


def connect(jobs: Sequence[Job], at_once: AtOnce) -> "list[OnRay]":
    """Connects to the cluster of RAY_ADDRESS, or starts one here; a trainer for each run at once.

    Raises UserError where Ray is not installed (exit 2) or its cluster can't be reached (exit 6).
    """
    if find_spec("ray") is None:
        raise UserError("--engine ray needs Ray, which is not there", "pip install ray")
    ray, address = _ray(), os.environ.get("RAY_ADDRESS", "")
    try:
        _knock(address)
        ray.init(log_to_driver=False, ignore_reinit_error=True)
    except (OSError, ValueError, RuntimeError) as error:  # OSError: ConnectionError, too
        said = f"Ray: {address}: can't be reached: {one_line(str(error))}"
        raise UserError(said, "set RAY_ADDRESS to a running cluster's", Exit.RESOURCES) from None
    if at_once.jobs not in (1, "auto"):
        return [OnRay(at_once.per_gpu) for _ in range(int(at_once.jobs))]
    has, config = ray.cluster_resources(), jobs[0].config
    room = has.get("CPU", 1) // threads(config)
    if on_gpu(config) and has.get("GPU"):
        room = has["GPU"] * at_once.per_gpu
    return [OnRay(at_once.per_gpu) for _ in range(max(1, int(room)))]


def _knock(address: str) -> None:
    """Raises OSError where nobody answers, for which Ray itself takes minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=10).close()


def threads(config: Config) -> int:
    """The cores that a run is given."""
    return config.train.threads or 1


def on_gpu(config: Config) -> bool:
    """Whether a run may be given a GPU, if the cluster has any."""
    return config.train.device in ("auto", "cuda")


class OnRay:
    """Gives runs to Ray, one after another. Each waits there until there is room for it."""

    def __init__(self, jobs_per_gpu: int) -> None:
        self._ray, self._jobs_per_gpu = _ray(), jobs_per_gpu
        self._task: Any = None

    def train(self, config: Config, path: Path, *, resumes: bool) -> None:
        """Ray's process finds out itself whether it resumes: it may be tried again."""
        gpus = bool(self._ray.cluster_resources().get("GPU")) and on_gpu(config)
        task = self._ray.remote(
            num_cpus=threads(config), num_gpus=1 / self._jobs_per_gpu if gpus else 0,
            max_retries=RETRIES,
        )(_train)  # fmt: skip
        given = config.model_dump(exclude_unset=True, exclude_none=True)
        self._task = task.remote(given, str(path.absolute()))

    @property
    def ended(self) -> bool:
        done, _ = self._ray.wait([self._task], timeout=0)
        return bool(done)

    def error(self) -> UserError | None:
        try:
            failure: tuple[str, int] | None = self._ray.get(self._task)
        except self._ray.exceptions.RayError as error:
            said = f"Ray: {str(error).splitlines()[0]}"
            return UserError(said, "", Exit.RESOURCES)
        return failure and UserError(failure[0], "", Exit(failure[1]))

    def stop(self) -> None:
        self._ray.cancel(self._task)

    def wait(self) -> None:
        self._ray.wait([self._task], timeout=None)

    def close(self) -> None:
        if self._task is not None and not self.ended:
            self._ray.cancel(self._task, force=True)


def _train(given: dict[str, Any], run: str) -> tuple[str, int] | None:
    """In a process of Ray's, perhaps for the second time: why the run failed; None if it did not.

    If Ray's process is killed, the worker notices and saves; Ray then tries again.
    """
    from sfl.config.load import from_tree

    path, config = Path(run), from_tree(YamlTree(given))
    while (there := state(path)) == "taken":
        time.sleep(1)
    if there == "finished":
        return None
    environment = {"OMP_NUM_THREADS": str(threads(config))}
    child = Child(environment)
    try:
        child.train(config, path, resumes=there == "interrupted")
        while not child.ended:  # not wait(): an interrupt would arrive when the run has ended
            time.sleep(POLL)
        error = child.error()
    except KeyboardInterrupt:  # Ray's way to cancel a task
        child.stop()
        child.wait()
        raise
    finally:
        child.close()
    return None if error is None else (str(error), int(error.exit_code))


def _ray() -> Any:
    return import_module("ray")  # which has no types
