"""The embedded data set: ten classes of drawn objects that only their shape tells apart.

No download, no files; the same settings give the same images, bit for bit on the CPU. Colours,
contrast (the object may be lighter or darker than what is behind it), clutter and noise are drawn
alike for every class, so that neither mean colour nor any one pixel says what is shown. Size and
rotation vary a little; how far an object strays from the middle is a setting, for that is what
weight sharing is good for.

Shapes: N images, S = 32 pixels a side. Knows nothing of files.
"""

from collections.abc import Callable
from math import pi

import torch
from torch import Tensor
from torch.nn import functional as F

from sfl.data.dataset import Dataset, Split
from sfl.display import track

SIDE = 32
CHUNK = 1000  # images drawn at once: large enough to be quick, small enough for the cache
RADIUS = (7.0, 11.0)  # pixels from an object's middle to its edge
ROTATION = pi / 12  # at most, either way; a plus stays apart from a cross
TINT = 0.3
CONTRAST = 0.4  # how far the object's colour is from what lies behind it, in [0, 1] per channel
CLUTTER = 0.08  # standard deviation of the blotches behind and on the object
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
    "disk": _disk,
    "ring": _ring,
    "square": _square,
    "frame": _frame,
    "triangle": _triangle,
    "plus": _plus,
    "cross": _cross,
    "stripes": _stripes,
    "star": _star,
    "crescent": _crescent,
}


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
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count).remainder_(len(OBJECTS))
    labels = labels[torch.randperm(count, generator=generator)]
    images = torch.empty(count, 3, SIDE, SIDE, dtype=torch.uint8)
    for start in track(range(0, count, CHUNK), description):
        chunk = labels[start : start + CHUNK]
        images[start : start + CHUNK] = _draw(chunk, jitter, generator)
    return Split(images, labels)


def _draw(labels: Tensor, jitter: int, generator: torch.Generator) -> Tensor:
    """Images (N, 3, S, S) uint8 of the objects that the labels (N,) name."""
    count = len(labels)
    coverage = _coverage(labels, jitter, generator)[:, None]
    # Lighter or darker than what is behind it, as often the one as the other, and tinted.
    sign = 2.0 * torch.randint(0, 2, (count, 1, 1, 1), generator=generator) - 1
    contrast = sign * CONTRAST * (1 + TINT * torch.randn(count, 3, 1, 1, generator=generator))
    middle = 0.5 + 0.1 * torch.randn(count, 3, 1, 1, generator=generator)
    blotches = CLUTTER * _blotches(count, generator)
    noise = NOISE * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    scraps = _scraps(count, generator)
    image = middle + torch.where(coverage>0, (coverage - 0.5) * contrast, -0.5*contrast+scraps) + blotches + noise
    return image.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _coverage(labels: Tensor, jitter: int, generator: torch.Generator) -> Tensor:
    """How much of each pixel its object covers, (N, S, S) in [0, 1]."""
    count = len(labels)
    shift = (2 * torch.rand(2, count, 1, 1, generator=generator) - 1) * jitter
    low, high = RADIUS
    radius = low + (high - low) * torch.rand(count, 1, 1, generator=generator)
    angle = (2 * torch.rand(count, 1, 1, generator=generator) - 1) * ROTATION
    pixels = torch.arange(SIDE) + 0.5 - SIDE / 2
    x, y = (pixels - shift[0]) / radius, (pixels[:, None] - shift[1]) / radius
    x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
    distance = torch.empty(count, SIDE, SIDE)
    for label, draw in enumerate(OBJECTS.values()):
        members = labels == label
        distance[members] = draw(x[members], y[members])
    return (0.5 - distance * radius).clamp_(0, 1)  # one pixel of soft edge


def _blotches(count: int, generator: torch.Generator) -> Tensor:
    """Soft random colour, (N, 3, S, S), about as large as an object's parts."""
    coarse = torch.randn(count, 3, 6, 6, generator=generator)
    return F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


SCRAPS = 3
SCRAPC = 0.3
def _scraps(count: int, generator: torch.Generator) -> Tensor:
    out = torch.zeros(count, 1, SIDE, SIDE)
    pixels = torch.arange(SIDE) + 0.5
    for _ in range(SCRAPS):
        where = torch.rand(2, count, 1, 1, generator=generator) * SIDE
        angle = torch.rand(count, 1, 1, generator=generator) * pi
        length = 2 + 3 * torch.rand(count, 1, 1, generator=generator)
        sign = 2.0 * torch.randint(0, 2, (count, 1, 1), generator=generator) - 1
        x, y = pixels - where[0], pixels[:, None] - where[1]
        x, y = x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()
        d = torch.hypot((x.abs() - length).clamp_(min=0), y) - 1.0
        out += ((0.5 - d).clamp_(0, 1) * sign * SCRAPC)[:, None]
    return out
