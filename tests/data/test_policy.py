"""TrivialAugment, RandAugment and each of their operations: torchvision's, to one grey level."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torchvision.transforms import RandAugment, TrivialAugmentWide

from sfl.data import operations, policy
from sfl.data.policy import FUNCTIONS, OPERATIONS, STRENGTHS, Pass
from sfl.learning.seeding import generator

Torchvision = Callable[[Tensor, str, int, int], Tensor]
TIE = 2e-5  # pixels: nearer than this to the middle between two, rounding decides
CPU = torch.device("cpu")


def pictures(height: int, width: int, channels: int = 3) -> Tensor:
    """Soft ones, dark and pale ones, noise, one of a single value, one with two."""
    g = torch.Generator().manual_seed(5)
    coarse = torch.rand(6, channels, 4, 4, generator=g)
    soft = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    noise = torch.rand(2, channels, height, width, generator=g)
    flat = torch.full((1, channels, height, width), 0.3)
    two = (noise[:1] > 0.9).float()
    darker = soft[:2] * 0.2
    paler = soft[2:4] * 0.3 + 0.6
    return (torch.cat([soft, darker, paler, noise, flat, two]) * 255).round().to(torch.uint8)


@pytest.fixture
def torchvision(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Torchvision]:
    """Its policy of that name, with the operation, strength and sign that are asked for."""

    def of(name: str) -> Torchvision:
        def apply(images: Tensor, operation: str, strength: int, sign: int) -> Tensor:
            made = TrivialAugmentWide() if name == "trivial" else RandAugment(1, strength)
            answers = {len(OPERATIONS): list(OPERATIONS).index(operation), STRENGTHS: strength}
            answers |= {2: sign}

            def drawn(high: int, size: Any, **_: object) -> Tensor:
                return torch.tensor([answers[high]])

            with monkeypatch.context() as patched:
                patched.setattr(torch, "randint", drawn)
                changed: Tensor = made(images)
            return changed

        return apply

    return of


def row_of(operation: str, strength: int, sign: int) -> int:
    return (list(OPERATIONS).index(operation) * STRENGTHS + strength) * 2 + sign


def undecided(given: Tensor, height: int, width: int) -> Tensor:
    """(H, W) bool: pixels whose source lies in the middle between two pixels."""
    a, b, c, d, e, f = given.double()
    xs, ys = torch.meshgrid(
        torch.arange(width) - (width - 1) / 2, torch.arange(height) - (height - 1) / 2,
        indexing="xy",
    )  # fmt: skip
    columns = a * xs + b * ys + c + (width - 1) / 2
    rows = d * xs + e * ys + f + (height - 1) / 2
    unclear: Tensor = ((columns % 1 - 0.5).abs() < TIE) | ((rows % 1 - 0.5).abs() < TIE)
    return unclear


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ["trivial", "rand"])
def test_each_operation_equals_torchvision_at_every_strength(
    name: policy.Name, operation: str, torchvision: Callable[[str], Torchvision]
) -> None:
    theirs = torchvision(name)
    moved = OPERATIONS[operation] is operations.affine
    left_out = compared = changed = 0
    for height, width, strengths in ((32, 32, range(STRENGTHS)), (20, 28, (5, 20, 30))):
        images = pictures(height, width)
        table = policy.table(name, height, width)
        has_strength = operation in policy.largest(name, height, width)
        for strength in strengths if has_strength else (0, 30):
            for sign in (0, 1):
                given = table[row_of(operation, strength, sign)]
                ours = images.clone()
                OPERATIONS[operation](ours, given.expand(len(images), -1))
                expected = theirs(images, operation, strength, sign)
                apart = (ours.int() - expected.int()).abs()
                if moved:
                    unclear = undecided(given, height, width)
                    apart, left_out = apart * ~unclear, left_out + int(unclear.sum())
                compared += height * width
                changed += int((ours != images).sum())
                assert apart.max() <= (0 if moved else 1), (strength, sign, height)
    assert left_out < 0.02 * compared
    assert (changed == 0) == (operation == "Identity")


def test_one_channel_is_grey_already(torchvision: Callable[[str], Torchvision]) -> None:
    images = pictures(9, 8, channels=1)
    for operation in ("Color", "Contrast", "Equalize", "Sharpness"):
        ours = images.clone()
        given = policy.table("trivial", 9, 8)[row_of(operation, 20, 0)]
        OPERATIONS[operation](ours, given.expand(len(images), -1))
        expected = torchvision("trivial")(images, operation, 20, 0)
        assert (ours.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 9), (1, 5)])
def test_tiny_images_go_through_all_operations(height: int, width: int) -> None:
    rows = torch.arange(len(OPERATIONS) * STRENGTHS * 2)
    one = Pass.plan(rows, policy.table("trivial", height, width), [len(rows)], CPU)
    images = pictures(height, width)[:1].expand(len(rows), -1, -1, -1)
    assert one.apply(images, 0, 0).shape == images.shape


# --- many images at once


def test_every_image_gets_its_own_operation_whatever_the_chunks() -> None:
    """By chunks of several sizes, an empty one among them: what each image gets alone."""
    rows = policy.draw(300, 1, None, generator(1, "policy", 1))[0]
    table = policy.table("trivial", 16, 16)
    images = pictures(16, 16)[torch.arange(300) % 14]
    alone = images.clone()
    for i, row in enumerate(rows):
        function = list(OPERATIONS.values())[int(row) // (2 * STRENGTHS)]
        function(alone[i : i + 1], table[row][None])
    for sizes in ([300], [7, 0, 193, 100]):
        one, start, made = Pass.plan(rows, table, sizes, CPU), 0, []
        for chunk, size in enumerate(sizes):
            made.append(one.apply(images[start : start + size], chunk, start))
            start += size
        assert torch.equal(torch.cat(made), alone)


def test_the_images_given_are_not_changed() -> None:
    images = pictures(8, 8)
    before = images.clone()
    rows = torch.full((len(images),), row_of("Solarize", 30, 0))
    made = Pass.plan(rows, policy.table("rand", 8, 8), [len(images)], CPU).apply(images, 0, 0)
    assert torch.equal(images, before) and not torch.equal(made, before)


def test_draws_take_every_row_and_rand_keeps_to_its_magnitude() -> None:
    rows = policy.draw(50_000, 1, None, generator(0, "policy", 1))
    assert rows.shape == (1, 50_000)
    assert rows.unique().tolist() == list(range(len(OPERATIONS) * STRENGTHS * 2))
    shares = (rows // (2 * STRENGTHS)).flatten().bincount() / rows.numel()
    assert (shares - 1 / len(OPERATIONS)).abs().max() < 0.005
    rand = policy.draw(1000, 3, 9, generator(0, "policy", 1))
    assert rand.shape == (3, 1000) and (rand // 2 % STRENGTHS == 9).all()
    assert not torch.equal(rand[0], rand[1])


def test_operations_of_one_function_stand_side_by_side() -> None:
    assert len(FUNCTIONS) == 10
    assert list(OPERATIONS) == [
        "Identity", "ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness",
        "Color", "Contrast", "Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize",
    ]  # fmt: skip
