"""Loads a run's trained model."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sfl.config.schema import Config
from sfl.runs import store
from sfl.runs.directory import BEST, Run
from sfl.training.build import build
from sfl.training.checkpoint import Checkpoint, load_weights, read_checkpoint


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """The model with its best weights, on the CPU in evaluation mode; its config and metrics.

    in_dimensions: (C, H, W) of its training images.
    """

    model: nn.Module
    config: Config
    metrics: list[dict[str, Any]]
    in_dimensions: tuple[int, int, int]


def load_run(path: str | os.PathLike[str]) -> LoadedRun:
    """Loads a run: its directory, its name, or what `sfl.train` returned.

    Raises UserError (exit 4) if it has no usable checkpoint.
    """
    run = store.search(store.default_root(), os.fspath(path)) or Run(Path(path))
    checkpoint = read_checkpoint(run.path / BEST)
    config, (in_dimensions, _) = checkpoint.settings, checkpoint.sizes
    return LoadedRun(restore(checkpoint, config).eval(), config, run.metrics, in_dimensions)


def restore(checkpoint: Checkpoint, config: Config) -> nn.Module:
    """The config's model with the weights of a checkpoint, on the CPU.

    Raises UserError (exit 4) if they are another model's.
    """
    model = build(config, *checkpoint.sizes)
    load_weights(checkpoint, model)
    return model
