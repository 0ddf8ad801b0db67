"""Batches, cut from a split that lies on the device as uint8: crop, flip, normalise.

The notebook's augmentation, per image and equal to torchvision's pixel for pixel:
RandomCrop(padding=p), RandomHorizontalFlip(), ToTensor(), Normalize(mean, std).

All draws are made once an epoch, on the CPU, from generators that the caller gives, and then
moved; a batch itself takes no random number and never waits for the device.

Shapes: N images in the split, B in the batch, C channels, H x W pixels, p pixels of padding.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from sfl.data.dataset import Split


def draw_crops(count: int, crop_padding: int, generator: torch.Generator) -> Tensor:
    """Where each crop starts in its padded image: (count, 2) int64, row and column in [0, 2p].

    Takes equally many random numbers from the generator whatever `crop_padding` is.
    """
    return torch.randint(0, 2 * crop_padding + 1, (count, 2), generator=generator)


def draw_flips(count: int, generator: torch.Generator) -> Tensor:
    """Whether each image is mirrored: (count,) bool, true with probability 1/2."""
    return torch.rand(count, generator=generator) < 0.5


def crop_and_flip(
    images: Tensor, offsets: Tensor | None, flips: Tensor | None, crop_padding: int
) -> Tensor:
    """Pads with black, crops to the old size, then mirrors left and right, each image by itself.

    images: (B, C, H, W) uint8. offsets: (B, 2) int64 in [0, 2p], row and column of the crop's
    corner in the padded image; None: no padding and no crop. flips: (B,) bool; None: no flip.
    Returns (B, C, H, W) uint8. Padding comes before normalising, so that it is black, not the
    mean colour.
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

    Bitwise what torchvision's ToTensor and Normalize give: the same three roundings.
    """
    return images.float().div_(255).sub_(mean[:, None, None]).div_(std[:, None, None])


def batch_count(count: int, batch_size: int) -> int:
    """How many batches `count` images make, the last and perhaps smaller one included."""
    return -(-count // batch_size)


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

    `order` gives the permutation, `crops` the offsets and then the flips; both are CPU
    generators, so the batches are the same on every device. Offsets and flips are drawn even
    where they are not used: switching one off leaves everything else as it was.
    The last batch may be smaller, as in a DataLoader. first: how many batches to pass over.
    share: which places of each batch to give, of several workers' one; may be none of the last.
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
    """The split in its own order, not augmented: (B, C, H, W) float32 with labels (B,) int64."""
    device = split.images.device
    mean, std = mean.to(device), std.to(device)
    for start in range(0, len(split), batch_size):
        stop = start + batch_size
        yield normalize(split.images[start:stop], mean, std), split.labels[start:stop]
