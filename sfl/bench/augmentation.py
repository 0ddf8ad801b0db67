"""Images a second of augmentation alone: ours, and torchvision's transforms in a DataLoader."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from sfl.bench.timing import interleaved, wait
from sfl.data.augmentation import Augmentation
from sfl.data.batches import train_batches
from sfl.data.dataset import Split
from sfl.learning.seeding import generator

BATCH = 256
IMAGES = 10 * BATCH
REPETITIONS = 3
RECIPES = {
    "crop, flip": Augmentation(crop_padding=4, flip=True),
    "crop, flip, TrivialAugment": Augmentation(crop_padding=4, flip=True, policy="trivial"),
    "crop, flip, TrivialAugment, cutout, mixup": Augmentation(
        crop_padding=4, flip=True, policy="trivial", cutout=8, mixup=0.2
    ),
    "crop, flip, RandAugment": Augmentation(crop_padding=4, flip=True, policy="rand"),
}
# The second recipe as torchvision's users write it.
TORCHVISION = "the second, by torchvision in a DataLoader"


class Pictures(Dataset[tuple[Tensor, int]]):
    """Images as torchvision's CIFAR10 has them: an array each, to Pillow and through transforms."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.permute(0, 2, 3, 1).contiguous()
        steps = [
            transforms.ToPILImage(), transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(), transforms.TrivialAugmentWide(),
            transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]  # fmt: skip
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return self.transform(self.images[place].numpy()), 0


def measure(device: torch.device, steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """By recipe: images a second, and the share of an epoch of each local network in `steps`.

    Ours on the device, torchvision's where it always is, on the CPU.
    """
    split = _random_images()
    there = split.to(device)
    timed = {name: _epoch(there, augment) for name, augment in RECIPES.items()}
    workers = torch.get_num_threads()
    loader = DataLoader(
        Pictures(split.images), BATCH, shuffle=True, num_workers=workers, persistent_workers=True
    )
    # As for the others, the first call isn't counted: it starts the workers.
    timed[TORCHVISION] = partial(_seconds, lambda: loader)
    networks = {
        name: step["seconds"] / entry["batch"]
        for entry in steps
        for name, step in entry["steps"].items()
        if name.endswith(", local")
    }
    found = []
    for name, timing in interleaved(timed, REPETITIONS).items():
        each = timing.median / IMAGES
        shares = {network: each / (each + seconds) for network, seconds in networks.items()}
        found.append({"name": name, "images_per_second": 1 / each, "share_of_epoch": shares})
    return found


def _random_images() -> Split:
    """As large as CIFAR-10's, of one class."""
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8)
    return Split(images, torch.zeros(IMAGES, dtype=torch.int64))


def _epoch(split: Split, augment: Augmentation) -> Callable[[], float]:
    """What goes once through a split in batches, and returns the seconds."""
    mean = std = torch.full((3,), 0.5)
    return lambda: _seconds(
        lambda: train_batches(
            split, batch_size=BATCH, classes=10, augment=augment, mean=mean, std=std, epoch=1,
            draw=partial(generator, 0),
        )
    )  # fmt: skip


def _seconds(batches: Callable[[], Iterable[object]]) -> float:
    start = time.perf_counter()
    for _ in batches():
        pass
    wait()
    return time.perf_counter() - start
