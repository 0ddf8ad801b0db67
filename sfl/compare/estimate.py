"""What it takes to train the runs that a study lacks: time, from a few steps of each, and disk."""

from collections.abc import Iterable
from dataclasses import dataclass

from sfl.compare.model import ComparedModel, Job
from sfl.compare.plan import read_images


@dataclass(frozen=True)
class Estimate:
    """Of a number of runs, one after the other: seconds of training, bytes that stay on disk."""

    runs: int
    seconds: float
    bytes: int


def estimate(jobs: Iterable[tuple[ComparedModel, Job]]) -> Estimate:
    """Measures each model once: how long a step takes depends on neither seed nor rate.

    Raises UserError for a run that can't be trained here.
    """
    from sfl.training.device import threads
    from sfl.training.estimate import seconds_per_step
    from sfl.training.memory import disk_bytes
    from sfl.training.setup import set_up

    measured: dict[str, float] = {}
    runs, seconds, kept = 0, 0.0, 0
    for model, job in jobs:
        with threads(job.config.train.threads):
            setup = set_up(job.config, read_images(model))
            config = job.config
            key = f"{config.model} {config.learn} {config.data} {config.optimizer.name}"
            if key not in measured:
                measured[key] = seconds_per_step(setup)
        left = config.train.epochs - (len(job.run.metrics) if job.run else 0)
        runs, seconds = runs + 1, seconds + left * setup.steps_per_epoch * measured[key]
        kept += disk_bytes(setup.summary, config.optimizer, config.train.keep)[0]
    return Estimate(runs, seconds, kept)
