"""The experiment, from top to bottom: build, train epoch by epoch, save, test, write down.

Everything a run leaves behind is written here, into a run directory that already exists.
"""

import math
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from sfl.data import train_batches
from sfl.display import TrainingDisplay
from sfl.errors import Exit, UserError
from sfl.files import write_text
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
from sfl.training.evaluate import evaluate
from sfl.training.optimizers import build_optimizer, learning_rate
from sfl.training.result import test_model, write_result
from sfl.training.seeding import generator, seed_global
from sfl.training.setup import Setup, build

STEPS_PER_LOOK = 20  # the display reads the device's sums this often, not at every step

Metrics = dict[str, Any]


def fit(setup: Setup, run: Run) -> dict[str, Any]:
    """Trains and tests; goes on from the run's last checkpoint if it has one.

    Returns the result that it wrote. The caller holds the run's lock.
    """
    config, device = setup.config, setup.device
    text = config.to_yaml(share=True)

    seed_global(config.train.seed, "initialisation")
    model = build(config, setup.dataset.in_dimensions, len(setup.dataset.classes)).to(device)
    if config.model.layer == "conv":
        model.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(config.optimizer, model)

    metrics: list[Metrics] = []
    images = setup.dataset.describe()
    if (run.path / LAST).exists():
        checkpoint = read_checkpoint(run.path / LAST)
        if checkpoint.progress.get("images", images) != images:
            raise UserError(
                f"{run.path}: was trained on other images than {config.data.source} holds now",
                exit_code=Exit.DATA,
            )
        load_weights(checkpoint, model)
        load_optimizer(checkpoint, optimizer)
        metrics = checkpoint.progress["metrics"]
    write_text(run.path / CONFIG, text)
    run.write_json(ENVIRONMENT, environment(device, setup.precision))
    run.write_metrics(metrics)
    if config.train.compile:
        model.compile()

    with TrainingDisplay(run.name, config.train.epochs, setup.steps_per_epoch) as display:
        for epoch in range(len(metrics) + 1, config.train.epochs + 1):
            line = train_epoch(setup, model, optimizer, epoch, display)
            line |= look(setup, model, epoch)
            metrics.append(line)
            saving = epoch % config.train.checkpoint_every == 0 or epoch == config.train.epochs
            if is_best(metrics) if setup.validation else saving:
                save_weights(run.path / BEST, model, text, {"images": images})
            if saving:
                progress = {"images": images, "metrics": metrics}
                save_checkpoint(run.path / LAST, model, optimizer, text, progress)
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


def train_epoch(
    setup: Setup,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    display: TrainingDisplay,
) -> Metrics:
    """One pass over the training images. No step waits for the device, but one in twenty."""
    config, seed = setup.config, setup.config.train.seed
    clip_norm = config.optimizer.clip_norm
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
    for step, (images, labels) in enumerate(batches):
        steps_before = (epoch - 1) * setup.steps_per_epoch + step
        lr = learning_rate(steps_before, setup.steps_per_epoch, config.optimizer.lr, config.train)
        for group in optimizer.param_groups:
            group["lr"] = lr
        seed_global(seed, "dropout", epoch, step)  # so that any step can be repeated by itself

        with autocast(setup.device, setup.precision):
            logits = model(images)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.train.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        if clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
        optimizer.step()

        loss_sum += loss.detach()
        correct += (logits.argmax(dim=1) == labels).sum()
        seen += len(labels)
        if (step + 1) % STEPS_PER_LOOK == 0:
            elapsed = time.perf_counter() - start
            loss_so_far, accuracy = float(loss_sum) / (step + 1), int(correct) / seen
            display.step(epoch, step + 1, loss_so_far, accuracy, seen / elapsed)

    train_loss = float(loss_sum) / setup.steps_per_epoch
    seconds = time.perf_counter() - start
    if not math.isfinite(train_loss):
        raise UserError(
            f"training diverged in epoch {epoch}: the loss is {train_loss} at lr {lr:g}",
            "lower optimizer.lr, or set optimizer.clip_norm",
            Exit.DIVERGED,
        )
    return {
        "epoch": epoch,
        "train_loss": train_loss,
        "train_accuracy": int(correct) / seen,
        "lr": lr,
        "seconds": seconds,
        "images_per_second": seen / seconds,
    }


def look(setup: Setup, model: nn.Module, epoch: int) -> Metrics:
    """Accuracy after an epoch: on the validation images, and on the test images if asked for."""
    found: Metrics = {}
    options = {"mean": setup.mean, "std": setup.std, "precision": setup.precision}
    if setup.validation is not None:
        evaluation = evaluate(model, setup.validation, **options)  # type: ignore[arg-type]
        found |= {
            "validation_loss": evaluation.loss,
            "validation_accuracy": evaluation.accuracy,
        }
    test_every = setup.config.train.test_every
    if test_every and epoch % test_every == 0:
        evaluation = evaluate(model, setup.test, **options)  # type: ignore[arg-type]
        found["test_accuracy"] = evaluation.accuracy
    return found


def is_best(metrics: list[Metrics]) -> bool:
    """Whether the newest epoch has the highest validation accuracy; the earliest wins a tie."""
    *before, newest = (line["validation_accuracy"] for line in metrics)
    return all(newest > accuracy for accuracy in before)
