"""Whole training steps, optimizer and all: ours, and as the notebook wrote them.

Each in a process of its own, see sfl.bench.worker.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfl.bench.references import notebook_model
from sfl.config.load import load
from sfl.data.dataset import Dataset, Split
from sfl.training.setup import build_learner, set_up

BATCH = 64  # the notebook's

# What is measured: a name, the config that it comes from and what is set beside it.
OURS = {
    "SimpleModel, local": ("simple", ()),
    "SpatialDenseNet, local": ("spatial", ()),
    "SpatialDenseNet, dense": ("notebook/spatial", ("train.precision=auto",)),
    "RegularConvNet": ("conv", ()),
}
NOTEBOOK = ("SimpleModel", "SpatialDenseNet", "RegularConvNet")


def our_step(name: str) -> Callable[[], object]:
    """A step of `sfl train`, on images that are drawn once."""
    config, overrides = OURS[name]
    images, labels = _batch()
    nothing = Split((images * 0).byte(), labels)
    dataset = Dataset("shapes", tuple("0123456789"), nothing, nothing)
    setup = set_up(load(config, ["data.source=shapes", *overrides]), dataset)
    learner = build_learner(setup)
    images, labels = images.to(setup.device), labels.to(setup.device)
    learner.model.train()
    return lambda: learner.step(images, labels, lr=3e-4)


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
