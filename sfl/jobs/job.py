"""A run that is to be trained, and how that ended; where it is, and who trains it.

Knows no processes, and not how a run is trained.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sfl.config.load import from_tree
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.progress import say
from sfl.runs import store
from sfl.runs.directory import CONFIG, Run
from sfl.runs.records import Provenance

if TYPE_CHECKING:
    from sfl.data.dataset import Dataset

ReadImages = Callable[[Config], "Dataset"]

# new: nobody has begun it; taken: a process trains it, or has just made its directory.
State = Literal["new", "taken", "interrupted", "finished"]


@dataclass(frozen=True)
class Job:
    """A run that is to be trained: its name, its config, and the unfinished run to go on with."""

    name: str
    config: Config
    run: Run | None = None


@dataclass(frozen=True)
class AtOnce:
    """How many runs are trained at once, and by what.

    jobs: 1: in this process, one after the other. More: each in a process of its own, with its
        share of the cores where train.threads is not set; the results are bit for bit those of one
        after the other with as many threads. auto: on GPUs as many as there are; else as many as
        train the most images a second, which is measured.
    per_gpu: how many of them share a GPU.
    engine: ray: on a Ray cluster; then 1 and auto are as many as it has room for.
    """

    jobs: int | Literal["auto"] = 1
    per_gpu: int = 1
    engine: Literal["processes", "ray"] = "processes"


ONE = AtOnce()


def at_once(jobs: str, per_gpu: int, engine: str) -> AtOnce:
    """What --jobs, --jobs-per-gpu and --engine say. Raises UserError (exit 2)."""
    if engine not in ("processes", "ray"):
        raise UserError(f"--engine {engine}: expected processes or ray")
    if jobs != "auto" and not re.fullmatch("[1-9][0-9]{0,3}", jobs):
        raise UserError(f"--jobs {jobs}: expected a number from 1, or auto")
    return AtOnce("auto" if jobs == "auto" else int(jobs), per_gpu, engine)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Failure:
    """A job that has not become a finished run: the run's name, and why."""

    name: str
    error: UserError


Outcome = Run | Failure


def told(outcomes: Sequence[Outcome]) -> list[Failure]:
    """The failures among them; says each, with its reason and exit code."""
    failures = [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    for failure in failures:
        say(f"{failure.name}: failed (exit code {failure.error.exit_code:d}): {failure.error}")
    return failures


def failed(failures: Sequence[Failure]) -> UserError:
    """What ends a command in which they failed, with the exit code of the first."""
    names, codes = ", ".join(f.name for f in failures), [f.error.exit_code for f in failures]
    again = "a run that diverged will do so again: give it a lower optimizer.lr, or leave it out"
    hint = again if set(codes) == {Exit.DIVERGED} else "the same command tries them again"
    return UserError(f"{len(failures)} run{'s' * (len(codes) > 1)} failed: {names}", hint, codes[0])


def locate(job: Job, root: Path, read_images: ReadImages) -> Path:
    """The run directory of a job, whether it exists or not: that of the same experiment and seed.

    read_images: other images of a folder make another experiment of the same settings.
    """
    if job.run is not None:
        return job.run.path
    return next(path for path in store.places(root, job.name) if _may_be(path, job, read_images))


def state(path: Path) -> State:
    """What there is to do for the run at a path that `locate` gave."""
    if (status := Run(path).status) in ("running", "finished"):
        return "taken" if status == "running" else "finished"
    return "interrupted" if (path / CONFIG).exists() else "new"


def _may_be(path: Path, job: Job, read_images: ReadImages) -> bool:
    if not (path / CONFIG).exists():  # locked: a process has just begun, and will say what it is
        return not path.exists() or store.is_blank(path) or Run(path).is_locked()
    run = Run(path)
    try:
        config, there = from_tree(run.config_tree), run.provenance
    except UserError:  # of another version, or damaged
        return False
    same = config.identity() == job.config.identity() and config.train.seed == job.config.train.seed
    if not same or there is None or config.data.source != "folder":
        return same
    return there == Provenance(**read_images(job.config).provenance())
