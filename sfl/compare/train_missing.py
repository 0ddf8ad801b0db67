"""Trains the runs that a comparison lacks, after checking that each of them can be trained.

Nothing here computes on images; torch is imported when something is trained.
"""

from collections.abc import Sequence
from pathlib import Path

from sfl.compare.model import ComparedModel, Job
from sfl.compare.names import differing
from sfl.compare.plan import read_images, readable
from sfl.errors import Exit, UserError
from sfl.files import check_space
from sfl.progress import say
from sfl.runs import store
from sfl.runs.directory import Run

MOST_DIFFERING = 3  # settings in which a run may differ and still be named as a near one


def train_missing(models: Sequence[ComparedModel], root: Path, *, training: bool = True) -> None:
    """Says what is missing, then trains it: goes on with interrupted runs, starts the others.

    training: if False, UserError (exit 4) names what is missing.

    Raises UserError before the first run is trained if one of them can't be: a model that doesn't
    fit its images or the memory, a disk without room, a run that another process trains.
    """
    jobs = [(model, job) for model in models for job in model.missing]
    if not jobs:
        return
    names = ", ".join(job.name for _, job in jobs)
    if not training:
        near = [line for model in models if model.missing and (line := _nearest(model, root))]
        hint = "; ".join([*near, "without --no-train they are trained"])
        raise UserError(f"{root}: no finished run of {names} with these settings", hint, Exit.RUN)
    say(f"to be trained first: {names}")
    _refuse_what_cannot_run(jobs, root)
    for model, job in jobs:
        say(f"training {job.name}")
        model.runs[job.config.train.seed] = _train(model, job, root)
        model.missing.remove(job)


def _train(model: ComparedModel, job: Job, root: Path) -> Run:
    from sfl.training.start import resume, train

    if job.run is None:
        result = train(job.config, root, job.name, dataset=read_images(model))
        return Run(root / result["run"])
    _refuse_running(job)
    resume(job.run, job.config, read_images(model))
    return Run(job.run.path)  # a new object, because its files have changed


def _refuse_what_cannot_run(jobs: Sequence[tuple[ComparedModel, Job]], root: Path) -> None:
    """Raises what would stop one of the runs, now and not after hours of training the others."""
    from sfl.training.memory import disk_bytes
    from sfl.training.setup import set_up

    store.check_root(root)
    needed = kept = 0  # bytes: the most at any time; what the jobs so far leave on the disk
    for model, job in jobs:
        _refuse_running(job)
        setup = set_up(job.config, read_images(model))
        stays, most = disk_bytes(setup.summary, job.config.optimizer, job.config.train.keep)
        there = job.run.checkpoint_bytes if job.run else 0
        needed, kept = max(needed, kept + most - there), kept + stays - there
    check_space(root, needed)


def _refuse_running(job: Job) -> None:
    if job.run is not None and job.run.status == "running":
        raise UserError(f"{job.run.path}: is being trained now", "wait for it", Exit.RUN)


def _nearest(model: ComparedModel, root: Path) -> str | None:
    """The run that differs in the fewest settings, and in which; None if they are many."""
    fewest, found = MOST_DIFFERING + 1, None
    for run, config in readable(root):
        keys = sorted(differing(model.config, config))
        if keys and len(keys) < fewest:  # none: a run of another seed
            fewest, found = len(keys), f"{run.name} differs in {', '.join(keys)}"
    return found
