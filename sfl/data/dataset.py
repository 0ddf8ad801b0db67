"""A data set: training, validation and test images as uint8 with labels, classes, fingerprints.

Knows nothing of image files, batches or models.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from sfl.errors import UserError

HOLD_OUT_SEED = 20_090_408  # any constant: all runs hold out the same images
SUBSET_SEED = 20_200_727  # likewise: all runs train on the same subsets


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W) uint8 and their labels (N,) int64, on one device.

    files: where each image is, relative to the data root; None where images have no files of their
    own, and in parts and copies of a split.
    """

    images: Tensor
    labels: Tensor
    files: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, places: slice) -> "Split":
        return Split(self.images[places], self.labels[places])

    def counts(self, classes: int) -> list[int]:
        """The number of images of each class."""
        counts: list[int] = torch.bincount(self.labels, minlength=classes).tolist()
        return counts

    def to(self, device: torch.device) -> "Split":
        """The same split on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Splits with the same classes. A label is an index into `classes`.

    validation: None if the data set has no such split of its own.
    reading: what was seen while files were read, as plain values; {} if there are no image files.
    """

    source: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    validation: Split | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)

    @property
    def splits(self) -> dict[str, Split]:
        """By name: train, validation (if there is one), test."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: split for name, split in named.items() if split is not None}

    @property
    def in_dimensions(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of each split: the same images have the same one, wherever they are stored."""
        return {name: _fingerprint(split) for name, split in self.splits.items()}

    def provenance(self) -> dict[str, str]:
        """The source and the fingerprints, as a run's files name its images."""
        return {"source": self.source, **self.fingerprints}

    def describe(self) -> dict[str, object]:
        """Shape, classes and fingerprints of the images, as checkpoints hold them."""
        return {
            "in_dimensions": list(self.in_dimensions),
            "classes": list(self.classes),
            "fingerprints": self.fingerprints,
        }


def hold_out(split: Split, count: int, classes: Sequence[str]) -> tuple[Split, Split]:
    """Divides a training split into a part for training and `count` images for validation.

    Each class gives as many as its share of the images says, and at least one if that is possible
    and it has two or more. The choice depends on the split, not on a run's seed, so that runs with
    different seeds can be compared. Both parts keep the order of `split`.

    Raises UserError (exit 2) if a class would have no training image left.
    """
    generator = torch.Generator().manual_seed(HOLD_OUT_SEED)
    labels, sizes = split.labels.cpu(), split.counts(len(classes))
    quotas = _quotas(sizes, count)
    if sum(quotas) < count:
        fewest = min((size, name) for size, name in zip(sizes, classes, strict=True) if size)
        raise UserError(
            f"data.validation: {count} of {len(split)} training images would leave a class without"
            f" any, as {fewest[1]}, which has {fewest[0]}",
            f"give {sum(quotas)} or less",
        )
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label, quota in enumerate(quotas):
        members = (labels == label).nonzero().flatten()
        held[members[torch.randperm(len(members), generator=generator)[:quota]]] = True
    return _select(split, ~held), _select(split, held)


def subset(split: Split, count: int, classes: Sequence[str]) -> Split:
    """`count` images of a training split, in its order: of each class its share, at least one.

    Nested: those of a smaller count are among those of a larger one. The choice depends on the
    split alone, as that of `hold_out`. Raises UserError (exit 2) if there are not so many, or if a
    class would have none.
    """
    sizes, labels = split.counts(len(classes)), split.labels.cpu()
    least = sum(map(bool, sizes))
    if not least <= count <= len(labels):
        raise UserError(
            f"data.train_images: {count:,}, but there are {len(labels):,} of {least} classes",
            f"give {least} to {len(labels):,}",
        )
    generator = torch.Generator().manual_seed(SUBSET_SEED)
    # Which part of its class is drawn before an image: of all images, the lowest are chosen.
    before = torch.empty(len(labels), dtype=torch.float64)
    for label, size in enumerate(sizes):
        drawn = torch.randperm(size, generator=generator).double()
        before[labels == label] = drawn / max(1, size)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[before.argsort(stable=True)[:count]] = True
    return _select(split, chosen)


def _quotas(sizes: Sequence[int], count: int) -> list[int]:
    """How many of `count` images each class gives: its share, rounded by the largest remainder.

    One image of each class stays; the sum is less than `count` if there are too few.
    """
    shares = [count * size / max(1, sum(sizes)) for size in sizes]
    most = [max(0, size - 1) for size in sizes]
    quotas = [min(int(share), limit) for share, limit in zip(shares, most, strict=True)]
    if sum(map(bool, most)) <= count:
        quotas = [max(quota, min(1, limit)) for quota, limit in zip(quotas, most, strict=True)]
    places = range(len(sizes))
    while sum(quotas) > count:  # those that were raised to one
        quotas[max(places, key=lambda i: (quotas[i] > 1, quotas[i] - shares[i]))] -= 1
    while sum(quotas) < min(count, sum(most)):
        free = [i for i in places if quotas[i] < most[i]]
        quotas[max(free, key=lambda i: (shares[i] - quotas[i], -i))] += 1
    return quotas


def _select(split: Split, chosen: Tensor) -> Split:
    """The images for which `chosen`, (N,) bool on the CPU, is true, in their order."""
    places = chosen.nonzero().flatten().to(split.images.device)
    return Split(split.images[places], split.labels[places])


def _fingerprint(split: Split) -> str:
    """SHA-256 of shape, pixels and labels, the same on every machine."""
    digest = hashlib.sha256(repr(tuple(split.images.shape)).encode())
    digest.update(split.images.cpu().contiguous().numpy().data)
    digest.update(split.labels.cpu().contiguous().numpy().astype("<i8").data)
    return digest.hexdigest()
