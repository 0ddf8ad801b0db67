"""Trains the runs that a comparison lacks.

How runs are trained, and how many at once: sfl/jobs/.
"""

from collections.abc import Sequence
from pathlib import Path

from sfl.comparison.model import ComparedModel
from sfl.comparison.names import differing
from sfl.comparison.plan import Found, alike, images_reader, readable
from sfl.comparison.results import read_result
from sfl.errors import Exit, UserError
from sfl.jobs.job import ONE, AtOnce, Failure, Job, Outcome, told
from sfl.jobs.pool import run_all
from sfl.progress import say
from sfl.runs.directory import Run
from sfl.units import few

MOST_DIFFERING = 3  # settings in which a run may differ and still be named as a near one


def train_missing(
    models: Sequence[ComparedModel], root: Path, *,
    at_once: AtOnce = ONE, may_diverge: bool = False, later: Sequence[ComparedModel] = (),
) -> list[Failure]:  # fmt: skip
    """Says what is missing, then trains it: goes on with interrupted runs, starts the others.

    Says which of them failed, and returns those; the others are trained nevertheless.
    at_once: how many, and by what. may_diverge: whether a run that diverges is no failure.
    later: what will be trained after them; it is checked now, too.

    Raises UserError before the first run is trained if one of them can't be, or couldn't be
    compared: a model that doesn't fit its images or the memory, a disk without room, other images
    than the first model's; and for a finished run that is damaged.
    """
    jobs = _jobs(models)
    if not jobs:
        return []
    _refuse_damaged([*models, *later])
    say(f"to be trained first: {_names(jobs)}")
    to_come = [job for _, job in _jobs(later)]
    there = (run for model in models for run in model.runs.values() if run.status == "finished")
    read_images = alike(images_reader(models[0].images_read), there)
    outcomes = run_all([job for _, job in jobs], root, read_images, at_once, to_come)
    for (model, job), outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, Run):
            model.runs[job.config.train.seed] = outcome
            model.missing.remove(job)
    return told([one for one in outcomes if not (may_diverge and _has_diverged(one))])


def lacking(models: Sequence[ComparedModel], root: Path) -> UserError | None:
    """What is missing, as an error (exit 4); None if nothing is."""
    if not (jobs := _jobs(models)):
        return None
    own = {run.name for model in models for run in model.runs.values()}
    others = [found for found in readable(root) if found[0].name not in own]
    near = [line for model in models if model.missing and (line := _nearest(model, others))]
    hint = "; ".join([*near, "without --no-train they are trained"])
    said = f"{root}: no finished run of {_names(jobs)} with these settings"
    return UserError(said, hint, Exit.RUN)


def answered(
    models: Sequence[ComparedModel], first: str, why_not: UserError, *, unfinished: bool = False
) -> list[ComparedModel]:
    """The models that have a run which counts, where others have none.

    first: the name of the model that the others are compared with. why_not: what is raised if it
    has none, or is alone. unfinished: whether unfinished runs count.
    """

    def counts(run: Run) -> bool:
        return run.status == "finished" or (unfinished and run.has_weights)

    there = [model for model in models if any(map(counts, model.runs.values()))]
    if len(there) < 2 or there[0].name != first:
        raise why_not
    return there


def _refuse_damaged(models: Sequence[ComparedModel]) -> None:
    """Raises UserError (exit 4) for a finished run that can't be compared: now, not after hours."""
    for run in (run for model in models for run in model.runs.values()):
        if run.status == "finished":
            read_result(run)
            _ = run.metrics


def _jobs(models: Sequence[ComparedModel]) -> list[tuple[ComparedModel, Job]]:
    """What is missing: one run of each model first, so that what is cut off has all models."""
    jobs = [(model, job) for model in models for job in model.missing]
    return sorted(jobs, key=lambda one: one[1].config.train.seed)


def _names(jobs: Sequence[tuple[ComparedModel, Job]]) -> str:
    return few([job.name for _, job in jobs])


def _has_diverged(outcome: Outcome) -> bool:
    return isinstance(outcome, Failure) and outcome.error.exit_code is Exit.DIVERGED


def _nearest(model: ComparedModel, others: Sequence[Found]) -> str | None:
    """The run that differs in the fewest settings, and in which; None if they are many."""
    fewest, found = MOST_DIFFERING + 1, None
    for run, config in others:
        keys = sorted(differing(model.config, config))
        if keys and len(keys) < fewest:  # none: a run of another seed
            fewest, found = len(keys), f"{run.name} differs in {', '.join(keys)}"
    return found
