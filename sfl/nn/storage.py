"""Local weights as dense ones, and back.

local  (OH, OW, O, kh, kw, C/G): only the weights inside the receptive fields exist.
dense  (C, H, W, O, OH, OW): the notebook's; every input has a weight to every unit.

Shapes: C channels in, O channels out, H×W input, OH×OW positions, kh×kw kernel, G groups.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from sfl.nn.window import Window, field_mask


def local_to_dense(
    weight: Tensor, in_dimensions: tuple[int, int, int], window: Window, groups: int = 1
) -> Tensor:
    """Dense weights that do the same: zero outside the receptive fields."""
    positions_h, positions_w, out_channels = weight.shape[:3]
    dense = weight.new_zeros(*in_dimensions, out_channels, positions_h, positions_w)
    for there, here in _places(weight.shape, in_dimensions[1:], window, groups):
        dense[there] = weight[here].mT
    return dense


def dense_to_local(dense: Tensor, window: Window, groups: int = 1) -> Tensor:
    """The weights inside the receptive fields; what lies outside is left behind."""
    channels, height, width, out_channels, *positions = dense.shape
    local = dense.new_zeros(*positions, out_channels, *window.kernel, channels // groups)
    for there, here in _places(local.shape, (height, width), window, groups):
        local[here] = dense[there].mT
    return local


Index = tuple[slice | Tensor, ...]


def _places(
    shape: torch.Size, size: tuple[int, int], window: Window, groups: int
) -> Iterator[tuple[Index, Index]]:
    """For each group, where its weights that exist lie in the dense and in the local tensor."""
    positions_h, positions_w, out_channels, *_, channels = shape
    oh, ow, i, j = field_mask(size, window, (positions_h, positions_w)).nonzero().unbind(1)
    (sh, sw), (dh, dw), (top, left) = window.stride, window.dilation, window.padding
    h, w = oh * sh + i * dh - top, ow * sw + j * dw - left
    outputs = out_channels // groups
    for group in range(groups):
        ins = slice(group * channels, (group + 1) * channels)
        outs = slice(group * outputs, (group + 1) * outputs)
        yield (ins, h, w, outs, oh, ow), (oh, ow, outs, i, j, slice(None))


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
