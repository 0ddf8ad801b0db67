"""Augmented epochs: torchvision's composition, each purpose by itself, any part alone."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms import Normalize, RandAugment, TrivialAugmentWide
from torchvision.transforms import functional as tv

from sfl.data import batches, policy
from sfl.data.augmentation import Augmentation, Shown, crop_and_flip, draw_crops, draw_flips
from sfl.data.dataset import Split
from sfl.data.mixing import draw_mixup
from sfl.learning.seeding import generator

MEAN, STD = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2023, 0.1994, 0.2010])
EVERYTHING: dict[str, Any] = {
    "crop_padding": 4, "crop_fill": "reflect", "flip": "alternate", "policy": "rand", "cutout": 4,
    "mixup": 0.2, "cutmix": 1.0,
}  # fmt: skip
Epoch = list[tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def split() -> Split:
    """Soft coloured images: what nearest interpolation takes from where can be seen."""
    g = torch.Generator().manual_seed(7)
    coarse = torch.rand(60, 3, 5, 5, generator=g)
    images = torch.nn.functional.interpolate(coarse, (32, 32), mode="bicubic").clamp(0, 1) * 255
    return Split(images.to(torch.uint8), torch.arange(60) % 10)


def epoch_of(split: Split, seed: int = 0, epoch: int = 1, **changes: Any) -> Epoch:
    """Batches of 16. changes: of the augmentation's settings, and `first`, `share`."""
    given = {name: changes.pop(name) for name in ("first", "share") if name in changes}
    made = batches.train_batches(
        split, batch_size=16, classes=10, augment=Augmentation(**changes), mean=MEAN, std=STD,
        draw=partial(generator, seed), epoch=epoch, **given,
    )  # fmt: skip
    return list(made)


def pixels(found: Epoch) -> Tensor:
    return torch.cat([images for images, _ in found])


def order(split: Split, epoch: int = 1) -> Tensor:
    return torch.randperm(len(split), generator=generator(0, "order", epoch))


def equal(one: Epoch, other: Epoch) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a, b) for left, right in zip(one, other, strict=True)
        for a, b in zip(left, right, strict=True)
    )  # fmt: skip


# --- against torchvision


@pytest.mark.parametrize("name", ["trivial", "rand"])
def test_an_epoch_is_what_torchvision_makes_of_the_same_draws(
    name: Any, split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RandomCrop, RandomHorizontalFlip, the policy, ToTensor, Normalize; image by image."""
    ours = pixels(epoch_of(split, crop_padding=4, flip=True, policy=name, magnitude=7))
    crops = generator(0, "augmentation", 1)
    offsets, flips = draw_crops(60, 4, crops), draw_flips(60, crops)
    times, magnitude = (1, None) if name == "trivial" else (2, 7)
    rows = policy.draw(60, times, magnitude, generator(0, "policy", 1))
    theirs = TrivialAugmentWide() if name == "trivial" else RandAugment(2, 7)
    for i, place in enumerate(order(split).tolist()):
        image = tv.crop(tv.pad(split.images[place], [4]), *offsets[i].tolist(), 32, 32)
        image = tv.hflip(image) if flips[i] else image
        asked = iter(rows[:, i].tolist())
        row = 0

        def drawn(high: int, size: Any, asked: Any = asked, **_: object) -> Tensor:
            nonlocal row
            row = next(asked) if high == 14 else row
            return torch.tensor([{14: row // 62, 31: row // 2 % 31, 2: row % 2}[high]])

        with monkeypatch.context() as patched:
            patched.setattr(torch, "randint", drawn)
            image = theirs(image)
        expected = Normalize(MEAN, STD)(image / 255)
        # One grey level, which a second operation may stretch.
        close = (ours[i] - expected).abs() * STD[:, None, None] * 255 < 1.01 * times**2
        assert close.float().mean() > 0.998


def test_a_reflected_crop_equals_torchvision_for_every_offset(split: Split) -> None:
    offsets = torch.cartesian_prod(torch.arange(9), torch.arange(9))[:60]
    flips = torch.arange(60) % 2 == 0
    ours = crop_and_flip(split.images, offsets, flips, 4, "reflect")
    for i, image in enumerate(split.images):
        padded = tv.pad(image, [4], padding_mode="reflect")
        cropped = tv.crop(padded, *offsets[i].tolist(), 32, 32)
        assert torch.equal(ours[i], tv.hflip(cropped) if flips[i] else cropped)


@pytest.mark.parametrize("shape", [(1, 3), (2, 2), (3, 1)])
def test_an_image_smaller_than_the_padding_is_reflected_again_and_again(
    shape: tuple[int, int],
) -> None:
    image = torch.arange(shape[0] * shape[1], dtype=torch.uint8).view(1, 1, *shape)
    padded = torch.from_numpy(numpy.pad(image[0, 0].numpy(), 6, mode="reflect"))
    for top, left in torch.cartesian_prod(torch.arange(13), torch.arange(13)).tolist():
        ours = crop_and_flip(image, torch.tensor([[top, left]]), None, 6, "reflect")
        assert torch.equal(ours[0, 0], padded[top : top + shape[0], left : left + shape[1]])


# --- flips, cutout, mixing


def test_alternate_mirrors_each_image_in_every_second_epoch(split: Split) -> None:
    mirrored = []
    for epoch in (1, 2, 3, 4):
        plain = pixels(epoch_of(split, epoch=epoch))
        shown = pixels(epoch_of(split, epoch=epoch, flip="alternate"))
        flipped = (shown == plain.flip(3)).flatten(1).all(1)
        assert ((shown == plain).flatten(1).all(1) ^ flipped).all()
        by_image = torch.empty(60, dtype=torch.bool)
        by_image[order(split, epoch)] = flipped
        mirrored.append(by_image)
    first, second, third, fourth = mirrored
    assert torch.equal(first, ~second) and torch.equal(first, third)
    assert torch.equal(second, fourth)
    assert 15 < int(first.sum()) < 45


@pytest.mark.parametrize("side", [1, 5, 8, 100])
def test_cutout_erases_one_square_around_a_pixel(side: int, split: Split) -> None:
    plain, shown = pixels(epoch_of(split)), pixels(epoch_of(split, cutout=side))
    erased = (shown == 0).all(1)
    assert torch.equal(torch.where(erased[:, None], 0, plain), shown)
    for one in erased:
        rows, columns = one.any(1), one.any(0)
        assert torch.equal(one, rows[:, None] & columns[None])
        for line in (rows, columns):
            at = line.nonzero().flatten().tolist()
            assert at == list(range(at[0], at[-1] + 1))
            assert len(at) == side or (len(at) < side and (at[0] == 0 or at[-1] == 31))


def test_cutout_is_around_each_pixel_alike() -> None:
    grey = Split(torch.full((4800, 3, 4, 6), 200, dtype=torch.uint8), torch.arange(4800) % 10)
    erased = (pixels(epoch_of(grey, cutout=1)) == 0).all(1).sum(0)
    assert int(erased.sum()) == 4800
    assert (erased - 200).abs().max() < 70  # five standard deviations


def test_mixing_changes_only_pixels_and_targets(split: Split) -> None:
    plain, mixed = epoch_of(split), epoch_of(split, mixup=0.5)
    mixes = draw_mixup(4, 0.5, generator(0, "mixup", 1).initial_seed())
    for mix, batch, other in zip(mixes, plain, mixed, strict=True):
        expected = mix.apply(*batch, 10)
        assert torch.equal(other[0], expected[0]) and torch.equal(other[1], expected[1])


def test_with_both_a_batch_gets_cutmix_or_mixup() -> None:
    augment = Augmentation(mixup=0.5, cutmix=1.0)
    mixes = augment.draw_mixes(200, (32, 32), partial(generator, 0), 1)
    cut = [mix is not None and mix.box is not None for mix in mixes]
    assert 70 < sum(cut) < 130
    alone = Augmentation(mixup=0.5).draw_mixes(200, (32, 32), partial(generator, 0), 1)
    assert all(a == b for a, b, c in zip(mixes, alone, cut, strict=True) if not c)


# --- draws


def test_one_seed_and_epoch_one_result(split: Split) -> None:
    made = epoch_of(split, **EVERYTHING)
    assert equal(made, epoch_of(split, **EVERYTHING))
    assert not equal(made, epoch_of(split, **EVERYTHING, epoch=3))
    assert not equal(made, epoch_of(split, **EVERYTHING, seed=1))


@pytest.mark.parametrize(
    "change",
    [{"crop_padding": 4}, {"flip": "random"}, {"policy": "rand"}, {"cutout": 4}, {"mixup": 1.0},
     {"cutmix": 1.0}],
    ids=str,
)  # fmt: skip
def test_each_epoch_has_draws_of_its_own(change: dict[str, Any]) -> None:
    """Images that are all alike, so that their order says nothing."""
    alike = Split(
        torch.arange(3072).view(1, 3, 32, 32).expand(60, -1, -1, -1).byte(), torch.arange(60) % 10
    )
    one, other = (epoch_of(alike, epoch=epoch, **change) for epoch in (1, 2))
    if "mixup" in change or "cutmix" in change:  # alike images mix to what they were
        mixes = [
            Augmentation(**change).draw_mixes(4, (32, 32), partial(generator, 0), epoch)
            for epoch in (1, 2)
        ]
        assert mixes[0] != mixes[1]
    else:
        assert not torch.equal(pixels(one), pixels(other))


@pytest.mark.parametrize("purpose", ["policy", "cutout", "mixup", "cutmix", "flip"])
def test_each_purpose_draws_for_itself(purpose: str, split: Split) -> None:
    """With other draws for one purpose, what the others do is as it was."""
    asked = set()

    def draw(name: str, *counters: int) -> torch.Generator:
        asked.add(name)
        return generator(0, name, *counters)

    changes: dict[str, Any] = {purpose: {"policy": "trivial", "flip": "alternate"}.get(purpose, 1)}
    made = batches.train_batches(
        split, batch_size=16, classes=10, augment=Augmentation(crop_padding=4, **changes),
        mean=MEAN, std=STD, draw=draw, epoch=1,
    )  # fmt: skip
    list(made)
    own = {"flip": "first flip"}.get(purpose, purpose)
    assert asked == {"order", "augmentation", own}


# --- parts of an epoch


@pytest.mark.parametrize("first", [1, 3])
def test_going_on_in_an_epoch_makes_the_same_batches(first: int, split: Split) -> None:
    assert equal(epoch_of(split, **EVERYTHING)[first:], epoch_of(split, **EVERYTHING, first=first))


def test_chunks_change_nothing(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = epoch_of(split, **EVERYTHING)
    for chunk in (1, 16 * 3072 * 2, 16 * 3072 * 3):
        monkeypatch.setattr(batches, "CHUNK", {"cpu": chunk})
        assert equal(whole, epoch_of(split, **EVERYTHING))


def test_each_worker_makes_its_part_of_what_one_process_makes(split: Split) -> None:
    unmixed = EVERYTHING | {"mixup": 0, "cutmix": 0}
    whole = epoch_of(split, **unmixed)
    for rank in range(5):  # of the last batch, 12 images, nothing may be left for a rank
        part = slice(rank, None, 5)
        mine = epoch_of(split, **unmixed, share=part)
        assert equal(mine, [(images[part], labels[part]) for images, labels in whole])
    mixed = epoch_of(split, **EVERYTHING, share=slice(0, None, 16))
    assert [len(images) for images, _ in mixed] == [1, 1, 1, 1]


# --- the GPU path


def test_making_a_batch_on_a_gpu_never_waits_for_it(
    split: Split, only_cuda: Callable[[], None]
) -> None:
    """Fake CUDA tensors refuse mixed devices and reading a value."""
    size, cuda = torch.Size(split.images.shape), torch.device("cuda")
    augment, draw = Augmentation(**EVERYTHING), partial(generator, 0)
    mine = torch.arange(60)
    views = Shown.plan(augment, size, order(split), mine, [60], draw, 1, torch.device("cpu"))
    mixes = augment.draw_mixes(2, (32, 32), draw, 1)
    with FakeTensorMode(allow_non_fake_inputs=True):

        def there(holder: Any, *names: str) -> Any:
            return replace(holder, **{name: getattr(holder, name).to(cuda) for name in names})

        views = there(views, "offsets", "flips", "centres")
        passes = [there(one, "order", "back", "given") for one in views.passes]
        views = replace(views, passes=passes)
        images, labels = split.to(cuda).images, split.to(cuda).labels
        mean, std = MEAN.to(cuda), STD.to(cuda)
        only_cuda()
        made = views.erase(batches.normalize(views.apply(images, 0, 0), mean, std), 0)
        for mix in mixes:
            assert mix is not None
            mixed, targets = mix.apply(made, labels, 10)
            assert mixed.device.type == targets.device.type == "cuda"
