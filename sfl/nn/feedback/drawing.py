"""The size of feedback weights, and how they are drawn: with the pattern of a layer's own.

Where a layer has no weight, there is no feedback: it is zero for the padding of local layers, and
outside the receptive fields in dense storage.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from sfl.nn.spatial import SpatialFeatureLayer, expect_choice
from sfl.nn.storage import local_to_dense
from sfl.nn.weighted import Weighted
from sfl.nn.window import field_uses

Scale = Literal["xavier", "kaiming"]
Draw = Callable[..., torch.Generator]  # of a purpose and counters, as learning.seeding.generator


def spread(layer: Weighted, scale: Scale) -> Tensor:
    """The standard deviation of a layer's feedback weights at birth, on the CPU.

    xavier: √(2 / (fan-in + fan-out)) (Glorot & Bengio 2010). kaiming: 1/√(3 fan-in).
    A number () for nn.Linear and nn.Conv2d; (OH, OW, 1, kh, kw, 1) for a SpatialFeatureLayer of
    either storage, by what each unit really sees and each input really feeds, 0 for padding.

    Raises ValueError for another scale.
    """
    expect_choice("scale", scale, Scale)
    fan_in, fan_out = fans(layer)
    squared = 2 / (fan_in + fan_out) if scale == "xavier" else 1 / (3 * fan_in)
    return torch.where(fan_out > 0, squared.sqrt(), 0).to(layer.weight.dtype)


def fans(layer: Weighted) -> tuple[Tensor, Tensor]:
    """How many inputs a weight's unit sees, and how many units its input feeds. Shapes: `spread`.

    Of a convolution without its borders; each input feeds the kernel's size over the stride.
    """
    if isinstance(layer, nn.Linear):
        return _numbers(layer.in_features, layer.out_features)
    channels, units = layer.in_channels // layer.groups, layer.out_channels // layer.groups
    if isinstance(layer, nn.Conv2d):
        field = math.prod(layer.kernel_size)
        return _numbers(channels * field, units * field / math.prod(layer.stride))
    _, *size = layer.in_dimensions
    _, *positions = layer.out_dimensions
    uses = field_uses(size, layer.window, (positions[0], positions[1]))[:, :, None, :, :, None]
    seen = (uses > 0).sum(dim=(3, 4), keepdim=True).clamp(min=1) * channels
    return seen.double(), uses.double() * units


def _numbers(fan_in: float, fan_out: float) -> tuple[Tensor, Tensor]:
    like = {"dtype": torch.float64, "device": "cpu"}
    return torch.tensor(fan_in, **like), torch.tensor(fan_out, **like)  # type: ignore[arg-type]


def drawn(layer: Weighted, scale: Scale, generator: torch.Generator) -> Tensor:
    """Feedback weights from U(±√3 · `spread`), drawn on the CPU, as the layer's own lie."""
    weights = uniform(_local_shape(layer), layer.weight.dtype, generator)
    return _stored(layer, weights.mul_(math.sqrt(3) * spread(layer, scale)))


def uniform(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Numbers from U(±1), drawn on the CPU."""
    drawn = torch.empty(shape, dtype=dtype, device="cpu")
    return drawn.uniform_(-1, 1, generator=generator)


def existing(layer: Weighted) -> int:
    """How many feedback weights there are: one for each weight inside a field."""
    if isinstance(layer, SpatialFeatureLayer):
        return layer.weights_inside()
    return layer.weight.numel()


def pattern(layer: Weighted, numbers: Tensor) -> Tensor:
    """Numbers of all places of the fields, of the shape of `spread`, as they broadcast to the
    layer's weights: in dense storage (1, H, W, 1, OH, OW), zero outside the fields.
    """
    if not isinstance(layer, SpatialFeatureLayer) or layer.storage == "local":
        return numbers.to(layer.weight.device)
    if layer.groups > 1:  # where a channel and a unit of two groups have no weight
        return _stored(layer, numbers.expand(_local_shape(layer)))
    size = (1, *layer.in_dimensions[1:])
    return local_to_dense(numbers, size, layer.window).to(layer.weight.device)


def inside(layer: SpatialFeatureLayer) -> Tensor:
    """`pattern` of ones: 1 where the layer has a weight in a field, else 0."""
    return pattern(layer, layer.field_mask()[:, :, None, :, :, None].to(layer.weight.dtype))


def _stored(layer: Weighted, weights: Tensor) -> Tensor:
    """Weights in local form as the layer stores its own: storage, device and memory order."""
    if isinstance(layer, SpatialFeatureLayer) and layer.storage == "dense":
        weights = local_to_dense(weights, layer.in_dimensions, layer.window, layer.groups)
    return torch.empty_like(layer.weight, requires_grad=False).copy_(weights)


def _local_shape(layer: Weighted) -> tuple[int, ...]:
    """Of its weights in local form, in which those of nn.Linear and nn.Conv2d always are."""
    if not isinstance(layer, SpatialFeatureLayer):
        return tuple(layer.weight.shape)
    _, *positions = layer.out_dimensions
    channels = layer.in_channels // layer.groups
    return (*positions, layer.out_channels, *layer.kernel_size, channels)
