"""Nets of plain matrix products: what a model with any backward rule must equal.

Nothing of sfl computes here. A layer is a matrix (units, inputs), filled by loops over positions.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from sfl.nn.spatial import SpatialFeatureLayer

Size = Sequence[int]


@dataclass
class PlainLayer:
    """where: for each unit and input the number of the weight between them, or −1: (units, inputs).

    per_unit: the number of the bias that each unit has. size: of the input, (C, H, W) or (n,).
    """

    where: Tensor
    per_unit: Tensor
    size: Size

    @classmethod
    def of(cls, layer: nn.Module, size: Size) -> "PlainLayer":
        """The loops run once for all layers of the same sizes."""
        key = (repr(layer), tuple(size))
        if key not in MADE:
            MADE[key] = cls._made(layer, size)
        return replace(MADE[key])

    @classmethod
    def _made(cls, layer: nn.Module, size: Size) -> "PlainLayer":
        if isinstance(layer, nn.Linear):
            out, inputs = layer.weight.shape
            return cls(torch.arange(out * inputs).view(out, inputs), torch.arange(out), size)
        assert isinstance(layer, nn.Conv2d | SpatialFeatureLayer)
        (out, oh, ow), where = _fields(layer, size)
        unit = torch.arange(out * oh * ow).view(out, -1)
        assert layer.bias is not None
        per_unit = unit if layer.bias.dim() == 3 else torch.arange(out)[:, None].expand_as(unit)
        return cls(where, per_unit.flatten(), size)

    def matrix(self, weight: Tensor) -> Tensor:
        return torch.where(self.where >= 0, weight.flatten()[self.where.clamp(min=0)], 0)

    def gathered(self, products: Tensor, weight: Tensor) -> Tensor:
        """Of each weight the sum over all places that it has in the matrix, in its shape."""
        inside = self.where >= 0
        total = weight.new_zeros(weight.numel())
        return total.index_add(0, self.where[inside], products[inside]).view(weight.shape)

    def fans(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Of each weight that isn't shared: its unit's inputs, its input's units."""
        inside = self.where >= 0
        rows = inside.sum(1, keepdim=True).expand_as(inside).to(weight)
        columns = inside.sum(0, keepdim=True).expand_as(inside).to(weight)
        return self.gathered(rows, weight), self.gathered(columns, weight)


MADE: dict[tuple[str, tuple[int, ...]], PlainLayer] = {}


def _fields(layer: nn.Conv2d | SpatialFeatureLayer, size: Size) -> tuple[Size, Tensor]:
    channels, height, width = size
    with torch.no_grad():
        y = layer(torch.zeros(1, *size, dtype=layer.weight.dtype))
    _, out, oh, ow = y.shape
    kh, kw = layer.kernel_size
    steps = (layer.stride, layer.dilation)
    (sh, sw), (dh, dw) = steps  # type: ignore[misc]
    assert isinstance(layer.padding, tuple)
    ph, pw = layer.padding
    groups = layer.groups
    ins, outs = channels // groups, out // groups
    number = torch.arange(layer.weight.numel()).view(layer.weight.shape)
    where = torch.full((out, oh, ow, channels, height, width), -1)
    spans = map(range, (out, oh, ow, ins, kh, kw))
    for o, p, q, c, i, j in itertools.product(*spans):
        assert isinstance(ph, int) and isinstance(pw, int)
        h, w, channel = p * sh - ph + i * dh, q * sw - pw + j * dw, (o // outs) * ins + c
        if not (0 <= h < height and 0 <= w < width):
            continue
        if isinstance(layer, nn.Conv2d):
            found = number[o, c, i, j]
        elif layer.storage == "local":
            found = number[p, q, o, i, j, c]
        else:
            found = number[channel, h, w, o, p, q]
        where[o, p, q, channel, h, w] = found
    return (out, oh, ow), where.view(out * oh * ow, channels * height * width)


def gradients(
    layers: Sequence[nn.Module], plain: Sequence[PlainLayer], feedback: Sequence[Tensor | None],
    x: Tensor, dy: Tensor,
) -> tuple[list[Tensor], Tensor]:  # fmt: skip
    """Of layers with ReLUs between them, the last without: gradients of weights and biases, and y.

    feedback: what sends errors back through each layer; of the first unused. x: (B, …). dy: the
    gradient of the output (B, units).
    """
    inputs, h = [], x.flatten(1)
    for number, (layer, flat) in enumerate(zip(layers, plain, strict=True)):
        inputs.append(h)
        assert isinstance(layer.weight, Tensor) and isinstance(layer.bias, Tensor)
        h = h @ flat.matrix(layer.weight.detach()).t()
        h = h + layer.bias.detach().flatten()[flat.per_unit]
        h = h.clamp(min=0) if number + 1 < len(layers) else h
    found: list[Tensor] = []
    for place in reversed(range(len(layers))):
        layer, flat = layers[place], plain[place]
        assert isinstance(layer.weight, Tensor) and isinstance(layer.bias, Tensor)
        dw = flat.gathered(dy.t() @ inputs[place], layer.weight.detach())
        db = layer.bias.new_zeros(layer.bias.numel())
        db = db.detach().index_add(0, flat.per_unit, dy.sum(0)).view(layer.bias.shape)
        found = [dw, db, *found]
        back = feedback[place]
        if back is not None:
            dy = (dy @ flat.matrix(back)) * (inputs[place] > 0)
    return found, h
