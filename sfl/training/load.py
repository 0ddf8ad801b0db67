"""Loads a run's trained model."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from sfl.config.load import from_text
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
    config = from_text(checkpoint.config, str(run.path / BEST))
    channels, height, width = checkpoint.images["in_dimensions"]
    model = restore(checkpoint, config)
    return LoadedRun(model.eval(), config, run.metrics, (channels, height, width))


def restore(checkpoint: Checkpoint, config: Config) -> nn.Module:
    """The config's model with the weights of a checkpoint, on the CPU.

    Raises UserError (exit 4) if they are another model's.
    """
    channels, height, width = checkpoint.images["in_dimensions"]
    model = build(config, (channels, height, width), len(checkpoint.images["classes"]))
    load_weights(checkpoint, model)
    return model
