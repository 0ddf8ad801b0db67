"""How long many runs take, from a few steps of each, and how large they are."""

from collections.abc import Sequence
from pathlib import Path

from sfl.config.load import flat
from sfl.jobs.check import told_of
from sfl.jobs.job import Job, ReadImages
from sfl.jobs.speed import images_per_second

SECONDS = 0.5  # of steps that are counted, for each network
ALIKE = ("train.epochs", "optimizer.lr", "optimizer.weight_decay")  # a step takes as long with any


def estimate(jobs: Sequence[Job], root: Path, read_images: ReadImages) -> tuple[float, int]:
    """Seconds of training, one run after the other, and the bytes that stay on the disk.

    Measures each network once, whatever its seeds, rates and epochs.

    Raises UserError for a run that can't be trained here.
    """
    from sfl.training.device import threads
    from sfl.training.memory import disk_bytes
    from sfl.training.setup import set_up

    measured: dict[str, tuple[float, int]] = {}  # by settings: seconds of an epoch, bytes of a run
    seconds, kept = 0.0, 0
    for job in jobs:
        config, train = job.config, job.config.train
        others = {k: v for k, v in flat(config.identity()).items() if k not in ALIKE}
        key = f"{others} {train.device} {train.threads} {train.graph} {train.keep}"
        if key not in measured:
            with threads(train.threads), told_of(job):
                setup = set_up(config, read_images(config), runs=root)
                epoch = len(setup.train) / images_per_second(setup, SECONDS)
            measured[key] = epoch, disk_bytes(setup.summary, config)[0]
        epoch, size = measured[key]
        seconds += epoch * (train.epochs - (len(job.run.metrics) if job.run else 0))
        kept += size
    return seconds, kept
