"""Whole training steps, optimizer and all: ours, and as the notebook wrote them."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfl.bench.references import notebook_model
from sfl.bench.timing import Timing, interleaved
from sfl.config import load
from sfl.data import Dataset, Split
from sfl.training.fit import train_step
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
    """One entry a network of the notebook: seconds of a step, ours and the notebook's."""
    found = []
    for name in NOTEBOOK:
        steps = {f"{name}, notebook": notebook_step(name)}
        steps |= {ours: our_step(ours) for ours in OURS if ours.startswith(name)}
        timings = interleaved(steps, repetitions)
        found.append(
            {
                "network": name,
                "batch": BATCH,
                "steps": {step: described(timing) for step, timing in timings.items()},
            }
        )
    return found


def described(timing: Timing) -> dict[str, float]:
    """A timing as plain values, in the words of `sfl bench --json`."""
    return {
        "seconds": timing.median,
        "smallest": timing.smallest,
        "largest": timing.largest,
        "n": timing.n,
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
    model.train()
    return lambda: train_step(setup, model, optimizer, images, labels)


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
