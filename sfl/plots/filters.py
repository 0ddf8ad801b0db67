"""What a network has learnt at each position, as tensors: filters, receptive fields, activations.

Shapes: B images, C channels in, O channels out (units), H×W pixels, OH×OW positions, kh×kw kernel.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

MEMORY = 2**24  # numbers that a Fourier transform may hold at a time


@dataclass(frozen=True, eq=False)
class Filters:
    """A layer's filters, weight (OH, OW, O, C, kh, kw); OH = OW = 1 if all positions share them.

    positions: (OH, OW) of the layer's output.
    """

    name: str
    weight: "Tensor"
    positions: tuple[int, int]

    @property
    def is_shared(self) -> bool:
        return self.weight.shape[:2] == (1, 1) and self.positions != (1, 1)


def conv_layers(model: "nn.Module") -> "list[tuple[str, nn.Module]]":
    """The convolutions, shared or not, in the order of the network, with their names."""
    from torch import nn

    from sfl.nn.spatial import SpatialFeatureLayer

    kinds = (nn.Conv2d, SpatialFeatureLayer)
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


def read_filters(name: str, layer: "nn.Module", positions: tuple[int, int]) -> Filters:
    """A layer's filters; with dense storage, the weights inside the receptive fields."""
    from torch import nn

    from sfl.nn.spatial import SpatialFeatureLayer

    if isinstance(layer, SpatialFeatureLayer):
        return Filters(name, layer.filters().detach().float(), positions)
    assert isinstance(layer, nn.Conv2d)
    return Filters(name, layer.weight.detach().float()[None, None], positions)


def similarity(found: Filters) -> "Tensor":
    """Mean cosine between filters of one unit that lie (dy, dx) positions apart.

    Returns (2·OH − 1, 2·OW − 1), with distance (0, 0) in the middle. Weights that meet only padding
    count as zeros. If positions share their filters, all values are 1. Filters that are drawn
    independently have a mean cosine of 0.
    """
    import torch

    height, width = found.positions
    if found.is_shared:
        return torch.ones(2 * height - 1, 2 * width - 1)
    unit = found.weight.flatten(3)  # (OH, OW, O, K)
    unit = unit / unit.norm(dim=3, keepdim=True).clamp(min=1e-12)
    grid = (2 * height, 2 * width)  # padded with zeros, because the transform is periodic
    chunk = max(1, MEMORY // (4 * height * width * unit.shape[3]))
    power = torch.zeros(grid[0], grid[1] // 2 + 1)
    for part in unit.split(chunk, dim=2):
        power += torch.fft.rfft2(part.flatten(2), s=grid, dim=(0, 1)).abs().square().sum(dim=2)
    there = torch.fft.rfft2(torch.ones(height, width), s=grid).abs().square()
    pairs = torch.fft.irfft2(there, s=grid).round().clamp(min=1) * unit.shape[2]
    cosine = torch.fft.irfft2(power, s=grid) / pairs
    shifted: Tensor = torch.fft.fftshift(cosine)
    return shifted[1:, 1:]  # the first row and column are empty: nothing is OH or OW apart


@dataclass(frozen=True)
class Similarity:
    """Mean cosines between filters that are 1, 2, … positions apart.

    by_chance: two standard errors of each mean, if the filters were independent.
    """

    distances: list[int]
    means: list[float]
    by_chance: list[float]


def similarity_by_distance(found: Filters) -> Similarity:
    """The mean of `similarity` over all pairs of positions at each distance, rounded."""
    import torch

    cosine = similarity(found)
    height, width = (size // 2 for size in cosine.shape)
    dy = torch.arange(-height, height + 1)[:, None]
    dx = torch.arange(-width, width + 1)[None, :]
    apart = (dy.square() + dx.square()).double().sqrt().round().long()
    pairs = ((height + 1 - dy.abs()) * (width + 1 - dx.abs())).double()
    distances = list(range(1, max(height, width) + 1))
    counts = [float(pairs[apart == d].sum()) for d in distances]
    sums = [float((cosine * pairs)[apart == d].sum()) for d in distances]
    # The cosine of two random directions has variance 1 / K; each pair was counted both ways.
    single = found.weight.shape[2] * found.weight[0, 0, 0].numel() / 2
    by_chance = [0.0 if found.is_shared else 2 / (count * single) ** 0.5 for count in counts]
    means = [total / count for total, count in zip(sums, counts, strict=True)]
    return Similarity(distances, means, by_chance)


def receptive_fields(
    model: "nn.Module", images: "Tensor", units: Sequence[int]
) -> "dict[str, Tensor]":
    """Effective receptive fields of units at each layer's centre (Luo et al. 2016, NeurIPS).

    model: in evaluation mode. images: (B, C, H, W), normalised. Returns for each layer's name
    (units, H, W): |∂y/∂x| of the unit's output y and each pixel x, mean over images and channels,
    scaled so that the largest is 1. A unit that a layer doesn't have is left out.
    """
    import torch

    fields: dict[str, Tensor] = {}
    x = images.clone().requires_grad_()
    for name, y in layer_outputs(model, x, dict(conv_layers(model))).items():
        centre = y[:, :, y.shape[2] // 2, y.shape[3] // 2]
        maps = []
        for unit in units:
            if unit < centre.shape[1]:
                (slope,) = torch.autograd.grad(centre[:, unit].sum(), x, retain_graph=True)
                field = slope.abs().mean(dim=(0, 1))
                maps.append(field / field.max().clamp(min=1e-30))
        fields[name] = torch.stack(maps) if maps else images.new_zeros(0, *images.shape[2:])
    return fields


def activations(model: "nn.Module", images: "Tensor") -> "dict[str, Tensor]":
    """For each layer's name (B, OH, OW): the output of the ReLU behind it, mean over the units.

    For a layer without a ReLU of its own before the next layer (none, or one fused with pooling):
    the positive part of its output. model: in evaluation mode. images: (B, C, H, W), normalised.
    """
    import torch
    from torch import nn

    from sfl.nn.engine import BatchNormReLU, ReLUMaxPool2d
    from sfl.nn.norm import UnitBatchNormReLU

    names = {module: name for name, module in conv_layers(model)}
    watched: dict[str, nn.Module] = {}
    name = None
    for module in model.modules():
        if module in names:
            name = names[module]
            watched[name] = module
        elif name is not None and isinstance(module, nn.ReLU | BatchNormReLU | UnitBatchNormReLU):
            watched[name], name = module, None
        elif isinstance(module, ReLUMaxPool2d):
            name = None
    with torch.no_grad():
        outputs = layer_outputs(model, images, watched)
        return {name: y.relu().mean(dim=1) for name, y in outputs.items()}


def layer_outputs(
    model: "nn.Module", x: "Tensor", watched: "dict[str, nn.Module]"
) -> "dict[str, Tensor]":
    """The outputs of the watched modules, by name, when the model computes x (B, C, H, W)."""
    caught: dict[str, Tensor] = {}

    def catch(name: str, module: "nn.Module", inputs: object, output: "Tensor") -> "Tensor":
        caught[name] = output
        return output.clone()  # because a ReLU behind it may work in place

    handles = [module.register_forward_hook(partial(catch, n)) for n, module in watched.items()]
    try:
        model(x)
    finally:
        for handle in handles:
            handle.remove()
    return caught
