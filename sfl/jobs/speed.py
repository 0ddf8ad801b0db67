"""How many runs side by side are fastest on this machine's processor: measured by a few steps."""

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sfl.config.load import override
from sfl.config.schema import Config
from sfl.cores import usable_cores
from sfl.progress import say

if TYPE_CHECKING:
    from sfl.jobs.job import ReadImages
    from sfl.training.setup import Setup

SECONDS = 2.0  # of steps that are counted
# It lies in the folder of the runs, which those that measure don't know, and changes little.
WITHOUT_TEACHER = [f"train.teacher{what}=null" for what in ("", "_temperature", "_share")]


def thread_share(at_once: int) -> dict[str, str]:
    """The environment by which one of so many runs at once has its share of the cores.

    {} where this process's own says it. A run whose config says it (train.threads) has those.
    """
    if "OMP_NUM_THREADS" in os.environ:
        return {}
    return {"OMP_NUM_THREADS": str(max(1, usable_cores() // at_once))}


def fastest(config: Config, most: int, read_images: "ReadImages | None" = None) -> int:
    """With how many processes of the config, up to `most`, the machine trains the most images a
    second. Tries 1, 2, 4… until it is slower again; says what it found.
    """
    speeds = dict[int, float]()
    at_once = 1
    say("measuring how many runs side by side are fastest ...")
    config = override(config, WITHOUT_TEACHER)
    while at_once <= most:
        speeds[at_once] = _together(config, at_once, read_images)
        if speeds[at_once] < max(speeds.values()):
            break
        at_once *= 2
    best = max(speeds, key=lambda one: speeds[one])
    found = ", ".join(f"{one}: {speed:,.0f} images/s" for one, speed in speeds.items())
    say(f"runs side by side: {best} ({found})")
    return best


def images_per_second(
    setup: "Setup", seconds: float, ready: Callable[[], object] = lambda: None
) -> float:
    """Training steps on the first batch. ready: called before the first step that counts."""
    from sfl.data.batches import normalize
    from sfl.training.setup import build_learner

    learner, first = build_learner(setup), setup.train[: setup.config.data.batch_size]
    images, labels = normalize(first.images, setup.mean, setup.std), first.labels
    learner.model.train()
    learner.step(images, labels, lr=setup.config.optimizer.lr)  # loads what is loaded once
    ready()
    done, start = 0, time.perf_counter()
    while time.perf_counter() < start + seconds:
        loss, _ = learner.step(images, labels, lr=setup.config.optimizer.lr)
        float(loss)  # waits for the device
        done += len(images)
    return done / (time.perf_counter() - start)


def _together(config: Config, at_once: int, read_images: "ReadImages | None") -> float:
    """The images a second of so many processes, in sum; 0 if one of them fails."""
    from sfl.jobs.child import Child

    with ExitStack() as closed:
        children = [Child(thread_share(at_once), read_images) for _ in range(at_once)]
        for child in children:
            closed.callback(child.close)
            child.measure(config)
        if not all(child.hear() for child in children):
            return 0.0
        for child in children:
            child.tell("go")
        return sum(float(child.hear() or 0) for child in children)
