"""The embedded data set: drawn objects of ten classes that differ only in shape.

It needs no download and no files. The same settings give bitwise the same images on any CPU.
Colour, contrast (an object may be lighter or darker than its background), clutter and noise have
the same distribution in every class, so neither the mean colour nor a single pixel tells the class.
Size and rotation vary a little. The distance of an object from the centre is a setting, because
objects at many places are what weight sharing should help with.

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
CHUNK = 250  # images drawn at once: large enough to be fast, small enough for the CPU's cache
RADIUS = (7.0, 11.0)  # pixels from an object's centre to its edge
ROTATION = pi / 12  # the largest, in both directions; a plus never looks like a cross
CONTRAST = 0.4  # between an object and its background; colours are in [0, 1]
TINT = 0.3  # standard deviation of a channel's contrast, as a fraction of CONTRAST
STROKES = 2  # short dark or light lines in the background, which look like edges of an object
STROKE_CONTRAST = 0.3
BLOTCHES = 0.08  # standard deviation of the soft spots of colour over the whole image
NOISE = 0.05  # standard deviation of the noise in each pixel


# --- the objects: x and y in units of the radius, y downwards; a signed distance, negative inside


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
    """Draws `train` and `test` images (3, 32, 32), equally many of each class.

    jitter: the largest distance in pixels, in each direction, between the centres of object and
    image. 0: always centred. From about 6 on, the border cuts objects off.
    seed: another seed gives other images. Test images have their own random stream and do not
    depend on the number of training images.
    """
    return Dataset(
        "shapes",
        tuple(OBJECTS),
        _draw_split(train, jitter, 2 * seed, "Drawing the training images"),
        _draw_split(test, jitter, 2 * seed + 1, "Drawing the test images"),
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
    """Random numbers in float64: CPUs that round differently still give the same 8-bit pixels."""

    generator: torch.Generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        drawn = torch.rand(shape, generator=self.generator, dtype=torch.float64)
        return low + (high - low) * drawn

    def normal(self, deviation: float, *shape: int) -> Tensor:
        return deviation * torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def sign(self, *shape: int) -> Tensor:
        return 2.0 * torch.randint(0, 2, shape, generator=self.generator, dtype=torch.float64) - 1


def _draw_images(labels: Tensor, jitter: int, draw: _Draw) -> Tensor:
    """One image for each of the labels (N,): (N, 3, S, S) uint8."""
    count = len(labels)
    coverage = _objects(labels, jitter, draw)[:, None]
    middle = 0.5 + draw.normal(0.1, count, 3, 1, 1)
    # Lighter or darker than the background with equal probability.
    half = draw.sign(count, 1, 1, 1) * CONTRAST / 2 * (1 + draw.normal(TINT, count, 3, 1, 1))
    image = torch.lerp(middle - half + _strokes(count, draw)[:, None], middle + half, coverage)
    image += _blotches(count, draw)
    image += draw.normal(NOISE, count, 3, SIDE, SIDE)
    return image.clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _objects(labels: Tensor, jitter: int, draw: _Draw) -> Tensor:
    """The fraction of each pixel that the object covers, (N, S, S) in [0, 1]."""
    count = len(labels)
    shift = draw.uniform(-jitter, jitter, 2, count, 1, 1)
    radius = draw.uniform(*RADIUS, count, 1, 1)
    x, y = _rotated(shift, draw.uniform(-ROTATION, ROTATION, count, 1, 1))
    x, y = x / radius, y / radius
    distance = torch.empty_like(x)
    for label, outline in enumerate(OBJECTS.values()):
        members = (labels == label).nonzero().flatten()
        distance[members] = outline(x[members], y[members])
    return (0.5 - distance * radius).clamp_(0, 1)  # an edge is one pixel wide


def _strokes(count: int, draw: _Draw) -> Tensor:
    """Short lines anywhere, (N, S, S): added to the colour of the background."""
    total = torch.zeros(count, SIDE, SIDE, dtype=torch.float64)
    for _ in range(STROKES):
        place = draw.uniform(-SIDE / 2, SIDE / 2, 2, count, 1, 1)
        x, y = _rotated(place, draw.uniform(0, pi, count, 1, 1))
        half_length = draw.uniform(2, 5, count, 1, 1)
        distance = torch.hypot((x.abs() - half_length).clamp_(min=0), y) - 1
        total += (0.5 - distance).clamp_(0, 1) * draw.sign(count, 1, 1) * STROKE_CONTRAST
    return total


def _rotated(centre: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    """Each pixel's x and y (N, S, S) relative to `centre` (2, N, 1, 1), rotated by `angle`."""
    pixels = torch.arange(SIDE, dtype=torch.float64) + 0.5 - SIDE / 2
    x, y = pixels - centre[0], pixels[:, None] - centre[1]
    return x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()


def _blotches(count: int, draw: _Draw) -> Tensor:
    """Soft spots of random colour, (N, 3, S, S), about as large as an object's parts."""
    coarse = draw.normal(BLOTCHES, count, 3, 6, 6)
    return F.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)
