"""Batches from a split that is on the device as uint8: crop, flip, normalise.

The notebook's augmentation, for each image by itself, with the same pixels as torchvision's
RandomCrop(padding=p), RandomHorizontalFlip(), ToTensor(), Normalize(mean, std).

All random numbers of an epoch are drawn at its start, on the CPU, from the caller's generators, and
then copied to the device. Making a batch draws nothing and never waits for the device.

Shapes: N images in the split, B in the batch, C channels, H x W pixels, p pixels of padding.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from sfl.data.dataset import Split


def draw_crops(count: int, crop_padding: int, generator: torch.Generator) -> Tensor:
    """The first pixel of each crop in its padded image: (count, 2) int64, row, column in [0, 2p].

    Draws the same number of random numbers for every `crop_padding`.
    """
    return torch.randint(0, 2 * crop_padding + 1, (count, 2), generator=generator)


def draw_flips(count: int, generator: torch.Generator) -> Tensor:
    """Which images are mirrored: (count,) bool, true with probability 1/2."""
    return torch.rand(count, generator=generator) < 0.5


def crop_and_flip(
    images: Tensor, offsets: Tensor | None, flips: Tensor | None, crop_padding: int
) -> Tensor:
    """Pads each image with black, crops it to its old size, then mirrors it left to right.

    images: (B, C, H, W) uint8. offsets: (B, 2) int64 in [0, 2p], row and column of the crop's
    first pixel in the padded image; None: no padding and no crop. flips: (B,) bool; None: no flip.
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
        images = F.pad(images, [crop_padding] * 4)
        rows, columns = rows + offsets[:, :1], columns + offsets[:, 1:]
    # One gather over flattened pixels: twice as fast as indexing with rows and columns.
    pixels = (rows[:, :, None] * images.shape[3] + columns[:, None, :]).reshape(
        batch, 1, height * width
    )
    chosen = images.flatten(2).gather(2, pixels.expand(-1, channels, -1))
    return chosen.view(batch, channels, height, width)


def normalize(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """(B, C, H, W) uint8 to float32: (images / 255 - mean) / std, with mean and std (C,) float32.

    Bitwise equal to torchvision's ToTensor and Normalize, which round in the same three places.
    """
    return images.float().div_(255).sub_(mean[:, None, None]).div_(std[:, None, None])


def batch_count(count: int, batch_size: int) -> int:
    """The number of batches in `count` images; the last batch may be smaller."""
    return -(-count // batch_size)


def last_batch(count: int, batch_size: int) -> int:
    """The number of images in the last batch, the smallest one, of `count` images."""
    return (count - 1) % batch_size + 1


def train_batches(
    split: Split,
    *,
    batch_size: int,
    crop_padding: int,
    flip: bool,
    mean: Tensor,
    std: Tensor,
    order: torch.Generator,
    crops: torch.Generator,
    first: int = 0,
    share: slice = slice(0, None, 1),
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: shuffled, augmented batches (B, C, H, W) float32 with labels (B,) int64.

    order: draws the permutation. crops: draws the offsets, then the flips. Both are CPU generators,
    so the batches are the same on every device. Offsets and flips are always drawn, even if they
    are not used: switching one off does not change the other.
    The last batch may be smaller, as in a DataLoader. first: the number of batches to skip.
    share: the part of each batch to return, if several processes share it. A process's part of the
    last batch may be empty.
    """
    device = split.images.device
    mean, std = mean.to(device), std.to(device)
    permutation = torch.randperm(len(split), generator=order).to(device)
    offsets = draw_crops(len(split), crop_padding, crops).to(device)
    flips = draw_flips(len(split), crops).to(device)
    for start in range(first * batch_size, len(split), batch_size):
        batch = slice(start, start + batch_size)
        chosen = permutation[batch][share]
        images = crop_and_flip(
            split.images[chosen],
            offsets[batch][share] if crop_padding else None,
            flips[batch][share] if flip else None,
            crop_padding,
        )
        yield normalize(images, mean, std), split.labels[chosen]


def test_batches(
    split: Split, *, batch_size: int, mean: Tensor, std: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """The split in its order, without augmentation: (B, C, H, W) float32, labels (B,) int64."""
    device = split.images.device
    mean, std = mean.to(device), std.to(device)
    for start in range(0, len(split), batch_size):
        stop = start + batch_size
        yield normalize(split.images[start:stop], mean, std), split.labels[start:stop]
