"""The experiment, from top to bottom: build, train epoch by epoch, save, test, write down.

Everything a run leaves behind is written here, into a run directory that already exists.
"""

import time
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfl.config import from_text
from sfl.data import train_batches
from sfl.display import TrainingDisplay, say
from sfl.errors import Exit, UserError
from sfl.files import write_text
from sfl.nn import kernel
from sfl.runs import BEST, CONFIG, ENVIRONMENT, LAST, Run
from sfl.training.checkpoint import (
    load_optimizer,
    load_weights,
    read_checkpoint,
    save_checkpoint,
    save_weights,
)
from sfl.training.device import autocast
from sfl.training.environment import environment
from sfl.training.evaluate import evaluate, refuse_divergence
from sfl.training.optimizers import build_optimizer, learning_rate
from sfl.training.result import test_model, write_result
from sfl.training.seeding import generator, seed_global
from sfl.training.setup import Setup, build

SECONDS_PER_LOOK = 0.5  # the display reads the device's sums this often, not at every step

Metrics = dict[str, Any]


def fit(setup: Setup, run: Run) -> dict[str, Any]:
    """Trains and tests; goes on from the run's last checkpoint if it has one.

    Returns the result that it wrote. The caller holds the run's lock. Raises UserError for a
    checkpoint of another model (exit 4) or other images (exit 3), for a loss that is no number any
    more (exit 5), and for what can't be written.
    """
    config, device = setup.config, setup.device

    describe_run(setup, run)  # first of all, so that it is a run if we are stopped from here on
    seed_global(config.train.seed, "initialisation")
    model = build(config, setup.dataset.in_dimensions, len(setup.dataset.classes)).to(device)
    optimizer = build_optimizer(config.optimizer, model)

    if config.model.storage == "local":
        say(f"spatial layers: {kernel.report(device)}")
    metrics = restore(setup, run, model, optimizer)
    run.write_metrics(metrics)
    if config.train.compile:
        model.compile()

    with TrainingDisplay(run.name, config.train.epochs, setup.steps_per_epoch) as display:
        for epoch in range(len(metrics) + 1, config.train.epochs + 1):
            line = train_epoch(setup, model, optimizer, epoch, display)
            line |= look(setup, model, epoch)
            metrics.append(line)
            save(setup, run, model, optimizer, metrics)
            run.write_metrics(metrics)
            display.epoch(line)

    load_weights(read_checkpoint(run.path / BEST), model)
    evaluation, result = test_model(setup, model)
    seconds = [line["seconds"] for line in metrics]
    result = {
        "run": run.name,
        "model": config.model.name,
        **result,
        "epochs": len(metrics),
        "seconds": sum(seconds),
        "seconds_per_epoch": sum(seconds) / len(seconds),
    }
    write_result(run, evaluation, result)
    if config.train.keep == "weights":
        (run.path / LAST).unlink(missing_ok=True)
    return result


def describe_run(setup: Setup, run: Run) -> None:
    """Writes the config and the environment; one in which a run goes on stands behind the first."""
    write_text(run.path / CONFIG, setup.config.to_yaml(share=True))
    now = environment(setup.device, setup.precision)
    first = run.environment or now | {"data": setup.dataset.provenance()}
    if any(first.get(key) != value for key, value in now.items()):
        first = {**first, "resumed": [*first.get("resumed", []), now]}
    run.write_json(ENVIRONMENT, first)


def restore(
    setup: Setup, run: Run, model: nn.Module, optimizer: torch.optim.Optimizer
) -> list[Metrics]:
    """Puts the run's last checkpoint into model and optimizer; returns its epochs' metrics."""
    if not (run.path / LAST).exists():
        if (run.path / BEST).exists():  # they are written together: one was taken away
            hint = f"put it back, or train anew under another name; {BEST} is whole"
            raise UserError(f"{run.path}: has no {LAST} to go on from", hint, Exit.RUN)
        return []
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
    began = from_text(checkpoint.config, str(checkpoint.path))
    if (began.identity(), began.train.seed) != (
        setup.config.identity(),
        setup.config.train.seed,
    ):
        raise UserError(
            f"{run.path / CONFIG}: says other settings than the run was begun with",
            f"put back what stands in {LAST}, or train anew under another name",
            Exit.RUN,
        )
    load_weights(checkpoint, model)
    load_optimizer(checkpoint, optimizer)
    say(f"{run.name}: going on after epoch {len(checkpoint.metrics)}")
    return checkpoint.metrics


def train_epoch(
    setup: Setup,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    display: TrainingDisplay,
) -> Metrics:
    """One pass over the training images. Only twice a second a step waits for the device."""
    config, seed = setup.config, setup.config.train.seed
    batches = train_batches(
        setup.train,
        batch_size=config.data.batch_size,
        crop_padding=config.data.augment.crop_padding,
        flip=config.data.augment.flip,
        mean=setup.mean,
        std=setup.std,
        order=generator(seed, "order", epoch),
        crops=generator(seed, "augmentation", epoch),
    )
    model.train()
    loss_sum = torch.zeros((), device=setup.device)
    correct = torch.zeros((), device=setup.device, dtype=torch.int64)
    seen, lr, start = 0, 0.0, time.perf_counter()
    next_look = start
    for step, (images, labels) in enumerate(batches):
        steps_before = (epoch - 1) * setup.steps_per_epoch + step
        lr = learning_rate(steps_before, setup.steps_per_epoch, config.optimizer.lr, config.train)
        for group in optimizer.param_groups:
            group["lr"] = lr
        seed_global(seed, "dropout", epoch, step)  # so that any step can be repeated by itself

        loss, hits = train_step(setup, model, optimizer, images, labels)

        loss_sum += loss
        correct += hits
        seen += len(labels)
        if time.perf_counter() >= next_look:
            loss_so_far, accuracy = float(loss_sum) / (step + 1), int(correct) / seen
            now = time.perf_counter()
            display.step(epoch, step + 1, loss_so_far, accuracy, seen / (now - start))
            next_look = now + SECONDS_PER_LOOK

    train_loss = float(loss_sum) / setup.steps_per_epoch
    seconds = time.perf_counter() - start
    refuse_divergence(train_loss, f"training loss of epoch {epoch}, at lr {lr:g},")
    return {
        "epoch": epoch,
        "train_loss": train_loss,
        "train_accuracy": int(correct) / seen,
        "lr": lr,
        "seconds": seconds,
        "images_per_second": seen / seconds,
    }


def train_step(
    setup: Setup,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """One step on images (B, C, H, W) and labels (B,); its loss () and correct predictions ().

    Both stay on the device: a step never waits for it.
    """
    optimizer.zero_grad()  # first, so that the last step's gradients don't lie beside activations
    loss, logits = forward(setup, model, images, labels)
    loss.backward()
    if setup.config.optimizer.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), setup.config.optimizer.clip_norm)
    optimizer.step()
    return loss.detach(), (logits.argmax(dim=1) == labels).sum()


def forward(
    setup: Setup, model: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss that is trained on, () float32, and the logits (B, classes)."""
    with autocast(setup.device, setup.precision):
        logits = model(images)
    smoothing = setup.config.train.label_smoothing
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing), logits


def look(setup: Setup, model: nn.Module, epoch: int) -> Metrics:
    """Accuracy after an epoch: on the validation images, and on the test images if asked for."""
    test = partial(evaluate, model, mean=setup.mean, std=setup.std, precision=setup.precision)
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


def save(
    setup: Setup,
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    metrics: list[Metrics],
) -> None:
    """Writes the checkpoints that are due after the newest epoch of `metrics`."""
    train, text = setup.config.train, setup.config.to_yaml(share=True)
    images = setup.dataset.describe()
    due = len(metrics) % train.checkpoint_every == 0 or len(metrics) == train.epochs
    best = due if setup.validation is None else is_best(metrics)
    if best:
        save_weights(run.path / BEST, model, text, images)
    if due or best:  # or a run that is gone on with wouldn't know the epoch of its best weights
        save_checkpoint(run.path / LAST, model, optimizer, text, images, metrics)


def is_best(metrics: list[Metrics]) -> bool:
    """Whether the newest epoch has the highest validation accuracy; the earliest wins a tie."""
    *before, newest = (line["validation_accuracy"] for line in metrics)
    return all(newest > accuracy for accuracy in before)
