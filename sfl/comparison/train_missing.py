"""Trains the runs that a comparison lacks.

How runs are trained, and how many at once: sfl/jobs/.
"""

from collections.abc import Sequence
from pathlib import Path

from sfl.comparison.model import ComparedModel
from sfl.comparison.names import differing
from sfl.comparison.plan import images_reader, readable, refuse_other_images
from sfl.errors import Exit, UserError
from sfl.jobs.job import ONE, AtOnce, Failure, Outcome, raise_failures
from sfl.jobs.pool import run_all
from sfl.progress import say
from sfl.runs.directory import Run
from sfl.units import few

MOST_DIFFERING = 3  # settings in which a run may differ and still be named as a near one


def train_missing(
    models: Sequence[ComparedModel], root: Path, *, training: bool = True, at_once: AtOnce = ONE,
    may_diverge: bool = False,
) -> None:  # fmt: skip
    """Says what is missing, then trains it: goes on with interrupted runs, starts the others.

    training: if False, UserError (exit 4) names what is missing.
    at_once: how many, and by what. may_diverge: whether a run that diverges is no failure.

    Raises UserError before the first run is trained if one of them can't be, or couldn't be
    compared: a model that doesn't fit its images or the memory, a disk without room, other images
    than the first model's; after the last one if some have failed.
    """
    jobs = [(model, job) for model in models for job in model.missing]
    # One run of each first: what is interrupted has a row for every model, of fewer seeds.
    jobs.sort(key=lambda one: one[1].config.train.seed)
    if not jobs:
        return
    names = few([job.name for _, job in jobs])
    if not training:
        near = [line for model in models if model.missing and (line := _nearest(model, root))]
        hint = "; ".join([*near, "without --no-train they are trained"])
        raise UserError(f"{root}: no finished run of {names} with these settings", hint, Exit.RUN)
    refuse_other_images(models)
    say(f"to be trained first: {names}")
    read_images = images_reader(models[0].images_read)
    outcomes = run_all([job for _, job in jobs], root, read_images, at_once)
    for (model, job), outcome in zip(jobs, outcomes, strict=True):
        if isinstance(outcome, Run):
            model.runs[job.config.train.seed] = outcome
            model.missing.remove(job)
    raise_failures([one for one in outcomes if not (may_diverge and _has_diverged(one))])


def _has_diverged(outcome: Outcome) -> bool:
    return isinstance(outcome, Failure) and outcome.error.exit_code is Exit.DIVERGED


def _nearest(model: ComparedModel, root: Path) -> str | None:
    """The run that differs in the fewest settings, and in which; None if they are many."""
    fewest, found = MOST_DIFFERING + 1, None
    for run, config in readable(root):
        keys = sorted(differing(model.config, config))
        if keys and len(keys) < fewest:  # none: a run of another seed
            fewest, found = len(keys), f"{run.name} differs in {', '.join(keys)}"
    return found
