"""Going on with a run: which settings may change, from which checkpoint, and putting it back."""

from collections.abc import Sequence

import torch

from sfl.config.load import from_text, from_tree, override
from sfl.config.schema import MAY_CHANGE, Config
from sfl.errors import PROGRAM, Exit, UserError
from sfl.learning.learner import Learner
from sfl.progress import say
from sfl.runs.directory import BEST, CONFIG, LAST, Run
from sfl.training.checkpoint import Checkpoint, check_weights, read_checkpoint
from sfl.training.epoch import EpochSoFar, Metrics
from sfl.training.setup import Setup


def config_to_resume(run: Run, overrides: Sequence[str] = ()) -> Config:
    """An interrupted run's config with these settings. Raises UserError for another experiment."""
    old = from_tree(run.config_tree)
    config = override(old, overrides)
    if not config.continues(old):
        raise UserError(
            f"--resume {run.name}: these settings would make it another experiment",
            f"only {', '.join(MAY_CHANGE)} may change; train.epochs upward, with schedule constant",
        )
    return config


def check_resumable(run: Run, config: Config) -> str | None:
    """The precision in which the run began; None: it hasn't begun.

    `auto` may mean another precision on this machine. Raises UserError (exit 4) where the run can't
    go on with this config; reads no images.
    """
    _refuse_finished(run, config)
    if (run.path / LAST).exists():
        _refuse_other_settings(config, read_checkpoint(run.path / LAST, with_tensors=False))
    return run.environment.precision if run.environment else None


def last_checkpoint(setup: Setup, run: Run) -> Checkpoint | None:
    """What the run goes on from; None: it begins. Raises UserError where it can't go on."""
    if not (run.path / LAST).exists():
        if (run.path / BEST).exists():  # both are written together: one was taken away
            hint = f"put it back, or train anew under another name; {BEST} is whole"
            raise UserError(f"{run.path}: has no {LAST} to go on from", hint, Exit.RUN)
        return None
    checkpoint = read_checkpoint(run.path / LAST)
    if checkpoint.metrics is None:
        raise UserError(
            f"{checkpoint.path}: holds weights alone; training can't go on from it",
            exit_code=Exit.RUN,
        )
    if checkpoint.images != setup.dataset.describe():
        raise UserError(
            f"{run.path}: was trained on other images than {setup.config.data.source} holds now",
            exit_code=Exit.DATA,
        )
    _refuse_other_settings(setup.config, checkpoint)
    if checkpoint.metrics and setup.validation is not None:  # it may be the best to the end
        read_checkpoint(run.path / BEST, with_tensors=False)
    return checkpoint


def restore(
    checkpoint: Checkpoint | None, learner: Learner, device: torch.device
) -> tuple[list[Metrics], EpochSoFar | None]:
    """Puts the checkpoint into the learner.

    Returns the metrics of the epochs that are done and, of an epoch in which it was stopped, what
    is done of it. Raises UserError (exit 4) for a checkpoint of another model.
    """
    if checkpoint is None:
        return [], None
    assert checkpoint.metrics is not None
    check_weights(checkpoint, learner.model)
    learner.load_state(checkpoint.tensors)
    so_far, where = None, f"after epoch {len(checkpoint.metrics)}"
    if checkpoint.so_far is not None:
        so_far = EpochSoFar.restored(checkpoint.so_far, device)
        where = f"in epoch {so_far.number}, after step {so_far.steps}"
    say(f"{checkpoint.path.parent.name}: going on {where}")
    return checkpoint.metrics, so_far


def _refuse_other_settings(config: Config, checkpoint: Checkpoint) -> None:
    """Raises UserError (exit 4) where a run can't go on from the checkpoint with these settings."""
    if not config.continues(from_text(checkpoint.config, str(checkpoint.path))):
        raise UserError(
            f"{checkpoint.path.with_name(CONFIG)}: says other settings than the run was begun with",
            f"put back what stands in {LAST}, or train anew under another name",
            Exit.RUN,
        )


def _refuse_finished(run: Run, config: Config) -> None:
    """A finished run goes on only with more epochs, from its last checkpoint."""
    if run.result is None:
        return
    if config.train.epochs <= run.result.epochs:
        hint = f"see it with: {PROGRAM} evaluate {run.path}; more epochs: --set train.epochs=N"
        raise UserError(f"{run.path}: has finished", hint, Exit.RUN)
    if not (run.path / LAST).exists():
        hint = "train.keep: weights dropped it when the run had finished"
        raise UserError(f"{run.path}: has no {LAST} to go on from", hint, Exit.RUN)
