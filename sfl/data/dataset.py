"""A data set: training and test images as uint8 with labels, class names and fingerprints.

Knows nothing of image files, batches or models.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sfl.errors import UserError

HOLD_OUT_SEED = 20_090_408  # any constant: all runs hold out the same images


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

    def to(self, device: torch.device) -> "Split":
        """The same split on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split with the same classes. A label is an index into `classes`."""

    source: str
    classes: tuple[str, ...]
    train: Split
    test: Split

    @property
    def in_dimensions(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of each split: the same images have the same one, wherever they are stored."""
        return {"train": _fingerprint(self.train), "test": _fingerprint(self.test)}

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

    def summary(self) -> dict[str, object]:
        """A summary, as `sfl data` shows it."""
        return {
            "source": self.source,
            "classes": list(self.classes),
            "train_images": len(self.train),
            "test_images": len(self.test),
            "in_dimensions": list(self.in_dimensions),
            "train_fingerprint": self.fingerprints["train"],
            "test_fingerprint": self.fingerprints["test"],
        }


def hold_out(split: Split, count: int, classes: int) -> tuple[Split, Split]:
    """Divides a training split into a part for training and `count` images for validation.

    Each of the `classes` gives the same number of images (if `count` can't be divided evenly, the
    first classes give one more). The choice depends on the split, not on a run's seed, so that
    runs with different seeds can be compared. Both parts keep the order of `split`.

    Raises UserError (exit 2) if a class would have no training image left.
    """
    generator = torch.Generator().manual_seed(HOLD_OUT_SEED)
    labels = split.labels.cpu()
    held = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(classes):
        quota = count // classes + (label < count % classes)
        members = (labels == label).nonzero().flatten()
        if quota and quota >= len(members):
            raise UserError(
                f"data.validation: {count} would hold out {quota} of the {len(members)} training"
                f" images of class {label + 1} of {classes} and leave none for training",
                "give a smaller number",
            )
        held[members[torch.randperm(len(members), generator=generator)[:quota]]] = True
    return _select(split, ~held), _select(split, held)


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
