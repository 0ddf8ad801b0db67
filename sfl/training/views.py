"""A model that sees each image moved or mirrored, once or several times, and averages its answers.

Of several views the probabilities are averaged, as Krizhevsky, Sutskever and Hinton (2012, section
4.1) average the softmax of ten crops; not the logits. Knows no settings and no test.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sfl.data.augmentation import Fill, reflected

STEP = 2  # pixels between the views of `averaged_views`


class View(NamedTuple):
    """How an image is seen: moved by so many pixels, then mirrored left to right or not."""

    down: int
    right: int
    mirrored: bool = False


def averaged_views(count: int) -> list[View]:
    """2: as it is and mirrored. 18, 50: each of them also moved by 2, or by 2 and 4, pixels, down,
    up, right, left and both ways. Raises ValueError for any other number.
    """
    if count not in (2, 18, 50):
        raise ValueError(f"{count}: expected 2, 18 or 50")
    most = (math.isqrt(count // 2) // 2) * STEP
    moves = range(-most, most + 1, STEP)
    return [View(*view) for view in product(moves, moves, (False, True))]


class Viewed(nn.Module):
    """A model as a function of (B, C, H, W) normalised images, each seen in some views.

    Returns (B, classes): of one view the model's logits; of several the logarithm of the mean of
    its probabilities, which softmax, argmax and cross entropy take like logits. black: (C,), the
    colour that normalised images have where pixels were 0. A view moves an image by less than its
    height and width.
    """

    def __init__(self, model: nn.Module, views: Sequence[View], fill: Fill, black: Tensor) -> None:
        super().__init__()
        self.model, self.views, self.fill, self.black = model, views, fill, black
        self.train(model.training)

    def forward(self, images: Tensor) -> Tensor:
        seen = (moved(images, view, self.fill, self.black) for view in self.views)
        answers: list[Tensor] = [self.model(each).float() for each in seen]
        if len(answers) == 1:
            return answers[0]
        logs = torch.stack([logits.log_softmax(dim=1) for logits in answers])
        return logs.logsumexp(dim=0) - math.log(len(answers))


def moved(images: Tensor, view: View, fill: Fill, black: Tensor) -> Tensor:
    """(B, C, H, W) images as a view shows them. black: (C,), used with fill "black"."""
    height, width = images.shape[2:]
    rows, columns = (
        torch.arange(size, device=images.device) - by
        for size, by in ((height, view.down), (width, view.right))
    )
    if view.mirrored:
        columns = columns.flip(0)
    inside = _inside(rows, height)[:, None] & _inside(columns, width)
    found = images[:, :, reflected(rows, height)][:, :, :, reflected(columns, width)]
    if fill == "reflect" or not (view.down or view.right):
        return found
    return torch.where(inside, found, black[:, None, None])


def _inside(places: Tensor, size: int) -> Tensor:
    return (places >= 0) & (places < size)
