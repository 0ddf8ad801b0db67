"""What an epoch does to its images: the settings, the draws, and both on the device.

The order is the usual one with torchvision: crop, flip, policy, on uint8; then, on normalised
pixels, cutout, mixup or CutMix. All numbers of an epoch are drawn at its start, on the CPU, and
each purpose has its own generator: switching one on or off changes no other.

Shapes: N images in the epoch, B in a chunk or batch, C channels, H x W pixels, p pixels of padding.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from sfl.data import policy
from sfl.data.mixing import Mix, draw_cutmix, draw_mixup

Fill = Literal["black", "reflect"]
# The CPU generator of a purpose and its counters, as in draw("order", epoch).
Draw = Callable[..., torch.Generator]


@dataclass(frozen=True)
class Augmentation:
    """The settings, as data.augment explains them; by default there is none."""

    crop_padding: int = 0
    crop_fill: Fill = "black"
    flip: bool | Literal["random", "alternate"] = False
    policy: Literal["none", "trivial", "rand"] = "none"
    operations: int = 2
    magnitude: int = 9
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    cutmix_probability: float = 0.5

    def draw_mixes(
        self, count: int, size: tuple[int, int], draw: Draw, epoch: int
    ) -> Sequence[Mix | None]:
        """How each of an epoch's `count` batches is mixed; None: labels stay hard."""
        if not self.mixup and not self.cutmix:
            return [None] * count
        mixes: list[Mix] = [Mix()] * count
        if self.mixup:
            mixes = draw_mixup(count, self.mixup, draw("mixup", epoch).initial_seed())
        if self.cutmix:
            seed = draw("cutmix", epoch).initial_seed()
            cuts = draw_cutmix(count, self.cutmix, self.cutmix_probability, size, seed)
            mixes = [cut or mix for cut, mix in zip(cuts, mixes, strict=True)]
        return mixes


@dataclass(frozen=True)
class Shown:
    """How each image of the remaining epoch is shown, on the device, in the order of the epoch.

    offsets: (N, 2) int64. flips: (N,) bool. passes: the operations of the policy. centres: (N, 2)
    int64, of the squares that cutout erases. None: not used.
    """

    augment: Augmentation
    offsets: Tensor | None
    flips: Tensor | None
    centres: Tensor | None
    passes: Sequence[policy.Pass]

    @classmethod
    def plan(
        cls, augment: Augmentation, shape: torch.Size, permutation: Tensor, mine: Tensor,
        sizes: Sequence[int], draw: Draw, epoch: int, device: torch.device,
    ) -> "Shown":  # fmt: skip
        """shape: of all images. permutation: their order in the epoch. mine: the places in it
        that are to be made, (N,) int64. sizes: how many of them each chunk has.
        """
        count, _, height, width = shape
        crops = draw("augmentation", epoch)
        offsets = draw_crops(count, augment.crop_padding, crops)
        flips = draw_flips(count, crops)  # drawn after the offsets, whether used or not
        if augment.flip == "alternate":
            flips = draw_flips(count, draw("first flip"))[permutation] ^ (epoch % 2 == 0)
        centres = None
        if augment.cutout:
            generator = draw("cutout", epoch)
            sides = [torch.randint(side, (count,), generator=generator) for side in (height, width)]
            centres = torch.stack(sides, 1)[mine].to(device)
        passes = []
        if augment.policy != "none":
            times, magnitude = 1, None
            if augment.policy == "rand":
                times, magnitude = augment.operations, augment.magnitude
            rows = policy.draw(count, times, magnitude, draw("policy", epoch))
            of = policy.table(augment.policy, height, width)
            passes = [policy.Pass.plan(row[mine], of, sizes, device) for row in rows]
        return cls(
            augment,
            offsets[mine].to(device) if augment.crop_padding else None,
            flips[mine].to(device) if augment.flip else None,
            centres,
            passes,
        )

    def apply(self, images: Tensor, chunk: int, start: int) -> Tensor:
        """The images of a chunk, (B, C, H, W) uint8, of which `start` is the first place."""
        here = slice(start, start + len(images))
        offsets = None if self.offsets is None else self.offsets[here]
        flips = None if self.flips is None else self.flips[here]
        padding, fill = self.augment.crop_padding, self.augment.crop_fill
        images = crop_and_flip(images, offsets, flips, padding, fill)
        for one in self.passes:
            images = one.apply(images, chunk, start)
        return images

    def erase(self, images: Tensor, start: int) -> Tensor:
        """Cutout: a square of normalised images, (B, C, H, W) float, becomes 0, the mean colour.

        Its centre is a pixel of the image; what lies outside is cut off (DeVries & Taylor 2017,
        arXiv:1708.04552).
        """
        if self.centres is None:
            return images
        first = self.centres[start : start + len(images)] - self.augment.cutout // 2
        rows, columns = (
            self._within(first[:, i, None], length) for i, length in enumerate(images.shape[2:])
        )
        return images.mul_(~(rows[:, :, None] & columns[:, None, :])[:, None])

    def _within(self, first: Tensor, length: int) -> Tensor:
        places = torch.arange(length, device=first.device)
        return (places >= first) & (places < first + self.augment.cutout)


def draw_crops(count: int, crop_padding: int, generator: torch.Generator) -> Tensor:
    """The first pixel of each crop in its padded image: (count, 2) int64, row, column in [0, 2p].

    Draws the same number of random numbers for every `crop_padding`.
    """
    return torch.randint(0, 2 * crop_padding + 1, (count, 2), generator=generator)


def draw_flips(count: int, generator: torch.Generator) -> Tensor:
    """Which images are mirrored: (count,) bool, true with probability 1/2."""
    return torch.rand(count, generator=generator) < 0.5


def crop_and_flip(
    images: Tensor,
    offsets: Tensor | None,
    flips: Tensor | None,
    crop_padding: int,
    fill: Fill = "black",
) -> Tensor:
    """Pads each image, crops it to its old size, then mirrors it left to right.

    images: (B, C, H, W) uint8. offsets: (B, 2) int64 in [0, 2p], row and column of the crop's
    first pixel in the padded image; None: no padding and no crop. flips: (B,) bool; None: no flip.
    fill: what the padding shows: black, or the image mirrored at its border.
    Returns (B, C, H, W) uint8. Padding comes before normalising: it is black, not the mean colour.
    """
    if offsets is None and flips is None:
        return images
    batch, channels, height, width = images.shape
    rows = torch.arange(height, device=images.device).expand(batch, -1)
    columns = torch.arange(width, device=images.device).expand(batch, -1)
    if flips is not None:
        columns = torch.where(flips[:, None], columns.flip(1), columns)
    if offsets is not None:
        rows, columns = rows + offsets[:, :1], columns + offsets[:, 1:]
        if fill == "reflect":
            rows = reflected(rows - crop_padding, height)
            columns = reflected(columns - crop_padding, width)
        else:
            images = F.pad(images, [crop_padding] * 4)
    # One gather over flattened pixels: twice as fast as indexing with rows and columns.
    pixels = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).reshape(
        batch, 1, height * width
    )
    chosen = images.flatten(2).gather(2, pixels.expand(-1, channels, -1))
    return chosen.view(batch, channels, height, width)


def reflected(places: Tensor, length: int) -> Tensor:
    """Places outside [0, length) mirrored at the first and the last pixel, as often as needed."""
    period = max(1, 2 * (length - 1))
    places = places.remainder(period)
    return torch.minimum(places, period - places)
