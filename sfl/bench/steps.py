"""Whole training steps, optimizer and all: ours, and as the notebook wrote them.

Each in a process of its own, see sfl.bench.worker.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfl.bench.references import notebook_model
from sfl.bench.timing import Timing, interleaved
from sfl.bench.worker import Worker
from sfl.config import load
from sfl.data import Dataset, Split
from sfl.display import track
from sfl.training.divergence import Guard
from sfl.training.epoch import train_step
from sfl.training.optimizers import build_optimizer
from sfl.training.setup import build, set_up

BATCH = 64  # the notebook's

# What is measured: a name, the config that it comes from and what is set beside it.
OURS = {
    "SimpleModel, local": ("simple", ()),
    "SpatialDenseNet, local": ("spatial", ()),
    "SpatialDenseNet, dense": ("notebook/spatial", ("train.precision=auto",)),
    "RegularConvNet": ("conv", ()),
}
NOTEBOOK = ("SimpleModel", "SpatialDenseNet", "RegularConvNet")


def measure(repetitions: int) -> list[dict[str, Any]]:
    """One entry a network of the notebook: seconds and peak memory, ours and the notebook's."""
    found = []
    for network in track(NOTEBOOK, "Measuring steps", len(NOTEBOOK)):
        names = [f"{network}, notebook", *(name for name in OURS if name.startswith(network))]
        workers = {name: Worker(name) for name in names}
        timings = interleaved({n: w.seconds for n, w in workers.items()}, repetitions)
        steps = {name: _described(timings[name], workers[name].peak_bytes()) for name in names}
        found.append({"network": network, "batch": BATCH, "steps": steps})
    return found


def _described(timing: Timing, peak_bytes: int) -> dict[str, float]:
    return {
        "seconds": timing.median,
        "smallest": timing.smallest,
        "largest": timing.largest,
        "n": timing.n,
        "peak_bytes": peak_bytes,
    }


def our_step(name: str) -> Callable[[], object]:
    """A step of `sfl train`, on images that are drawn once."""
    config, overrides = OURS[name]
    images, labels = _batch()
    nothing = Split((images * 0).byte(), labels)
    dataset = Dataset("shapes", tuple("0123456789"), nothing, nothing)
    setup = set_up(load(config, ["data.source=shapes", *overrides]), dataset)
    model = build(setup.config, setup.dataset.in_dimensions, 10).to(setup.device)
    optimizer = build_optimizer(setup.config.optimizer, model)
    images, labels = images.to(setup.device), labels.to(setup.device)
    guard = Guard(optimizer)
    model.train()
    return lambda: train_step(setup, model, optimizer, images, labels, guard)


def notebook_step(name: str) -> Callable[[], object]:
    """A step as the notebook took it: float32, Adam one weight tensor after the other."""
    model = notebook_model(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
    images, labels = _batch()
    return lambda: _plain_step(model, optimizer, images, labels)


def _plain_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor
) -> None:
    optimizer.zero_grad()
    F.cross_entropy(model(images), labels).backward()
    optimizer.step()


def _batch() -> tuple[Tensor, Tensor]:
    return torch.randn(BATCH, 3, 32, 32), torch.arange(BATCH) % 10
