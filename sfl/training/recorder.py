"""Writes what a run leaves behind: config, environment, metrics, checkpoints, result, failure.

Rank 0 writes; on the other ranks of a torchrun nothing is written.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from sfl.errors import Exit, UserError
from sfl.files import atomic_path, check_space, write_text
from sfl.learning.divergence import refuse_weights
from sfl.learning.learner import Learner
from sfl.runs import directory
from sfl.runs.directory import Run
from sfl.runs.records import Environment, Result
from sfl.training.checkpoint import Checkpoint, write_checkpoint
from sfl.training.environment import environment
from sfl.training.epoch import EpochSoFar, Metrics
from sfl.training.evaluate import Evaluation
from sfl.training.memory import disk_bytes
from sfl.training.setup import Setup
from sfl.training.tensorboard import write_events


class Recorder:
    """The files of one run. Raises UserError where one can't be written (exit 4 or 6)."""

    def __init__(self, setup: Setup, run: Run) -> None:
        self._setup, self._run = setup, run
        self._writes = setup.world.is_first
        self._config = setup.config.to_yaml(share=True)
        self._images = setup.dataset.describe()

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Config, environment and the metrics so far; a result or failure of before goes.

        An environment in which a run goes on stands behind the first. Raises UserError (exit 6)
        where the disk has no room for a second checkpoint beside the last.
        """
        if not self._writes:
            return
        setup, run = self._setup, self._run
        _, most = disk_bytes(setup.summary, setup.config.optimizer, setup.config.train.keep)
        check_space(run.path, most - run.checkpoint_bytes)
        now = environment(setup.device, setup.precision).to_json()
        kept = run.environment
        first = kept.to_json() if kept else now | {"data": setup.dataset.provenance()}
        if any(first.get(key) != value for key, value in now.items()):
            first["resumed"] = [*first.get("resumed", []), now]
        for name in (directory.RESULT, directory.PREDICTIONS, directory.LABELS, directory.FAILURE):
            (run.path / name).unlink(missing_ok=True)
        write_text(run.path / directory.CONFIG, self._config)
        run.write_json(
            directory.ENVIRONMENT, Environment.check(first, directory.ENVIRONMENT).to_json()
        )
        self._write_metrics((checkpoint and checkpoint.metrics) or [])

    def epoch(self, learner: Learner, metrics: list[Metrics]) -> None:
        """After an epoch, whose line is the last of `metrics`: metrics, and what is due."""
        if not self._writes:
            return
        train, epoch = self._setup.config.train, len(metrics)
        due = epoch % train.checkpoint_every == 0 or epoch == train.epochs
        best = due if self._setup.validation is None else is_best(metrics)
        if due or best:
            refuse_weights(learner.model, epoch)
            state = learner.state()
            if best:
                weights = {name: t for name, t in state.items() if name.startswith("model.")}
                write_checkpoint(
                    self._run.path / directory.BEST, weights, self._config, self._images
                )
            # With best, too: or a run that goes on wouldn't know the epoch of its best weights.
            self._write_last(state, metrics)
        self._write_metrics(metrics, epoch - 1)

    def stopped(self, learner: Learner, metrics: list[Metrics], so_far: EpochSoFar) -> None:
        """In mid-epoch: all that going on needs. Every worker waits until it is written.

        If a rank exited before rank 0 has saved, torchrun would kill rank 0.
        """
        learner.guard.refuse(so_far.number, so_far.lr)
        if self._writes:
            refuse_weights(learner.model, so_far.number)
            self._write_last(learner.state(), metrics, so_far.saved())
        self._setup.world.wait()

    def finish(self, evaluation: Evaluation, result: Result) -> None:
        """predictions.npy and labels.npy, then result.json: a run with a result has everything.

        Drops what only going on would need, if the config says so.
        """
        if not self._writes:
            return
        predictions, labels = evaluation.predictions, evaluation.labels
        for name, classes in ((directory.PREDICTIONS, predictions), (directory.LABELS, labels)):
            with atomic_path(self._run.path / name) as temporary, temporary.open("wb") as file:
                np.save(file, classes.numpy())
        self._run.write_json(directory.RESULT, result.to_json())
        if self._setup.config.train.keep == "weights":
            (self._run.path / directory.LAST).unlink(missing_ok=True)

    @contextlib.contextmanager
    def failures_noted(self) -> Iterator[None]:
        """Leaves in the run why training ended, if it wasn't stopped."""
        try:
            yield
        except Exception as error:
            if isinstance(error, UserError) and error.exit_code is Exit.DIVERGED:
                last = self._run.path / directory.LAST
                error.message += f"; last good checkpoint: {last if last.exists() else 'none yet'}"
            if self._writes:
                self._run.write_failure(error)
            raise

    def _write_last(
        self, state: dict[str, Any], metrics: list[Metrics], so_far: dict[str, Any] | None = None
    ) -> None:
        path = self._run.path / directory.LAST
        write_checkpoint(path, state, self._config, self._images, metrics, so_far)

    def _write_metrics(self, metrics: list[Metrics], first: int = 0) -> None:
        """metrics.jsonl and, if asked for, TensorBoard's file; lines from `first` on are new."""
        self._run.write_metrics(metrics)
        if self._setup.config.train.tensorboard:
            write_events(self._run, metrics, first)


def is_best(metrics: list[Metrics]) -> bool:
    """Whether the newest epoch has the highest validation accuracy; the earliest wins a tie."""
    *before, newest = (line["validation_accuracy"] for line in metrics)
    return all(newest > accuracy for accuracy in before)
