"""Local weights as dense ones, and back.

local  (OH, OW, O, kh, kw, C/G): only the weights inside the receptive fields exist.
dense  (C, H, W, O, OH, OW): the notebook's; every input has a weight to every unit.

Shapes: C channels in, O channels out, H×W input, OH×OW positions, kh×kw kernel, G groups.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sfl.nn.window import Window


def local_to_dense(
    weight: Tensor, in_dimensions: tuple[int, int, int], window: Window, groups: int = 1
) -> Tensor:
    """Dense weights that do the same: zero outside the receptive fields."""
    positions_h, positions_w, out_channels = weight.shape[:3]
    dense = weight.new_zeros(*in_dimensions, out_channels, positions_h, positions_w)
    for there, here in _places(weight.shape, in_dimensions, window, groups):
        dense[there] = weight[here].permute(3, 1, 2, 0)
    return dense


def dense_to_local(dense: Tensor, window: Window, groups: int = 1) -> Tensor:
    """The weights inside the receptive fields; what lies outside is left behind."""
    channels, height, width, out_channels, positions_h, positions_w = dense.shape
    units, field = (positions_h, positions_w, out_channels), (*window.kernel, channels // groups)
    local = dense.new_zeros(*units, *field)
    for there, here in _places(local.shape, (channels, height, width), window, groups):
        local[here] = dense[there].permute(3, 1, 2, 0)
    return local


Index = tuple[slice | int, ...]


def _places(
    shape: torch.Size, in_dimensions: tuple[int, int, int], window: Window, groups: int
) -> Iterator[tuple[Index, Index]]:
    """For each position and group, where its weights lie in the dense and in the local tensor."""
    positions_h, positions_w, out_channels, *_, channels = shape
    outputs = out_channels // groups
    for oh in range(positions_h):
        rows, taps_h = _along(0, oh, in_dimensions[1], window)
        for ow in range(positions_w):
            columns, taps_w = _along(1, ow, in_dimensions[2], window)
            for group in range(groups):
                ins = slice(group * channels, (group + 1) * channels)
                outs = slice(group * outputs, (group + 1) * outputs)
                dense = (ins, rows, columns, outs, oh, ow)
                yield dense, (oh, ow, outs, taps_h, taps_w, slice(None))


def _along(axis: int, position: int, size: int, window: Window) -> tuple[slice, slice]:
    """The inputs of a position's field that exist along an axis, and the taps that see them."""
    step, taps = window.dilation[axis], window.kernel[axis]
    first = position * window.stride[axis] - window.padding[axis]
    start = max(0, -(first // step))  # the first tap that is not padding
    stop = max(start, min(taps, -((first - size) // step)))
    return slice(first + start * step, first + stop * step, step), slice(start, stop)


def shared_filter(local: Tensor, exists: Tensor) -> Tensor:
    """The mean over positions of local weights: one filter (O, kh, kw, C/G) for all of them.

    exists: (OH, OW, kh, kw) bool, as `field_mask` gives it; weights of padding don't count.
    """
    counts = exists.sum(dim=(0, 1)).clamp(min=1)  # of positions that have this place of the field
    return (local * exists[:, :, None, :, :, None]).sum(dim=(0, 1)) / counts[:, :, None]


def sharing_distance(local: Tensor, exists: Tensor) -> float:
    """Σ‖w − w̄‖² / Σ‖w‖² over the weights that exist: how far they are from being one filter.

    w̄ is `shared_filter`. 0: all positions share one; 1: their mean is zero.
    """
    there = exists[:, :, None, :, :, None]
    apart = ((local - shared_filter(local, exists)) * there).square().sum()
    total = (local * there).square().sum()
    return float(apart / total) if total else 0.0


def share_beside(weight: Tensor, inside: Tensor) -> float:
    """The share of Σ‖w‖² that is not of `inside`, which are some of the weights."""
    if weight.is_mps:  # which has no float64
        weight, inside = weight.cpu(), inside.cpu()
    of_inside = inside.double().square().sum()
    total = torch.linalg.vector_norm(weight, dtype=torch.float64).square()
    return max(0.0, float(1 - of_inside / total)) if total else 0.0
