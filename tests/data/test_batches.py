"""Batches: equal to torchvision's transforms, the same on every device, every image once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import functional as tv

from sfl.data import batches
from sfl.data.augmentation import Augmentation, crop_and_flip, draw_crops, draw_flips
from sfl.data.batches import batch_count, normalize
from sfl.data.dataset import Split
from sfl.learning.seeding import generator as seeded

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_images(count: int, height: int = 32, width: int = 32) -> Tensor:
    shape = (count, 3, height, width)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator(7))


def numbered_split(count: int) -> Split:
    """Image i is filled with the value i and has the label i."""
    images = torch.arange(count, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 4, 4)
    return Split(images.contiguous(), torch.arange(count))


def epoch(split: Split, seed: int = 0, **changes: object) -> list[tuple[Tensor, Tensor]]:
    """An epoch of batches of 4 that are not normalised, so that pixels can be recognised.

    changes: of train_batches' settings and of the augmentation's.
    """
    settings: dict[str, Any] = {
        "batch_size": 4, "classes": 10, "epoch": 1, "draw": partial(seeded, seed),
        "mean": torch.zeros(3), "std": torch.full((3,), 1 / 255),
    }  # fmt: skip
    augment = {name: value for name, value in changes.items() if hasattr(Augmentation, name)}
    given = {name: value for name, value in changes.items() if name not in augment}
    augmentation = Augmentation(**augment)  # type: ignore[arg-type]
    return list(batches.train_batches(split, augment=augmentation, **settings | given))


# --- against torchvision


def torchvision_crop_and_flip(image: Tensor, offset: Tensor, flip: bool, padding: int) -> Tensor:
    """What RandomCrop(size, padding) and RandomHorizontalFlip do with these draws."""
    top, left = offset.tolist()
    cropped: Tensor = tv.crop(tv.pad(image, [padding]), top, left, image.shape[1], image.shape[2])
    mirrored: Tensor = tv.hflip(cropped)
    return mirrored if flip else cropped


@pytest.mark.parametrize(("padding", "height", "width"), [(4, 32, 32), (2, 5, 8)])
def test_equals_torchvision_for_every_offset(padding: int, height: int, width: int) -> None:
    side = 2 * padding + 1
    offsets = torch.cartesian_prod(torch.arange(side), torch.arange(side)).repeat(2, 1)
    flips = torch.arange(len(offsets)) < side**2
    images = random_images(len(offsets), height, width)
    ours = crop_and_flip(images, offsets, flips, padding)
    theirs = [
        torchvision_crop_and_flip(image, offset, bool(flip), padding)
        for image, offset, flip in zip(images, offsets, flips, strict=True)
    ]
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, torch.stack(theirs))


def test_equals_torchvision_with_only_one_of_the_two() -> None:
    images, offsets = random_images(9), draw_crops(9, 4, generator())
    flips = torch.arange(9) % 2 == 0
    cropped, flipped = (
        crop_and_flip(images, offsets, None, 4),
        crop_and_flip(images, None, flips, 4),
    )
    for i, image in enumerate(images):
        assert torch.equal(cropped[i], torchvision_crop_and_flip(image, offsets[i], False, 4))
        assert torch.equal(flipped[i], tv.hflip(image) if flips[i] else image)


def test_the_padding_is_black_and_the_values_are_these() -> None:
    image = torch.tensor([[[[1, 2], [3, 4]]]], dtype=torch.uint8)
    corner = crop_and_flip(image, torch.tensor([[0, 0]]), torch.tensor([False]), 1)
    mirrored = crop_and_flip(image, torch.tensor([[0, 2]]), torch.tensor([True]), 1)
    assert corner.tolist() == [[[[0, 0], [0, 1]]]]
    assert mirrored.tolist() == [[[[0, 0], [0, 2]]]]


def test_normalize_is_bitwise_what_torchvision_does() -> None:
    every_value = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(2, 3, -1, -1)
    ours = normalize(every_value, torch.tensor(MEAN), torch.tensor(STD))
    image = every_value[0].permute(1, 2, 0).numpy()
    theirs = tv.normalize(tv.to_tensor(image), list(MEAN), list(STD))
    assert ours.dtype == torch.float32
    assert torch.equal(ours[0], theirs) and torch.equal(ours[1], theirs)


def test_a_batch_is_what_torchvision_makes_of_the_same_draws() -> None:
    split = Split(random_images(10), torch.arange(10))
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    ours = epoch(split, crop_padding=4, flip=True, mean=mean, std=std)
    order, crops = seeded(0, "order", 1), seeded(0, "augmentation", 1)
    permutation = torch.randperm(10, generator=order)
    offsets, flips = draw_crops(10, 4, crops), draw_flips(10, crops)
    for i, place in enumerate(permutation.tolist()):
        image = torchvision_crop_and_flip(split.images[place], offsets[i], bool(flips[i]), 4)
        theirs = tv.normalize(tv.to_tensor(image.permute(1, 2, 0).numpy()), list(MEAN), list(STD))
        assert torch.equal(ours[i // 4][0][i % 4], theirs)
        assert ours[i // 4][1][i % 4] == place


# --- draws


def test_crops_take_every_offset_and_flips_are_fair() -> None:
    offsets, flips = draw_crops(5000, 4, generator()), draw_flips(5000, generator())
    for axis in (0, 1):
        assert offsets[:, axis].unique().tolist() == list(range(9))
    assert offsets.shape == (5000, 2) and flips.dtype == torch.bool
    assert abs(flips.float().mean() - 0.5) < 0.03
    assert draw_crops(3, 0, generator()).tolist() == [[0, 0]] * 3


def test_switching_one_augmentation_off_leaves_the_other_as_it_was() -> None:
    split = Split(random_images(16), torch.arange(16))
    offsets, flips = draw_crops(16, 4, c := seeded(0, "augmentation", 1)), draw_flips(16, c)
    order = torch.randperm(16, generator=seeded(0, "order", 1))
    for settings, expected in (
        ({"crop_padding": 4}, crop_and_flip(split.images[order], offsets, None, 4)),
        ({"flip": True}, crop_and_flip(split.images[order], None, flips, 0)),
        ({}, split.images[order]),
    ):
        pixels = torch.cat([images for images, _ in epoch(split, **settings)])
        assert torch.equal(pixels.round().to(torch.uint8), expected)


# --- epochs


def test_an_epoch_has_every_image_once_with_its_label() -> None:
    found = epoch(numbered_split(10))
    assert [len(labels) for _, labels in found] == [4, 4, 2]
    labels = torch.cat([labels for _, labels in found])
    assert sorted(labels.tolist()) == list(range(10)) and labels.tolist() != list(range(10))
    for images, wanted in found:
        assert torch.equal(images.round().long()[:, 0, 0, 0], wanted)


def test_same_generators_same_batches_other_generators_other_batches() -> None:
    split = Split(random_images(12), torch.arange(12))

    def pixels(**changes: Any) -> Tensor:
        return torch.cat(
            [images for images, _ in epoch(split, crop_padding=4, flip=True, **changes)]
        )

    assert torch.equal(pixels(), pixels())
    assert not torch.equal(pixels(), pixels(epoch=2))
    assert not torch.equal(pixels(), pixels(seed=1))


def test_test_batches_keep_the_order_and_every_image() -> None:
    mean, std = torch.zeros(3), torch.full((3,), 1 / 255)
    found = list(batches.test_batches(numbered_split(10), batch_size=4, mean=mean, std=std))
    assert [len(labels) for _, labels in found] == [4, 4, 2]
    assert torch.cat([labels for _, labels in found]).tolist() == list(range(10))
    pixels = torch.cat([images for images, _ in found])[:, 0, 0, 0]
    assert pixels.round().tolist() == list(range(10))


@pytest.mark.parametrize(
    ("count", "size", "expected"), [(10, 4, 3), (8, 4, 2), (1, 4, 1), (0, 4, 0)]
)
def test_batch_count(count: int, size: int, expected: int) -> None:
    assert batch_count(count, size) == expected
    assert len(epoch(numbered_split(count), batch_size=size)) == expected


# --- the GPU path: fake CUDA tensors refuse mixed devices and host syncs


def test_batches_on_a_gpu_stay_there_and_never_wait_for_it(only_cuda: Callable[[], None]) -> None:
    with FakeTensorMode(allow_non_fake_inputs=True):
        split = Split(random_images(10), torch.arange(10)).to(torch.device("cuda"))
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        only_cuda()
        for found in (
            epoch(split, crop_padding=4, flip=True, mean=mean, std=std),
            epoch(split, mean=mean, std=std),
            list(batches.test_batches(split, batch_size=4, mean=mean, std=std)),
        ):
            assert [images.shape[0] for images, _ in found] == [4, 4, 2]
            assert {t.device.type for batch in found for t in batch} == {"cuda"}
