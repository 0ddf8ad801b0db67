"""Resumes a run: checks its settings and images, finds and restores its last checkpoint."""

from collections.abc import Sequence

import torch

from sfl.config.load import from_tree, override
from sfl.config.schema import MAY_CHANGE, Config
from sfl.errors import Exit, UserError
from sfl.learning.learner import Learner
from sfl.progress import say
from sfl.runs.directory import BEST, CONFIG, LAST, Run
from sfl.shell import command
from sfl.training.checkpoint import Checkpoint, check_tensors, read_checkpoint
from sfl.training.epoch import EpochSoFar, Metrics
from sfl.training.images import refuse_lost_root
from sfl.training.setup import Setup


def config_to_resume(run: Run, overrides: Sequence[str] = ()) -> Config:
    """The run's config with overrides. UserError (exit 2): they make it another experiment."""
    old = from_tree(run.config_tree)
    config = override(old, overrides)
    if not config.continues(old):
        raise UserError(
            f"--resume {run.name}: these settings would make it another experiment",
            f"only {', '.join(MAY_CHANGE)} may change; with schedule constant, train.epochs may "
            "be increased",
        )
    return config


def check_resumable(run: Run, config: Config) -> str | None:
    """The precision with which the run started; None if it has not started.

    It must be kept: `auto` may mean another one on this machine. Reads no images. Raises UserError
    (exit 4) if the run can't be resumed with this config, (exit 3) if nobody says where its images
    are.
    """
    _refuse_finished(run, config)
    if (run.path / LAST).exists():
        _refuse_other_settings(config, read_checkpoint(run.path / LAST, with_tensors=False))
    refuse_lost_root(run.path, config, from_tree(run.config_tree))
    return run.environment.precision if run.environment else None


def last_checkpoint(setup: Setup, run: Run) -> Checkpoint | None:
    """The checkpoint to resume from; None for a new run. UserError: it can't be resumed."""
    if not (run.path / LAST).exists():
        train = setup.config.train
        first = 1 if setup.validation is not None else min(train.checkpoint_every, train.epochs)
        # An epoch's metrics are written after both files. Without them the run was cut off between
        # the two, and begins anew; with them the other file was removed.
        if (run.path / BEST).exists() and len(run.metrics) >= first:
            hint = f"put it back, or train a new run with another name; {BEST} is still there"
            raise UserError(f"{run.path}: has no {LAST} to resume from", hint, Exit.RUN)
        return None
    checkpoint = read_checkpoint(run.path / LAST)
    if checkpoint.metrics is None:
        raise UserError(
            f"{checkpoint.path}: holds only weights; training can't be resumed from it",
            exit_code=Exit.RUN,
        )
    _refuse_other_images(run, checkpoint, setup)
    _refuse_other_settings(setup.config, checkpoint)
    then, now = checkpoint.taught_by, setup.taught_by
    if then and now and then["sha256"] != now["sha256"]:
        said = f"{run.path}: train.teacher: {setup.config.train.teacher} is not what it was"
        raise UserError(said, "put that teacher back, or train a new student", Exit.RUN)
    if checkpoint.metrics and setup.validation is not None:  # it may stay the best
        read_checkpoint(run.path / BEST, with_tensors=False)
    return checkpoint


def restore(
    checkpoint: Checkpoint | None, learner: Learner, device: torch.device
) -> tuple[list[Metrics], EpochSoFar | None]:
    """Loads the checkpoint into the learner.

    Returns the metrics of the finished epochs, and the unfinished epoch if the run was stopped in
    one. Raises UserError (exit 4) for a checkpoint of another model, rule or route.
    """
    if checkpoint is None:
        return [], None
    assert checkpoint.metrics is not None
    owners = {"feedback": learner.feedback.state(), "route": learner.route.state()}
    owners |= {"average": learner.average.state()} if learner.average else {}
    check_tensors(checkpoint, model=learner.model.state_dict(), **owners)
    learner.load_state(checkpoint.tensors)
    so_far, where = None, f"after epoch {len(checkpoint.metrics)}"
    if checkpoint.so_far is not None:
        so_far = EpochSoFar.restored(checkpoint.so_far, device)
        where = f"in epoch {so_far.number}, after step {so_far.steps}"
    say(f"{checkpoint.path.parent.name}: resuming {where}")
    return checkpoint.metrics, so_far


def _refuse_other_images(run: Run, checkpoint: Checkpoint, setup: Setup) -> None:
    """Raises UserError (exit 3) if the images are not those that the run was trained on."""
    now = setup.dataset.describe()
    if checkpoint.images == now:
        return
    known, seen = checkpoint.images["fingerprints"], setup.dataset.fingerprints
    if "validation" not in known and known | {"validation": seen.get("validation")} == seen:
        raise UserError(
            f"{run.path}: was trained without the validation images that the folder has now",
            "to go on as it began, rename their folder",
            Exit.DATA,
        )
    raise UserError(
        f"{run.path}: was trained on other images than data.source "
        f"{setup.config.data.source} has now",
        exit_code=Exit.DATA,
    )


def _refuse_other_settings(config: Config, checkpoint: Checkpoint) -> None:
    """Raises UserError (exit 4) if the checkpoint is of another experiment than the config."""
    if not config.continues(checkpoint.settings):
        raise UserError(
            f"{checkpoint.path.with_name(CONFIG)}: not the settings with which the run was started",
            f"restore the settings in {LAST}, or train a new run with another name",
            Exit.RUN,
        )


def _refuse_finished(run: Run, config: Config) -> None:
    """A finished run can be resumed only with more epochs, and from its last checkpoint."""
    if run.result is None:
        return
    if config.train.epochs <= run.result.epochs:
        hint = "more epochs: --set train.epochs=N; see it with"
        then = command("evaluate", run.path)
        raise UserError(f"{run.path}: has finished", hint, Exit.RUN, then)
    if not (run.path / LAST).exists():
        hint = "train.keep: weights deleted it when the run finished; train a new run"
        raise UserError(f"{run.path}: has no {LAST} to resume from", hint, Exit.RUN)
