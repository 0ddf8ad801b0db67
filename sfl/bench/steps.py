"""Seconds and peak memory of whole training steps, optimizer and all: ours and the notebook's.

Each step runs in a process of its own (sfl.bench.worker): ours as `sfl train` takes it, the
notebook's in a plain Python. So each has its own peak of memory, which in one process never falls.
"""

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfl.bench.references import notebook_model
from sfl.bench.timing import added, interleaved
from sfl.config.load import load
from sfl.data.dataset import Dataset, Split
from sfl.host_memory import HUGE_PAGES
from sfl.learning.learner import Learner
from sfl.progress import track
from sfl.training.device import pick_device
from sfl.training.setup import build_learner, set_up

BATCH = 64  # the notebook's, and that of our configs of its networks
TURN_SECONDS = 0.1

# What is measured: a name, the config that it comes from and what is set beside it.
OURS = {
    "DeepNet, local": ("deep-local", ()),
    "SimpleModel, local": ("simple", ()),
    "SpatialDenseNet, local": ("spatial", ()),
    "SpatialDenseNet, dense": ("notebook/spatial", ("train.precision=auto",)),
    "RegularConvNet": ("conv", ()),
}
# The same with errors sent back otherwise, to be held against "local" and RegularConvNet.
OTHERWISE = {
    learn: (f"learn.{learn}",) for learn in ("rule=fa", "rule=usf", "rule=kp", "route=dfa")
}
# On a CUDA device, to be held against a step that is one graph.
WITHOUT_GRAPH = {"eager": ("train.graph=off",), "torch.compile": ("train.compile=true",)}
OURS |= {
    f"{name}, {how}": (config, overrides)
    for name, config in (("SpatialDenseNet, local", "spatial"), ("RegularConvNet", "conv"))
    for how, overrides in (OTHERWISE | WITHOUT_GRAPH).items()
}
NETWORKS = ("SimpleModel", "SpatialDenseNet", "RegularConvNet", "DeepNet")
NOTEBOOK = NETWORKS[:3]


class Worker:
    """The step of that name in another process."""

    def __init__(self, name: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sfl.bench.worker", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={name: value for name, value in os.environ.items() if name != HUGE_PAGES},
        )

    def seconds(self) -> float:
        """The median of the steps of a tenth of a second, at least two.

        The first is not counted: it brings its data into the caches.
        """
        taken = [self._step(), self._step()]
        while sum(taken) < TURN_SECONDS:
            taken.append(self._step())
        return statistics.median(taken[1:])

    def peak_bytes(self) -> int:
        """Ends it; the peak of its memory above torch's own."""
        left, _ = self._process.communicate()
        return int(left)

    def _step(self) -> float:
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # seen by what is read
            self._process.stdin.write("step\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self._process.communicate()  # which closes its pipes
            raise RuntimeError("its process has ended; it says why above")
        return float(line)


def measure(repetitions: int) -> list[dict[str, Any]]:
    """One entry a network: seconds and peak memory, ours and, where it had it, the notebook's."""
    found = []
    for network in track(NETWORKS, "Measuring steps"):
        ours = [name for name in OURS if name.startswith(network)]
        names = [f"{network}, notebook"] * (network in NOTEBOOK) + ours
        if pick_device("auto").type != "cuda":
            names = [name for name in names if not name.endswith(tuple(WITHOUT_GRAPH))]
        workers = {name: Worker(name) for name in names}
        timings = interleaved({n: w.seconds for n, w in workers.items()}, repetitions)
        steps = {
            name: {**added([timing]), "peak_bytes": workers[name].peak_bytes()}
            for name, timing in timings.items()
        }
        batch = load(OURS[ours[0]][0]).data.batch_size
        found.append({"network": network, "batch": batch, "steps": steps})
    return found


def our_step(name: str) -> Callable[[], object]:
    """A step of `sfl train`, on images that are drawn once."""
    learner, images, labels = our_learner(*OURS[name])
    return lambda: learner.step(images, labels, lr=3e-4)


def our_learner(config: str, overrides: Sequence[str]) -> tuple[Learner, Tensor, Tensor]:
    """What `sfl train` trains with, ready for a step, and a batch on its device."""
    loaded = load(config, ["data.source=shapes", "data.validation=0", *overrides])
    images, labels = _batch(loaded.data.batch_size)
    nothing = Split((images * 0).byte(), labels)
    setup = set_up(loaded, Dataset("shapes", tuple("0123456789"), nothing, nothing))
    learner = build_learner(setup)
    learner.model.train()
    return learner, images.to(setup.device), labels.to(setup.device)


def notebook_step(name: str) -> Callable[[], object]:
    """A step as the notebook took it: float32, Adam one weight tensor after the other."""
    device = pick_device("auto")
    model = notebook_model(name).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    images, labels = (each.to(device) for each in _batch(BATCH))
    return lambda: _plain_step(model, optimizer, images, labels)


def _plain_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def _batch(size: int) -> tuple[Tensor, Tensor]:
    return torch.randn(size, 3, 32, 32), torch.arange(size) % 10
