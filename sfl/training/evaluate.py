"""Evaluates a model on images: predictions, confidences, loss, accuracy, confusion matrix."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfl.data.batches import batch_count, test_batches
from sfl.data.dataset import Split
from sfl.learning.learner import autocast
from sfl.learning.world import ALONE, World
from sfl.progress import track
from sfl.training.stopping import asked, stop

BATCH_SIZE = 500  # of evaluation; no result depends on it


@dataclass(frozen=True)
class Evaluation:
    """predictions and labels: (N,) int64 on the CPU. loss: the mean cross entropy over images.

    confidences: (N,) float32 on the CPU, the softmax probability of each predicted class.
    """

    predictions: Tensor
    labels: Tensor
    loss: float
    confidences: Tensor

    @property
    def correct(self) -> int:
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """A fraction."""
        return self.correct / len(self.labels)

    def confusion(self, classes: int) -> Tensor:
        """(classes, classes) int64: the number of images of class [row] classified as [column]."""
        pairs = self.labels * classes + self.predictions
        return torch.bincount(pairs, minlength=classes * classes).view(classes, classes)


def evaluate(
    model: nn.Module,
    split: Split,
    *,
    mean: Tensor,
    std: Tensor,
    precision: str,
    description: str = "",
    world: World = ALONE,
) -> Evaluation:
    """Evaluates the model on a split, in evaluation mode; a `description` shows a progress bar.

    Each rank evaluates a part of the images. Raises Stopped after the batch in which a signal came.
    """
    mine = split[world.mine()]
    batches = test_batches(mine, batch_size=BATCH_SIZE, mean=mean, std=std)
    if description:
        batches = track(batches, description, batch_count(len(mine), BATCH_SIZE))
    *answers, loss = predict(model, batches, split.images.device, precision)
    stop(*world.largest(asked()))
    predictions, confidences = (world.gather(one, len(split)).cpu() for one in answers)
    mean_loss = float(world.sum(loss)) / len(split)
    return Evaluation(predictions, split.labels.cpu(), mean_loss, confidences)


@torch.no_grad()
def predict(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], device: torch.device, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Predicted classes (N,) int64, their softmax probabilities (N,) float32 and the sum of the
    cross entropies (), all on the device.

    Never waits for the device. Restores the model's mode (training or evaluation).
    """
    was_training = model.training
    model.eval()
    loss = torch.zeros((), device=device, dtype=torch.float64 if device.type != "mps" else None)
    predictions = [torch.zeros(0, dtype=torch.int64, device=device)]
    confidences = [torch.zeros(0, device=device)]
    with autocast(device, precision):
        for images, labels in batches:
            logits = model(images).float()
            loss += F.cross_entropy(logits, labels, reduction="sum")
            predictions.append(logits.argmax(dim=1))
            confidences.append(logits.softmax(dim=1).amax(dim=1))
            if asked():
                break
    model.train(was_training)
    return torch.cat(predictions), torch.cat(confidences), loss
