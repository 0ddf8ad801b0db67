"""What a data set is: two splits of uint8 images with labels, class names, a fingerprint."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from sfl.errors import UserError

HOLD_OUT_SEED = 20_090_408  # any constant; the held-out images are the same whatever a run's seed


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W) uint8 and their labels (N,) int64, on one device."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, places: slice) -> "Split":
        return Split(self.images[places], self.labels[places])

    def to(self, device: torch.device) -> "Split":
        """The same split on `device`."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test split over the same classes. Labels are places in `classes`."""

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
        """SHA-256 of each split: which images these are, wherever they were read from."""
        return {"train": _fingerprint(self.train), "test": _fingerprint(self.test)}

    def provenance(self) -> dict[str, str]:
        """What a run says of the images that it was made with: their source and fingerprints."""
        return {"source": self.source, **self.fingerprints}

    def describe(self) -> dict[str, object]:
        """What a checkpoint remembers of its images: shape, classes, fingerprints."""
        return {
            "in_dimensions": list(self.in_dimensions),
            "classes": list(self.classes),
            "fingerprints": self.fingerprints,
        }

    def summary(self) -> dict[str, object]:
        """The data set in short, as `sfl data` shows it."""
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
    """Divides a training split into what is trained on and `count` images for validation.

    Each of the `classes` gives equally many (where `count` can't be divided, the first ones give
    one more). Which images is fixed: it depends on the split alone, not on any seed, so that runs
    of different seeds can be compared. Both parts keep the order of `split`.

    Raises UserError (exit 2) if a class would have no image left to train on.
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
                f" images of class {label + 1} of {classes}, leaving none to train on",
                "give a smaller number",
            )
        held[members[torch.randperm(len(members), generator=generator)[:quota]]] = True
    return _select(split, ~held), _select(split, held)


def _select(split: Split, chosen: Tensor) -> Split:
    """The images where `chosen` (N,) bool, on the CPU, is true, in their order."""
    places = chosen.nonzero().flatten().to(split.images.device)
    return Split(split.images[places], split.labels[places])


def _fingerprint(split: Split) -> str:
    """SHA-256 over the shape, the pixels and the labels, independent of the machine."""
    digest = hashlib.sha256(repr(tuple(split.images.shape)).encode())
    digest.update(split.images.cpu().contiguous().numpy().data)
    digest.update(split.labels.cpu().contiguous().numpy().astype("<i8").data)
    return digest.hexdigest()
