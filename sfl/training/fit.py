"""The experiment, from top to bottom: build, train epoch by epoch, save, test, write down.

Everything a run leaves behind is written here, into a run directory that already exists.
"""

import contextlib
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn

from sfl.config.load import from_text
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.files import check_space, write_text
from sfl.learning.divergence import Guard, refuse_weights
from sfl.learning.optimizers import build_optimizer
from sfl.learning.seeding import seed_global
from sfl.learning.world import World
from sfl.nn.engine.cpu import kernel
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.progress import TrainingDisplay, say
from sfl.runs.directory import (
    BEST,
    CONFIG,
    ENVIRONMENT,
    FAILURE,
    LABELS,
    LAST,
    PREDICTIONS,
    RESULT,
    Run,
)
from sfl.training.checkpoint import (
    Checkpoint,
    load_optimizer,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    save_weights,
)
from sfl.training.environment import environment
from sfl.training.epoch import EpochSoFar, Metrics, train_epoch
from sfl.training.evaluate import Evaluation, evaluate, refuse_divergence
from sfl.training.memory import Peak, disk_bytes
from sfl.training.setup import Setup, build
from sfl.training.stopping import Stopped, asked, signals_noted, stop
from sfl.training.tensorboard import write_events
from sfl.training.testing import cost, test_model, write_result


def fit(setup: Setup, run: Run) -> dict[str, Any]:
    """Trains and tests; goes on from the run's last checkpoint if it has one.

    Returns the result that it wrote. The caller holds the run's lock. Several workers (setup.world)
    all call it, and the first one writes. Raises UserError for a checkpoint of another model
    (exit 4) or other images (exit 3), for a loss that is no number any more (exit 5), for what
    can't be written, and a disk without room for two checkpoints (exit 6); Stopped after a signal,
    when all is saved.
    """
    config, device, world = setup.config, setup.device, setup.world

    checkpoint = last_checkpoint(setup, run)
    # Before the model is built, so that it is a run if we are stopped meanwhile.
    begin(setup, run, checkpoint)
    peak = Peak(device)
    seed_global(config.train.seed, "initialisation")
    model = build(config, setup.dataset.in_dimensions, len(setup.dataset.classes)).to(device)
    optimizer = build_optimizer(model, **config.optimizer.model_dump(exclude={"clip_norm"}))

    if config.model.storage == "local":
        say(f"spatial layers: {kernel.report(device)}")
    metrics, so_far = restore(checkpoint, setup, model, optimizer)
    if config.train.compile:
        model.compile()
    learner = world.parallel(model, sync_batchnorm=config.train.sync_batchnorm)

    with signals_noted(), failure_noted(run, world):
        with TrainingDisplay(run.name, config.train.epochs, setup.steps_per_epoch) as display:
            for epoch in range(len(metrics) + 1, config.train.epochs + 1):
                so_far = so_far or EpochSoFar.begin(epoch, device)
                guard = Guard(optimizer, last_good(run))
                peak.begin()
                try:
                    train_epoch(setup, learner, optimizer, guard, so_far, display)
                    line = so_far.line() | {"peak_memory_bytes": peak.bytes()}
                    line |= outside_shares(model) | look(setup, model, epoch)
                except Stopped:
                    guard.refuse(epoch, so_far.lr)
                    save_stopped(setup, run, model, optimizer, metrics, so_far)
                    world.wait()  # who leaves before it is saved has torchrun end the others
                    raise
                metrics.append(line)
                save(setup, run, model, optimizer, metrics)
                display.epoch(line)
                so_far = None

        if world.is_first:
            load_weights(read_checkpoint(run.path / BEST), model)
        world.copy_first(model)
        evaluation, result = test_model(setup, model)
        result = {"run": run.name, "model": config.model.name, **result, **cost(setup, metrics)}
        finish(setup, run, evaluation, result)
        stop(*world.largest(asked()))  # it came meanwhile: a comparison goes no further
    return result


@contextlib.contextmanager
def failure_noted(run: Run, world: World) -> Iterator[None]:
    """Leaves in the run why training ended, if it wasn't stopped."""
    try:
        yield
    except Exception as error:
        if world.is_first:
            run.write_failure(error)
        raise


def last_checkpoint(setup: Setup, run: Run) -> Checkpoint | None:
    """What the run goes on from; None: it begins. Raises UserError where it can't go on."""
    if not (run.path / LAST).exists():
        if (run.path / BEST).exists():  # they are written together: one was taken away
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
    refuse_other_settings(setup.config, checkpoint)
    if checkpoint.metrics and setup.validation is not None:  # no later epoch may be better
        read_checkpoint(run.path / BEST, with_tensors=False)
    return checkpoint


def refuse_other_settings(config: Config, checkpoint: Checkpoint) -> None:
    """Raises UserError (exit 4) where a run can't go on from the checkpoint with these settings."""
    if not config.continues(from_text(checkpoint.config, str(checkpoint.path))):
        raise UserError(
            f"{checkpoint.path.with_name(CONFIG)}: says other settings than the run was begun with",
            f"put back what stands in {LAST}, or train anew under another name",
            Exit.RUN,
        )


def begin(setup: Setup, run: Run, checkpoint: Checkpoint | None) -> None:
    """Writes config, environment (one in which a run goes on stands behind the first), metrics.

    A result of fewer epochs goes: what is trained on has not finished.
    """
    if not setup.world.is_first:
        return
    train = setup.config.train
    _, most = disk_bytes(setup.summary, setup.config.optimizer, train.keep)
    check_space(run.path, most - run.checkpoint_bytes)
    now = environment(setup.device, setup.precision)
    kept = run.environment
    first = kept.to_json() if kept else now | {"data": setup.dataset.provenance()}
    resumed = first.get("resumed", [])
    if any(first.get(key) != value for key, value in now.items()):
        first = {**first, "resumed": [*resumed, now]}
    for name in (RESULT, PREDICTIONS, LABELS, FAILURE):
        (run.path / name).unlink(missing_ok=True)
    write_text(run.path / CONFIG, setup.config.to_yaml(share=True))
    run.write_json(ENVIRONMENT, first)
    write_metrics(setup, run, (checkpoint and checkpoint.metrics) or [])


def write_metrics(setup: Setup, run: Run, metrics: list[Metrics], first: int = 0) -> None:
    """metrics.jsonl and, if asked for, TensorBoard's file, whose lines from `first` on are new."""
    run.write_metrics(metrics)
    if setup.config.train.tensorboard:
        write_events(run, metrics, first)


def restore(
    checkpoint: Checkpoint | None, setup: Setup, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[list[Metrics], EpochSoFar | None]:
    """Puts the checkpoint into model and optimizer.

    Returns the metrics of its epochs, and of the epoch in which it was stopped what is done.
    """
    if checkpoint is None:
        return [], None
    assert checkpoint.metrics is not None
    load_weights(checkpoint, model)
    load_optimizer(checkpoint, optimizer)
    so_far, where = None, f"after epoch {len(checkpoint.metrics)}"
    if checkpoint.so_far is not None:
        so_far = EpochSoFar.restored(checkpoint.so_far, setup.device)
        where = f"in epoch {so_far.number}, after step {so_far.steps}"
    say(f"{checkpoint.path.parent.name}: going on {where}")
    return checkpoint.metrics, so_far


def look(setup: Setup, model: nn.Module, epoch: int) -> Metrics:
    """Accuracy after an epoch: on the validation images, and on the test images if asked for."""
    setup.world.copy_first(model)  # whose statistics of batch normalisation are those saved
    test = partial(
        evaluate, model, mean=setup.mean, std=setup.std, precision=setup.precision,
        world=setup.world,
    )  # fmt: skip
    found: Metrics = {}
    if setup.validation is not None:
        evaluation = test(setup.validation)
        refuse_divergence(evaluation.loss, f"validation loss after epoch {epoch}")
        found |= {
            "validation_loss": evaluation.loss,
            "validation_accuracy": evaluation.accuracy,
        }
    test_every = setup.config.train.test_every
    if test_every and epoch % test_every == 0:
        found["test_accuracy"] = test(setup.test).accuracy
    return found


def outside_shares(model: nn.Module) -> Metrics:
    """For dense storage, how much of each layer's weights lies outside its receptive fields."""
    dense = {
        name: layer.outside_share()
        for name, layer in model.named_modules()
        if isinstance(layer, SpatialFeatureLayer) and layer.storage == "dense"
    }
    return {"outside_share": dense} if dense else {}


def save(
    setup: Setup,
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    metrics: list[Metrics],
) -> None:
    """Writes `metrics`, and the checkpoints that are due after the newest epoch of it."""
    if not setup.world.is_first:
        return
    train, text = setup.config.train, setup.config.to_yaml(share=True)
    images = setup.dataset.describe()
    due = len(metrics) % train.checkpoint_every == 0 or len(metrics) == train.epochs
    best = due if setup.validation is None else is_best(metrics)
    if due or best:
        refuse_weights(model, len(metrics), last_good(run))
    if best:
        save_weights(run.path / BEST, model, text, images)
    if due or best:  # or a run that is gone on with wouldn't know the epoch of its best weights
        save_checkpoint(run.path / LAST, model, optimizer, text, images, metrics)
    write_metrics(setup, run, metrics, len(metrics) - 1)


def save_stopped(
    setup: Setup,
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    metrics: list[Metrics],
    so_far: EpochSoFar,
) -> None:
    """Writes all that going on in mid-epoch needs."""
    if not setup.world.is_first:
        return
    refuse_weights(model, so_far.number, last_good(run))
    text, images = setup.config.to_yaml(share=True), setup.dataset.describe()
    save_checkpoint(run.path / LAST, model, optimizer, text, images, metrics, so_far.saved())


def finish(setup: Setup, run: Run, evaluation: Evaluation, result: dict[str, Any]) -> None:
    """Writes the result; drops what only going on would need, if the config says so."""
    if not setup.world.is_first:
        return
    write_result(run, evaluation, result)
    if setup.config.train.keep == "weights":
        (run.path / LAST).unlink(missing_ok=True)


def last_good(run: Run) -> str:
    """The run's last checkpoint, in words."""
    return str(run.path / LAST) if (run.path / LAST).exists() else "none yet"


def is_best(metrics: list[Metrics]) -> bool:
    """Whether the newest epoch has the highest validation accuracy; the earliest wins a tie."""
    *before, newest = (line["validation_accuracy"] for line in metrics)
    return all(newest > accuracy for accuracy in before)
