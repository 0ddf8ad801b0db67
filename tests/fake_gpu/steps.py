"""python -m tests.fake_gpu.steps CASES, on a fake GPU: takes steps and counts what they ask it for.

CASES: JSON, a list of cases: a config's name, then overrides. Prints a line of JSON for each.
"""

import ctypes
import json
import os
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch

from sfl.bench.steps import our_learner
from sfl.learning.divergence import Guard
from sfl.learning.seeding import seed_global

LIBRARY = ctypes.CDLL(os.environ["LD_PRELOAD"])
KINDS = ("launch", "graph", "wait", "H2D", "D2H", "D2D")


def events(call: Callable[[], object]) -> Counter[str]:
    """How often what was asked of the GPU."""
    counted()
    call()
    return counted()


def counted() -> Counter[str]:
    """Since the last time."""
    return +Counter({kind: LIBRARY.fake_count(kind.encode()) for kind in KINDS})


def look(config: str, *overrides: str, batch: int = 64) -> dict[str, Any]:
    """The counts of an eager step, of the guard alone, and of a replay; memory in a step."""
    given = ("train.device=cuda", f"data.batch_size={batch}", *overrides)
    learner, images, labels = our_learner(config, given)
    count = 0

    def step() -> None:
        nonlocal count
        seed_global(0, "dropout", 1, count)
        learner.step(images, labels, lr=1e-3, step=count)
        count += 1

    step()
    torch.cuda.synchronize()
    resident = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    eager = events(step)
    peak = torch.cuda.max_memory_allocated() - resident
    guard = events(lambda: Guard.note(learner.guard, torch.zeros((), device="cuda")))
    step()
    recording = events(step)
    return {
        "case": [config, *overrides],
        "eager": eager,
        "guard": guard["launch"] - 1,  # of the loss
        "replay": events(step),
        "recorded": recording["graph"] == 1,
        "peak_megabytes": peak / 1e6,
    }


if __name__ == "__main__":
    for case in json.loads(sys.argv[1]):
        print(json.dumps(look(*case)), flush=True)
    os._exit(0)  # what ends CUDA would meet functions that aren't there
