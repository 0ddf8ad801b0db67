"""An epoch: one pass over the training images, and the measurements after it.

An unfinished epoch can be saved and resumed. Knows no run directory.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sfl.data.augmentation import Augmentation
from sfl.data.batches import normalize, train_batches
from sfl.learning import measures
from sfl.learning.divergence import refuse_loss
from sfl.learning.learner import Learner
from sfl.learning.optimizers import learning_rate
from sfl.learning.seeding import generator, seed_global
from sfl.learning.sleep import sleeps
from sfl.nn.engine import preparing_seconds
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.progress import TrainingDisplay
from sfl.stats import evenly_spaced
from sfl.training.looks import Looks
from sfl.training.setup import Setup

PROBE_IMAGES = 128  # at most, on which learning is measured

Metrics = dict[str, Any]


@dataclass
class EpochSoFar:
    """An unfinished epoch: steps done, images seen, the sums () on the device, seconds, lr."""

    number: int
    loss_sum: Tensor
    correct: Tensor
    steps: int = 0
    seen: int = 0
    seconds: float = 0.0
    lr: float = 0.0

    @classmethod
    def begin(cls, number: int, device: torch.device) -> "EpochSoFar":
        loss_sum = torch.zeros((), device=device)
        return cls(number, loss_sum, torch.zeros((), device=device, dtype=torch.int64))

    def saved(self) -> dict[str, Any]:
        """Plain values; a float32 sum is exact as a Python float. Waits for the device."""
        values = {"loss_sum": float(self.loss_sum), "correct": int(self.correct)}
        return {**self.__dict__, **values}

    @classmethod
    def restored(cls, saved: dict[str, Any], device: torch.device) -> "EpochSoFar":
        """The inverse of `saved`, on `device`."""
        so_far = cls(**saved)
        so_far.loss_sum = torch.tensor(saved["loss_sum"], device=device)
        so_far.correct = torch.tensor(saved["correct"], device=device)
        return so_far

    def line(self) -> Metrics:
        """The line of metrics.jsonl after the last step. Waits for the device."""
        return {
            "epoch": self.number,
            "train_loss": float(self.loss_sum) / self.steps,
            "train_accuracy": int(self.correct) / self.seen,
            "lr": self.lr,
            "seconds": self.seconds,
            "images_per_second": self.seen / self.seconds,
        }


def train_epoch(
    setup: Setup, learner: Learner, so_far: EpochSoFar, display: TrainingDisplay
) -> None:
    """Runs the remaining steps of an epoch and updates `so_far`; waits for the device twice a
    second.

    Raises Stopped as `Looks.due` does, UserError (exit 5) if loss or gradients of a step were not
    finite.
    """
    seed, epoch = setup.config.train.seed, so_far.number
    world, batch_size = setup.world, setup.config.data.batch_size
    learner.model.train()
    start = _clock() - so_far.seconds
    looks = Looks(world)
    for step, (images, labels) in enumerate(_batches(setup, so_far), so_far.steps):
        overall = (epoch - 1) * setup.steps_per_epoch + step
        so_far.lr = _rate(setup, overall)
        # Any step can be repeated alone; each rank drops other units.
        seed_global(seed, "dropout", epoch, step, *([world.rank] if world.rank else []))
        count = min(batch_size, len(setup.train) - step * batch_size)

        loss, hits = learner.step(images, labels, lr=so_far.lr, step=overall, count=count)

        so_far.loss_sum += loss
        so_far.correct += hits.long()
        so_far.seen += count
        so_far.steps, so_far.seconds = step + 1, _clock() - start
        if looks.due():
            learner.guard.refuse(epoch, so_far.lr, so_far.steps)
            loss_so_far = float(so_far.loss_sum) / so_far.steps
            accuracy, speed = int(so_far.correct) / so_far.seen, so_far.seen / so_far.seconds
            display.step(epoch, so_far.steps, loss_so_far, accuracy, speed)
    learner.guard.refuse(epoch, so_far.lr, so_far.steps)
    so_far.seconds = _clock() - start


def _clock() -> float:
    """Seconds, less those spent on compiling and checking GPU kernels."""
    return time.perf_counter() - preparing_seconds()


def _rate(setup: Setup, step: int) -> float:
    """The learning rate of a step, counted from 0 over the whole run."""
    train, lr = setup.config.train, setup.config.optimizer.lr
    return learning_rate(
        step, setup.steps_per_epoch, epochs=train.epochs, lr=lr, schedule=train.schedule,
        warmup=train.warmup,
    )  # fmt: skip


def _batches(setup: Setup, so_far: EpochSoFar) -> Iterator[tuple[Tensor, Tensor]]:
    """This rank's part of the epoch's remaining batches."""
    data, seed, epoch = setup.config.data, setup.config.train.seed, so_far.number
    return train_batches(
        setup.train,
        batch_size=data.batch_size,
        classes=len(setup.dataset.classes),
        augment=Augmentation(**data.augment.model_dump()),
        mean=setup.mean,
        std=setup.std,
        draw=partial(generator, seed),
        epoch=epoch,
        first=so_far.steps,
        share=setup.world.mine(),
    )


def measure(setup: Setup, learner: Learner, epoch: int) -> Metrics:
    """The measurements after an epoch: validation accuracy, test accuracy as by `test_every`, how
    the network learns as by `measure_every`.

    With dense storage, also the share of each layer's weights outside its receptive fields; with
    sleep, the number of them. Raises UserError (exit 5) if the validation loss is not finite,
    Stopped after a signal.
    """
    model = learner.model
    setup.world.copy_first(model)  # rank 0's statistics of batch normalisation are saved
    found: Metrics = {}
    outside = {
        name: layer.outside_share()
        for name, layer in model.named_modules()
        if isinstance(layer, SpatialFeatureLayer) and layer.storage == "dense"
    }
    if outside:
        found["outside_share"] = outside
    if every := setup.config.learn.sleep.every:
        steps = setup.steps_per_epoch
        found["sleeps"] = sleeps(every, (epoch - 1) * steps, epoch * steps)
    measure_every = setup.config.train.measure_every
    if measure_every and epoch % measure_every == 0:
        found |= _learning(setup, learner, epoch)
    with learner.tested():
        setup.world.copy_first(model)  # of an average, too
        if setup.validation is not None:
            evaluation = setup.evaluate(model, setup.validation)
            refuse_loss(evaluation.loss, f"validation loss after epoch {epoch}")
            found["validation_loss"] = evaluation.loss
            found["validation_accuracy"] = evaluation.accuracy
        test_every = setup.config.train.test_every
        if test_every and epoch % test_every == 0:
            found["test_accuracy"] = setup.evaluate(model, setup.test).accuracy
    return found


def _learning(setup: Setup, learner: Learner, epoch: int) -> Metrics:
    """How the network learns, on a batch that is the same for all epochs and seeds."""
    split = setup.train if setup.validation is None else setup.validation
    places = evenly_spaced(len(split), min(setup.config.data.batch_size, PROBE_IMAGES))
    images = normalize(split.images[places], setup.mean, setup.std)
    steps, lr = epoch * setup.steps_per_epoch, setup.config.optimizer.lr
    found = measures.measure(learner, images, split.labels[places], lr=lr, step=steps - 1)
    return {
        "measures": found.layers,
        "probe_decrease": found.probe_decrease,
        "lr_sum": sum(_rate(setup, step) for step in range(steps)),
    }
