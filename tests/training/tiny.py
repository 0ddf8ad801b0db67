"""Experiments that take a moment, for the tests of sfl.training."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from sfl.config import load as configs
from sfl.config.schema import Config
from sfl.data.dataset import Dataset, Split
from sfl.runs import store
from sfl.runs.directory import LAST, Run
from sfl.training import fit as fitting
from sfl.training.setup import Setup, set_up

SIMPLE = """
model: {name: SimpleModel, channels: [2]}
data: {source: shapes, batch_size: 32, shapes: {train: 64, test: 32}}
optimizer: {lr: 1.0e-2}
train: {epochs: 3, precision: float32, device: cpu}
"""
# With all that a step can depend on: dropout of both kinds, BatchNorm, a schedule, a ragged batch.
SPATIAL = """
model:
  name: SpatialDenseNet
  channels: [2, 2, 2, 3, 3, 4]
  hidden_sizes: [8]
  dropout: 0.3
  dropout2d: 0.3
data: {source: shapes, batch_size: 32, validation: 14, shapes: {train: 64, test: 32}}
optimizer: {lr: 1.0e-2, clip_norm: 1.0}
train: {epochs: 3, schedule: onecycle, label_smoothing: 0.1, precision: float32, device: cpu}
"""


def tiny_config(*changes: str, base: str = SIMPLE) -> Config:
    """The base with `a.b=v` changes put in before its defaults are resolved."""
    values = yaml.safe_load(base)
    for change in changes:
        key, _, value = change.partition("=")
        *sections, name = key.split(".")
        section = values
        for part in sections:
            section = section.setdefault(part, {})
        section[name] = yaml.safe_load(value)
    return configs.from_text(yaml.safe_dump(values), "tiny")


def tiny_setup(*changes: str, base: str = SIMPLE) -> Setup:
    return set_up(tiny_config(*changes, base=base))


def random_dataset(
    train: int = 64, test: int = 32, *, classes: int = 10, size: tuple[int, int, int] = (3, 32, 32)
) -> Dataset:
    generator = torch.Generator().manual_seed(7)

    def split(count: int) -> Split:
        images = torch.randint(0, 256, (count, *size), generator=generator, dtype=torch.uint8)
        return Split(images, torch.arange(count) % classes)

    names = tuple(f"class {number}" for number in range(classes))
    return Dataset("shapes", names, split(train), split(test))


def new_run(folder: Path, name: str = "run") -> Run:
    return store.create(folder, name)


def tensors(run: Run, name: str = LAST) -> dict[str, Tensor]:
    return load_file(run.path / name)


def metrics(run: Run) -> list[dict[str, Any]]:
    """A run's metrics without what the machine said."""
    clock = ("seconds", "images_per_second", "peak_memory_bytes")
    lines = Run(run.path).metrics
    return [{key: value for key, value in line.items() if key not in clock} for line in lines]


def result(run: Run) -> dict[str, Any]:
    """A run's result without what the machine said, and without its name."""
    found = Run(run.path).result
    assert found is not None
    clock = ("run", "seconds", "seconds_per_epoch", "peak_memory_bytes")
    return {key: value for key, value in found.to_dict().items() if key not in clock}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two files hold the same tensors, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@contextlib.contextmanager
def interrupted_after(epochs: int) -> Iterator[None]:
    """Training stops as by Ctrl-C, in the epoch after this many."""
    train_epoch: Callable[..., Any] = fitting.train_epoch  # type: ignore[attr-defined]

    def stop(*arguments: Any) -> Any:
        so_far = arguments[2]
        if so_far.number > epochs:
            raise KeyboardInterrupt
        return train_epoch(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "train_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            yield
