"""Policies: TrivialAugment and RandAugment, for each image by itself.

Both apply operations that are drawn for each image. The CPU knows at the epoch's start which image
gets which: it sorts each chunk by operation, so that the images of one operation are a slice. Its
size is known without asking the device. Every operation is computed for its own images only.

TrivialAugmentWide: Müller & Hutter 2021, arXiv:2103.10158. RandAugment: Cubuk et al. 2020,
arXiv:1909.13719. Operations, strengths and probabilities are torchvision's, with 31 strengths.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Literal

import torch
from torch import Tensor

from sfl.data import operations as op

STRENGTHS = 31
# In torchvision's order, each with the function that computes it.
OPERATIONS: dict[str, op.Operation] = {
    "Identity": op.identity,
    "ShearX": op.affine, "ShearY": op.affine, "TranslateX": op.affine, "TranslateY": op.affine,
    "Rotate": op.affine,
    "Brightness": op.brightness, "Color": op.color, "Contrast": op.contrast,
    "Sharpness": op.sharpness, "Posterize": op.posterize, "Solarize": op.solarize,
    "AutoContrast": op.autocontrast, "Equalize": op.equalize,
}  # fmt: skip
FUNCTIONS = tuple(dict.fromkeys(OPERATIONS.values()))
Name = Literal["trivial", "rand"]


def largest(policy: Name, height: int, width: int) -> dict[str, float]:
    """The greatest strength of each operation: pixels, degrees, parts, bits that are cut
    off, grey levels by which a threshold is lowered."""
    if policy == "trivial":
        return {
            "ShearX": 0.99, "ShearY": 0.99, "TranslateX": 32, "TranslateY": 32, "Rotate": 135,
            "Brightness": 0.99, "Color": 0.99, "Contrast": 0.99, "Sharpness": 0.99, "Posterize": 6,
            "Solarize": 255,
        }  # fmt: skip
    return {
        "ShearX": 0.3, "ShearY": 0.3, "TranslateX": 150 / 331 * width,
        "TranslateY": 150 / 331 * height, "Rotate": 30,
        "Brightness": 0.9, "Color": 0.9, "Contrast": 0.9, "Sharpness": 0.9, "Posterize": 4,
        "Solarize": 255,
    }  # fmt: skip


def given(name: str, strength: float, height: int, width: int) -> tuple[float, ...]:
    """What the function of an operation needs for a signed strength in the units of `largest`."""
    if name == "ShearX":  # about the upper left corner, as shears are in torchvision
        return (1, strength, strength * height / 2, 0, 1, 0)
    if name == "ShearY":
        return (1, 0, 0, strength, 1, strength * width / 2)
    if name in ("TranslateX", "TranslateY"):
        pixels = -int(strength)
        return (1, 0, pixels, 0, 1, 0) if name == "TranslateX" else (1, 0, 0, 0, 1, pixels)
    if name == "Rotate":
        cos, sin = math.cos(math.radians(strength)), math.sin(math.radians(strength))
        return (cos, -sin, 0, sin, cos, 0)
    if name == "Posterize":
        return (256 - 2 ** round(strength), 0, 0, 0, 0, 0)
    return (math.ceil(255 - strength) if name == "Solarize" else 1 + strength, 0, 0, 0, 0, 0)


def table(policy: Name, height: int, width: int) -> Tensor:
    """`given` for every (operation, strength, sign): (14 · 31 · 2, 6) float32."""
    most = largest(policy, height, width)
    rows = [
        given(name, sign * strength, height, width)
        for name in OPERATIONS
        for strength in torch.linspace(0, most.get(name, 0), STRENGTHS).tolist()
        for sign in ((1, 1) if name in ("Posterize", "Solarize") else (1, -1))
    ]
    return torch.tensor(rows, dtype=torch.float32)


def draw(count: int, times: int, magnitude: int | None, generator: torch.Generator) -> Tensor:
    """Which row of `table` each image gets, `times` times: (times, count) int64.

    magnitude: the strength of all, from 0 to 30; None: drawn for each image.
    """
    operations = torch.randint(len(OPERATIONS), (times, count), generator=generator)
    strengths = torch.randint(STRENGTHS, (times, count), generator=generator)
    signs = torch.randint(2, (times, count), generator=generator)
    if magnitude is not None:
        strengths = torch.full_like(strengths, magnitude)
    return (operations * STRENGTHS + strengths) * 2 + signs


@dataclass(frozen=True)
class Pass:
    """One operation for each image of the remaining epoch, made ready on the device.

    order: (N,) int64, the images of each chunk in the order of their functions, counted from the
    chunk's first. back: (N,) int64, from there to the chunk's order. given: (N, 6) float32, in the
    order of the functions. counts: by chunk, how many images each function has.
    """

    order: Tensor
    back: Tensor
    given: Tensor
    counts: Sequence[Sequence[int]]

    @classmethod
    def plan(cls, rows: Tensor, of: Tensor, sizes: Sequence[int], device: torch.device) -> "Pass":
        """rows: (N,) int64, which row of the table `of` each image gets. sizes: of the chunks."""
        functions = list(OPERATIONS.values())
        function_of = torch.tensor([FUNCTIONS.index(function) for function in functions])
        chunks = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes, dtype=torch.int64))
        keys = chunks * len(FUNCTIONS) + function_of[rows // (2 * STRENGTHS)]
        order = keys.argsort(stable=True)
        starts = torch.tensor([0, *accumulate(sizes)], dtype=torch.int64)
        counts = keys.bincount(minlength=len(sizes) * len(FUNCTIONS))
        first = starts[chunks]
        return cls(
            (order - first).to(device),
            (torch.empty_like(order).index_copy_(0, order, torch.arange(len(rows))) - first).to(
                device
            ),
            of[rows[order]].to(device),
            counts.view(len(sizes), len(FUNCTIONS)).tolist(),
        )

    def apply(self, images: Tensor, chunk: int, start: int) -> Tensor:
        """The chunk's images, (B, C, H, W) uint8, of which `start` is the first, each changed."""
        mine = slice(start, start + len(images))
        images, values = images.index_select(0, self.order[mine]), self.given[mine]
        for function, part in zip(FUNCTIONS, _slices(self.counts[chunk]), strict=True):
            if part.start < part.stop:
                function(images[part], values[part])
        return images.index_select(0, self.back[mine])


def _slices(counts: Sequence[int]) -> Iterator[slice]:
    return (slice(*ends) for ends in pairwise((0, *accumulate(counts))))
