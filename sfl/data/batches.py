"""Batches from a split that is on the device as uint8: augment, normalise.

For each image by itself, with the same pixels as torchvision's RandomCrop(padding=p),
RandomHorizontalFlip(), TrivialAugmentWide(), ToTensor(), Normalize(mean, std).

All random numbers of an epoch are drawn at its start, on the CPU, from the caller's generators, and
then copied to the device. Making a batch draws nothing and never waits for the device.

Shapes: N images in the split, B in the batch, C channels, H x W pixels.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sfl.data.augmentation import Augmentation, Draw, Shown
from sfl.data.dataset import Split

# Values that are augmented at once. Small batches share the time that calls take; on the CPU, a
# chunk should fit into the cache.
CHUNK = {"cpu": 2**20, "cuda": 2**24, "mps": 2**24}


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
    classes: int,
    augment: Augmentation,
    mean: Tensor,
    std: Tensor,
    draw: Draw,
    epoch: int,
    first: int = 0,
    share: slice = slice(0, None, 1),
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch: shuffled, augmented batches (B, C, H, W) float32 with labels (B,) int64; with
    mixup or CutMix, with targets (B, classes) float32.

    draw: the CPU generator of a purpose, as draw("order", epoch): so the batches are the same on
    every device. Each is new from its first number.
    The last batch may be smaller, as in a DataLoader. first: the number of batches to skip.
    share: the part of each batch to return, if several processes share it; an image's partner in
    mixup is in the same part. A process's part of the last batch may be empty.
    """
    device, count = split.images.device, len(split)
    places = [
        torch.arange(start, min(start + batch_size, count))[share]
        for start in range(first * batch_size, count, batch_size)
    ]
    if not places:
        return
    together = max(1, CHUNK[device.type] // split.images[:batch_size].numel())
    chunks = [places[i : i + together] for i in range(0, len(places), together)]
    sizes = [sum(map(len, chunk)) for chunk in chunks]
    mine = torch.cat(places)
    permutation = torch.randperm(count, generator=draw("order", epoch))
    views = Shown.plan(augment, split.images.shape, permutation, mine, sizes, draw, epoch, device)
    size = (split.images.shape[2], split.images.shape[3])
    mixes = iter(augment.draw_mixes(batch_count(count, batch_size), size, draw, epoch)[first:])
    chosen, mean, std = permutation[mine].to(device), mean.to(device), std.to(device)
    start = 0
    for number, chunk in enumerate(chunks):
        here = chosen[start : start + sizes[number]]
        # Of bytes, index_select is many times as fast as indexing.
        images = views.apply(split.images.index_select(0, here), number, start)
        images = views.erase(normalize(images, mean, std), start)
        start += len(images)
        lengths = [len(batch) for batch in chunk]
        parts = images.split(lengths), split.labels[here].split(lengths)
        for batch, labels in zip(*parts, strict=True):
            mix = next(mixes)
            yield (batch, labels) if mix is None else mix.apply(batch, labels, classes)


def test_batches(
    split: Split, *, batch_size: int, mean: Tensor, std: Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """The split in its order, without augmentation: (B, C, H, W) float32, labels (B,) int64."""
    device = split.images.device
    mean, std = mean.to(device), std.to(device)
    for start in range(0, len(split), batch_size):
        stop = start + batch_size
        yield normalize(split.images[start:stop], mean, std), split.labels[start:stop]
