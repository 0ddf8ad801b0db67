"""How long a run takes, from a few of its steps."""

import time
from itertools import islice

from sfl.learning.seeding import seed_global
from sfl.training.epoch import EpochSoFar, batches
from sfl.training.setup import Setup, build_learner

WARM_UP, TIMED = 2, 4  # steps; the first ones compile and allocate


def seconds_per_step(setup: Setup) -> float:
    """Of training, without what is done between epochs. Leaves nothing behind."""
    learner = build_learner(setup)
    learner.model.train()
    seed_global(setup.config.train.seed, "estimate")
    start = 0.0
    steps = islice(batches(setup, EpochSoFar.begin(1, setup.device)), WARM_UP + TIMED)
    for number, (images, labels) in enumerate(steps):
        if number in (0, WARM_UP):  # 0: an epoch may be shorter than the warm-up
            start, first = time.perf_counter(), number
        loss, _ = learner.step(images, labels, lr=setup.config.optimizer.lr, number=number)
        float(loss)  # waits for the device
    return (time.perf_counter() - start) / (number + 1 - first)
