"""Writes the files of a run: config, environment, metrics, checkpoints, result, failure.

Only rank 0 writes.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sfl.errors import Exit, UserError
from sfl.files import atomic_path, check_space, write_text
from sfl.learning.divergence import refuse_weights
from sfl.learning.learner import Learner
from sfl.progress import say
from sfl.runs import directory
from sfl.runs.directory import Run
from sfl.runs.records import Environment, Result
from sfl.training.checkpoint import Checkpoint, write_checkpoint
from sfl.training.environment import engine_of, environment
from sfl.training.epoch import EpochSoFar, Metrics
from sfl.training.evaluate import Evaluation
from sfl.training.memory import disk_bytes
from sfl.training.setup import Setup
from sfl.training.tensorboard import write_events


class Recorder:
    """Writes the files of one run. Raises UserError (exit 4 or 6) if one can't be written."""

    def __init__(self, setup: Setup, run: Run) -> None:
        self._setup, self._run = setup, run
        self._writes = setup.world.is_first
        self._config = setup.config.to_yaml(share=True)
        self._images = setup.dataset.describe()
        self._machine = environment(setup.device, setup.precision)

    def begin(self, checkpoint: Checkpoint | None) -> None:
        """Writes config, environment and the metrics so far; removes an old result or failure.

        If a run is resumed in another environment, that is added to the first one. If epochs were
        trained that no checkpoint has, says so and keeps a copy of their metrics. Raises
        UserError (exit 6) if the disk has no space for a second checkpoint beside the last one.
        """
        if not self._writes:
            return
        setup, run = self._setup, self._run
        _, most = disk_bytes(setup.summary, setup.config)
        check_space(run.path, most - run.checkpoint_bytes)
        resumed = run.environment is not None
        about_weights = (directory.PREDICTIONS, directory.LABELS, directory.COPIES)
        for name in (directory.RESULT, *about_weights, directory.FAILURE):
            (run.path / name).unlink(missing_ok=True)
        write_text(run.path / directory.CONFIG, self._config)
        self._write_environment()
        metrics = (checkpoint and checkpoint.metrics) or []
        if resumed:
            self._keep_what_is_not_saved(len(metrics), checkpoint)
        self._write_metrics(metrics)

    def _write_environment(self) -> None:
        """What the run goes on with; beside the first one if it differs."""
        setup, run = self._setup, self._run
        now, kept = self._machine.to_dict(), run.environment
        about: dict[str, Any] = {"data": setup.dataset.provenance()}
        if skipped := setup.dataset.reading.get("skipped"):
            about["skipped_images"] = len(skipped)
        first = kept.to_dict() if kept else now | about
        latest = first.get("resumed", [first])[-1]
        if any(latest.get(key) != value for key, value in now.items()):
            first["resumed"] = [*first.get("resumed", []), now]
        run.write_json(
            directory.ENVIRONMENT, Environment.check(first, directory.ENVIRONMENT).to_dict()
        )

    def _note_engine(self) -> None:
        """Writes down that a GPU kernel has failed its check since."""
        engine = engine_of(self._setup.device, self._setup.precision)
        if engine != self._machine.engine:
            self._machine = self._machine.model_copy(update={"engine": engine})
            self._write_environment()

    def _keep_what_is_not_saved(self, saved: int, checkpoint: Checkpoint | None) -> None:
        """Of a run that is resumed; saved: the epochs that its checkpoint has."""
        run, every = self._run, self._setup.config.train.checkpoint_every
        trained = run.keep_unsaved_metrics(saved)
        if trained > saved:
            say(
                f"{run.name}: starts again at epoch {saved + 1}: of {trained} trained epochs "
                f"{saved} are in a checkpoint (train.checkpoint_every: {every}); the metrics of "
                f"all are kept in {run.path / directory.UNSAVED}"
            )
        elif checkpoint is None:
            say(f"{run.name}: has no checkpoint yet; starts at epoch 1")

    def epoch(self, learner: Learner, metrics: list[Metrics]) -> None:
        """Writes the metrics after an epoch (the last of `metrics`), and the checkpoints due."""
        if not self._writes:
            return
        self._note_engine()
        train, epoch = self._setup.config.train, len(metrics)
        due = epoch % train.checkpoint_every == 0 or epoch == train.epochs
        best = due if self._setup.validation is None else is_best(metrics)
        if due or best:
            refuse_weights(learner.model, epoch)
            if best:
                best_path = self._run.path / directory.BEST
                with learner.tested():
                    weights = {f"model.{n}": t for n, t in learner.model.state_dict().items()}
                    write_checkpoint(self._checkpoint(best_path, weights))
            # Also with each best: a resumed run must know the epoch of its best weights.
            self._write_last(learner.state(), metrics)
        self._write_metrics(metrics, epoch - 1)

    def stopped(self, learner: Learner, metrics: list[Metrics], so_far: EpochSoFar) -> None:
        """Saves an unfinished epoch, so that it can be resumed. Every rank waits for rank 0."""
        learner.guard.refuse(so_far.number, so_far.lr, so_far.steps)
        if self._writes:
            self._note_engine()
            refuse_weights(learner.model, so_far.number)
            self._write_last(learner.state(), metrics, so_far.saved())
        # If a rank exits before rank 0 has saved, torchrun kills the others.
        self._setup.world.wait()

    def finish(self, evaluation: Evaluation, result: Result) -> None:
        """Writes predictions.npy and labels.npy, then result.json: a run with it is complete.

        With train.keep: weights, deletes last.safetensors, which only resuming needs.
        """
        if not self._writes:
            return
        self._note_engine()
        predictions, labels = evaluation.predictions, evaluation.labels
        for name, classes in ((directory.PREDICTIONS, predictions), (directory.LABELS, labels)):
            with atomic_path(self._run.path / name) as temporary, temporary.open("wb") as file:
                np.save(file, classes.numpy())
        self._run.write_json(directory.RESULT, result.to_dict())
        if self._setup.config.train.keep == "weights":
            (self._run.path / directory.LAST).unlink(missing_ok=True)

    @contextlib.contextmanager
    def failures_noted(self) -> Iterator[None]:
        """Writes the reason to failure.txt if training raises an error (not if it is stopped)."""
        try:
            yield
        except Exception as error:
            if isinstance(error, UserError) and error.exit_code is Exit.DIVERGED:
                last = self._run.path / directory.LAST
                error.message += f"; last checkpoint: {last if last.exists() else 'none yet'}"
            if self._writes:
                self._run.write_failure(error)
            raise

    def _write_last(
        self, state: dict[str, Any], metrics: list[Metrics], so_far: dict[str, Any] | None = None
    ) -> None:
        path = self._run.path / directory.LAST
        write_checkpoint(self._checkpoint(path, state, metrics=metrics, so_far=so_far))

    def _checkpoint(self, path: Path, tensors: dict[str, Any], **more: Any) -> Checkpoint:
        taught_by = self._setup.taught_by
        return Checkpoint(path, tensors, self._config, self._images, taught_by=taught_by, **more)

    def _write_metrics(self, metrics: list[Metrics], first: int = 0) -> None:
        """Writes metrics.jsonl and, by `train.tensorboard`, its new lines (from `first`) there."""
        self._run.write_metrics(metrics)
        if self._setup.config.train.tensorboard:
            write_events(self._run, metrics, first)


def is_best(metrics: list[Metrics]) -> bool:
    """Whether the newest epoch has the highest validation accuracy; the earliest wins a tie."""
    *before, newest = (line["validation_accuracy"] for line in metrics)
    return all(newest > accuracy for accuracy in before)
