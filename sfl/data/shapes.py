"""The embedded data set: ten classes of drawn objects that only their shape tells apart.

No download, no files; the same settings give the same images, bit for bit, on any CPU. Colours,
contrast (the object may be lighter or darker than what is behind it), clutter and noise are drawn
alike for every class, so that neither mean colour nor any one pixel says what is shown. Size and
rotation vary a little; how far an object strays from the middle is a setting, for that is what
weight sharing is good for.

Shapes: N images, S = 32 pixels a side. Knows nothing of files.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor
from torch.nn import functional as F

from sfl.data.dataset import Dataset, Split
from sfl.progress import track

SIDE = 32
CHUNK = 250  # images drawn at once: large enough to be quick, small enough for the CPU's cache
RADIUS = (7.0, 11.0)  # pixels from an object's middle to its edge
ROTATION = pi / 12  # at most, either way; a plus stays apart from a cross
CONTRAST = 0.4  # between an object and what lies behind it; colours are in [0, 1]
TINT = 0.3  # standard deviation of a channel's contrast, as a part of CONTRAST
SCRAPS = 2  # dark or light strokes behind the object, for a net to tell from its edges
SCRAP_CONTRAST = 0.3
BLOTCHES = 0.08  # standard deviation of the soft stains on everything
NOISE = 0.05  # standard deviation of each pixel by itself


# --- the objects: x, y in units of the radius, y downwards; returns a signed distance, inside < 0


def _disk(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.85


def _ring(x: Tensor, y: Tensor) -> Tensor:
    return (torch.hypot(x, y) - 0.7).abs() - 0.2


def _square(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(x.abs(), y.abs()) - 0.75


def _frame(x: Tensor, y: Tensor) -> Tensor:
    return (torch.maximum(x.abs(), y.abs()) - 0.65).abs() - 0.18


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(0.866 * x.abs() - 0.5 * y, y) - 0.5


def _plus(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.abs(), y.abs()
    return torch.minimum(torch.maximum(x - 0.25, y - 0.9), torch.maximum(y - 0.25, x - 0.9))


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return _plus((x + y) * 0.5**0.5, (x - y) * 0.5**0.5)


def _stripes(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum((y.abs() - 0.5).abs() - 0.2, x.abs() - 0.85)


def _star(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.65 - 0.3 * torch.cos(5 * torch.atan2(x, -y))


def _crescent(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(x, y) - 0.9, 0.7 - torch.hypot(x - 0.45, y))


OBJECTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "disk": _disk, "ring": _ring, "square": _square, "frame": _frame, "triangle": _triangle,
    "plus": _plus, "cross": _cross, "stripes": _stripes, "star": _star, "crescent": _crescent,
}  # fmt: skip


def draw_shapes(
    *, train: int = 10_000, test: int = 2_000, jitter: int = 6, seed: int = 0
) -> Dataset:
    """Draws `train` and `test` images (3, 32, 32); every class as often as any other.

    jitter: how many pixels an object's middle strays from the image's, at most, in each direction.
    0: always centred. From about 6 on, objects are cut off by the border.
    seed: other seeds, other images. Test images come from a stream of their own, so that they
    don't depend on how many train images there are.
    """
    return Dataset(
        "shapes",
        tuple(OBJECTS),
        _draw_split(train, jitter, 2 * seed, "Drawing shapes to train on"),
        _draw_split(test, jitter, 2 * seed + 1, "Drawing shapes to test on"),
    )


def _draw_split(count: int, jitter: int, seed: int, description: str) -> Split:
    draw = _Draw(torch.Generator().manual_seed(seed))
    labels = torch.arange(count) % len(OBJECTS)
    labels = labels[torch.randperm(count, generator=draw.generator)]
    images = torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    for start in track(range(0, count, CHUNK), description):
        images[start : start + CHUNK] = _draw_images(labels[start : start + CHUNK], jitter, draw)
    return Split(images, labels)


@dataclass(frozen=True)
class _Draw:
    """Random numbers in float64: where vector units round differently, 8 bits don't show it."""

    generator: torch.Generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return low + (high - low) * drawn

    def normal(self, deviation: float, *shape: int) -> Tensor:
        return deviation * torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def sign(self, *shape: int) -> Tensor:
        return 2.0 * torch.randint(0, 2, shape, generator=self.generator, dtype=torch.float64) - 1


def _draw_images(labels: Tensor, jitter: int, draw: _Draw) -> Tensor:
    """The objects that the labels (N,) name: (N, 3, S, S) uint8."""
    count = len(labels)
    coverage = _objects(labels, jitter, draw)[:, None]
    middle = 0.5 + draw.normal(0.1, count, 3, 1, 1)
    # Lighter or darker than what is behind it, the one as often as the other.
    half = draw.sign(count, 1, 1, 1) * CONTRAST / 2 * (1 + draw.normal(TINT, count, 3, 1, 1))
    image = torch.lerp(middle - half + _scraps(count, draw)[:, None], middle + half, coverage)
    image += _blotches(count, draw)
    image += draw.normal(NOISE, count, 3, SIDE, SIDE)
    return image.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _objects(labels: Tensor, jitter: int, draw: _Draw) -> Tensor:
    """How much of each pixel its object covers, (N, S, S) in [0, 1]."""
    count = len(labels)
    shift = draw.uniform(-jitter, jitter, 2, count, 1, 1)
    radius = draw.uniform(*RADIUS, count, 1, 1)
    x, y = _turned(shift, draw.uniform(-ROTATION, ROTATION, count, 1, 1))
    x, y = x / radius, y / radius
    distance = torch.empty_like(x)
    for label, outline in enumerate(OBJECTS.values()):
        members = (labels == label).nonzero().flatten()
        distance[members] = outline(x[members], y[members])
    return (0.5 - distance * radius).clamp_(0, 1)  # an edge is one pixel wide


def _scraps(count: int, draw: _Draw) -> Tensor:
    """Short strokes anywhere, (N, S, S): what they add to the colour behind the object."""
    total = torch.zeros(count, SIDE, SIDE, dtype=torch.float64)
    for _ in range(SCRAPS):
        place = draw.uniform(-SIDE / 2, SIDE / 2, 2, count, 1, 1)
        x, y = _turned(place, draw.uniform(0, pi, count, 1, 1))
        half_length = draw.uniform(2, 5, count, 1, 1)
        distance = torch.hypot((x.abs() - half_length).clamp_(min=0), y) - 1
        total += (0.5 - distance).clamp_(0, 1) * draw.sign(count, 1, 1) * SCRAP_CONTRAST
    return total


def _turned(middle: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Each pixel's x and y (N, S, S) as seen from `middle` (2, N, 1, 1), turned by `angle`."""
    pixels = torch.arange(SIDE, dtype=torch.float64) + 0.5 - SIDE / 2
    x, y = pixels - middle[0], pixels[:, None] - middle[1]
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def _blotches(count: int, draw: _Draw) -> Tensor:
    """Soft stains of random colour, (N, 3, S, S), about as large as an object's parts."""
    coarse = draw.normal(BLOTCHES, count, 3, 6, 6)
    return F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
