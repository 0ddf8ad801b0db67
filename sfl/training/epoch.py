"""One pass over the training images: batches, steps, the sums that its line of metrics is made of.

Knows no run directory; what it has done so far can be saved and gone on with.
"""

import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfl.data.batches import train_batches
from sfl.learning.divergence import Guard
from sfl.learning.optimizers import learning_rate
from sfl.learning.precision import autocast
from sfl.learning.seeding import generator, seed_global
from sfl.progress import TrainingDisplay
from sfl.training.setup import Setup
from sfl.training.stopping import asked, stop

SECONDS_PER_LOOK = 0.5  # the display reads the device's sums this often, not at every step

Metrics = dict[str, Any]


@dataclass
class EpochSoFar:
    """An epoch under way: steps done, images seen, the sums () on the device, seconds, lr."""

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
        """As plain values; a float32 sum is exact in them. Waits for the device."""
        values = {"loss_sum": float(self.loss_sum), "correct": int(self.correct)}
        return {**self.__dict__, **values}

    @classmethod
    def restored(cls, saved: dict[str, Any], device: torch.device) -> "EpochSoFar":
        """What `saved` gave, back on a device."""
        so_far = cls(**saved)
        so_far.loss_sum = torch.tensor(saved["loss_sum"], device=device)
        so_far.correct = torch.tensor(saved["correct"], device=device)
        return so_far

    def line(self) -> Metrics:
        """Its line of metrics.jsonl, when all steps are done. Waits for the device."""
        return {
            "epoch": self.number,
            "train_loss": float(self.loss_sum) / self.steps,
            "train_accuracy": int(self.correct) / self.seen,
            "lr": self.lr,
            "seconds": self.seconds,
            "images_per_second": self.seen / self.seconds,
        }


def train_epoch(
    setup: Setup,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    guard: Guard,
    so_far: EpochSoFar,
    display: TrainingDisplay,
) -> None:
    """What is left of an epoch, counted in `so_far`; a step waits for the device twice a second.

    Raises Stopped after the step in which a signal came, UserError (exit 5) where a step had no
    finite numbers.
    """
    config, seed, epoch = setup.config, setup.config.train.seed, so_far.number
    world, batch_size = setup.world, config.data.batch_size
    batches = train_batches(
        setup.train,
        batch_size=batch_size,
        crop_padding=config.data.augment.crop_padding,
        flip=config.data.augment.flip,
        mean=setup.mean,
        std=setup.std,
        order=generator(seed, "order", epoch),
        crops=generator(seed, "augmentation", epoch),
        first=so_far.steps,
        share=world.mine(),
    )
    model.train()
    start = time.perf_counter() - so_far.seconds
    next_look = 0.0
    for step, (images, labels) in enumerate(batches, so_far.steps):
        steps_before = (epoch - 1) * setup.steps_per_epoch + step
        lr = learning_rate(
            steps_before, setup.steps_per_epoch, epochs=config.train.epochs,
            lr=config.optimizer.lr, schedule=config.train.schedule, warmup=config.train.warmup,
        )  # fmt: skip
        for group in optimizer.param_groups:
            group["lr"] = so_far.lr = lr
        # So that any step can be repeated by itself; each worker drops other units.
        seed_global(seed, "dropout", epoch, step, *([world.rank] if world.rank else []))
        count = min(batch_size, len(setup.train) - step * batch_size)

        loss, hits = train_step(setup, model, optimizer, images, labels, guard, step, count)

        so_far.loss_sum += loss
        so_far.correct += hits.long()
        so_far.seen += count
        so_far.steps, so_far.seconds = step + 1, time.perf_counter() - start
        signal, look = world.largest(asked(), time.perf_counter() >= next_look)
        stop(signal)
        if look:
            guard.refuse(epoch, lr)
            loss_so_far = float(so_far.loss_sum) / so_far.steps
            accuracy, speed = int(so_far.correct) / so_far.seen, so_far.seen / so_far.seconds
            display.step(epoch, so_far.steps, loss_so_far, accuracy, speed)
            next_look = time.perf_counter() + SECONDS_PER_LOOK
    guard.refuse(epoch, so_far.lr)
    so_far.seconds = time.perf_counter() - start


def train_step(
    setup: Setup,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    guard: Guard | None = None,
    step: int = 0,
    count: int | None = None,
) -> tuple[Tensor, Tensor]:
    """One step on images (B, C, H, W) and labels (B,); its loss () and correct predictions ().

    Both stay on the device: a step never waits for it. Of several workers each gives its part of
    the batch, which may be none of it, and count, the images of the whole.
    """
    optimizer.zero_grad()  # first, so that the last step's gradients don't lie beside activations
    share = len(labels) / (count or len(labels))
    if not share:  # what goes through in its stead weighs nothing
        images, labels = images.new_zeros(1, *images.shape[1:]), labels.new_zeros(1)
    loss, logits = forward(setup, model, images, labels)
    hits = (logits.argmax(dim=1) == labels).sum()
    if setup.world.size == 1:
        loss.backward()
        loss = loss.detach()
    else:  # the gradients' mean over the workers is taken, each weighs as its part
        (loss * (share * setup.world.size)).backward()
        loss, hits = setup.world.sum(torch.stack([loss.detach() * share, hits * bool(share)]))
    if setup.config.optimizer.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), setup.config.optimizer.clip_norm)
    if guard is not None:
        guard.note(loss, step)
    optimizer.step()
    return loss, hits


def forward(
    setup: Setup, model: nn.Module, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """The loss that is trained on, () float32, and the logits (B, classes)."""
    with autocast(setup.device, setup.precision):
        logits = model(images)
    smoothing = setup.config.train.label_smoothing
    return F.cross_entropy(logits.float(), labels, label_smoothing=smoothing), logits
