"""Mixup and CutMix: each image of a batch with another one, and their labels likewise.

The partner of an image is the one before it in its batch, which was shuffled; no draw is needed.
Mixup: Zhang et al. 2018, arXiv:1710.09412. CutMix: Yun et al. 2019, arXiv:1905.04899. As in their
authors' code, one share is drawn for a batch, from Beta(alpha, alpha).
"""

import random
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mix:
    """share: how much of the targets an image keeps. box: rows and columns that are the partner's;
    None: mixed everywhere.
    """

    share: float = 1.0
    box: tuple[slice, slice] | None = None

    def apply(self, images: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
        """images: (B, C, H, W) float, changed. labels: (B,) int64. Returns images and targets,
        (B, classes) float32, which sum to 1.
        """
        targets = (labels[:, None] == torch.arange(classes, device=labels.device)).float()
        if self.share == 1:
            return images, targets
        targets = targets.roll(1, 0).lerp(targets, self.share)
        if self.box is None:
            return images.roll(1, 0).lerp_(images, self.share), targets
        box = (..., *self.box)
        images[box] = images[box].roll(1, 0)
        return images, targets


def draw_mixup(count: int, alpha: float, seed: int) -> list[Mix]:
    """One for each of `count` batches."""
    generator = random.Random(seed)
    return [Mix(generator.betavariate(alpha, alpha)) for _ in range(count)]


def draw_cutmix(
    count: int, alpha: float, probability: float, size: tuple[int, int], seed: int
) -> list[Mix | None]:
    """One for each of `count` batches; None, with probability 1 - `probability`: no CutMix.

    size: height and width of the images. The part of the box that lies outside is cut off.
    """
    generator = random.Random(seed)
    area = size[0] * size[1]
    found: list[Mix | None] = []
    for _ in range(count):
        cut = (1 - generator.betavariate(alpha, alpha)) ** 0.5
        rows, columns = (_side(length, cut, generator.randrange(length)) for length in size)
        taken = (rows.stop - rows.start) * (columns.stop - columns.start)
        mixed = generator.random() < probability
        found.append(Mix(1 - taken / area, (rows, columns)) if mixed else None)
    return found


def _side(length: int, cut: float, centre: int) -> slice:
    half = int(length * cut) // 2
    return slice(max(0, centre - half), min(length, centre + half))
