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

from sfl.config.load import load
from sfl.data.dataset import Dataset, Split
from sfl.learning.divergence import Guard
from sfl.learning.seeding import seed_global
from sfl.training.setup import build_learner, set_up

LIBRARY = ctypes.CDLL(os.environ["LD_PRELOAD"])


def events(call: Callable[[], object]) -> Counter[str]:
    """How often what was asked of the GPU."""
    path = os.environ["FAKE_EVENTS"]
    LIBRARY.fake_events(path.encode())
    call()
    LIBRARY.fake_events(path.encode())
    with open(path) as lines:
        return Counter(line.split()[0] for line in lines)


def look(config: str, *overrides: str, batch: int = 64) -> dict[str, Any]:
    """The counts of an eager step, of the guard alone, and of a replay; memory in a step."""
    images = torch.zeros(2 * batch, 3, 32, 32, dtype=torch.uint8)
    split = Split(images, torch.arange(2 * batch) % 10)
    data = Dataset("shapes", tuple("0123456789"), split, split)
    sizes = ("data.validation=0", f"data.batch_size={batch}")
    overrides = ("data.source=shapes", "train.device=cuda", *sizes, *overrides)
    setup = set_up(load(config, list(overrides)), data)
    learner = build_learner(setup)
    learner.model.train()
    x, y = torch.zeros(batch, 3, 32, 32, device="cuda"), torch.zeros(batch, device="cuda").long()
    count = 0

    def step() -> None:
        nonlocal count
        seed_global(0, "dropout", 1, count)
        learner.step(x, y, lr=1e-3, step=count)
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
        "case": [config, *overrides[4:]],
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
