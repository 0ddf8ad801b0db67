"""The weights of Keras 2's LocallyConnected2D as local weights; Keras 3 has no such layer any more.

What it saves depends on its `implementation`; F is "channels_first", L "channels_last":
  1  (OH·OW, K, O), K being (C, kh, kw) for F and (kh, kw, C) for L. Never padded.
  2  every input to every output, to be masked: F (C, H, W, O, OH, OW), L (H, W, C, OH, OW, O).
  3  the numbers of 2 that the mask leaves, in one row, the outputs' order first: F (O, OH, OW),
     then (C, H, W); L (OH, OW, O), then (H, W, C).

Shapes: C channels in, O channels out, H×W input, OH×OW positions, kh×kw kernel.
"""

import torch
from torch import Tensor

from sfl.nn.storage import dense_to_local
from sfl.nn.window import Pair, Window, field_mask, pair, window_of


def local_state(
    kernel: object, bias: object, in_dimensions: tuple[int, int, int], kernel_size: Pair,
    strides: Pair, padding: str, data_format: str,
) -> tuple[dict[str, Tensor], tuple[Pair, Pair]]:  # fmt: skip
    """The weight (OH, OW, O, kh, kw, C) and, if any, bias (O, OH, OW) as a layer's state_dict.

    Also the padding, ((top, bottom), (left, right)). Raises ValueError for what doesn't fit.
    """
    for name, given, allowed in (
        ("padding", padding, ("valid", "same")),
        ("data_format", data_format, ("channels_first", "channels_last")),
    ):
        if given not in allowed:
            raise ValueError(f"{name} {given!r} is none of {', '.join(allowed)}")
    taps = kh, kw = pair(kernel_size)
    # What is odd goes before the first input, at any stride; PyTorch's "same" puts it at the end.
    rows, columns = ((k // 2, k - 1 - k // 2) if padding == "same" else (0, 0) for k in taps)
    window, positions = window_of(in_dimensions[1:], taps, strides, (rows, columns))
    kernel, first = torch.as_tensor(kernel), data_format == "channels_first"
    layouts = (_of_positions, _dense, _flat)
    found = [layout(kernel, in_dimensions, window, positions, first) for layout in layouts]
    weights = [weight for weight in found if weight is not None]
    if not weights:
        raise ValueError(
            f"kernel is {tuple(kernel.shape)}, which no implementation of LocallyConnected2D saves "
            f"for {in_dimensions[0]} channels, {positions[0]}×{positions[1]} positions, a kernel "
            f"of {kh}×{kw} and {data_format}"
        )
    state = {"weight": weights[0]}
    if bias is not None:
        state["bias"] = _local_bias(torch.as_tensor(bias), first)
    return state, (rows, columns)


def _local_bias(bias: Tensor, first: bool) -> Tensor:
    """A bias (OH, OW, O) as (O, OH, OW).

    For channels_first, Keras takes its numbers in the order that they have, as (O, OH, OW).
    """
    if bias.dim() != 3:
        raise ValueError(f"bias is {tuple(bias.shape)}, expected (OH, OW, O)")
    height, width, channels = bias.shape
    return bias.reshape(channels, height, width) if first else bias.permute(2, 0, 1)


# --- the three layouts: local weights, or None for a kernel of another shape

Sizes = tuple[int, int, int]
Positions = tuple[int, int]


def _of_positions(
    kernel: Tensor, sizes: Sizes, window: Window, positions: Positions, first: bool
) -> Tensor | None:
    channels, (kh, kw) = sizes[0], window.kernel
    if kernel.shape[:-1] != (positions[0] * positions[1], kh * kw * channels):
        return None
    if first:
        return kernel.reshape(*positions, channels, kh, kw, -1).permute(0, 1, 5, 3, 4, 2)
    return kernel.reshape(*positions, kh, kw, channels, -1).permute(0, 1, 5, 2, 3, 4)


def _dense(
    kernel: Tensor, sizes: Sizes, window: Window, positions: Positions, first: bool
) -> Tensor | None:
    if kernel.dim() != 6:
        return None
    dense = kernel if first else kernel.permute(2, 0, 1, 5, 3, 4)
    fits = dense.shape[:3] == sizes and dense.shape[4:] == positions
    return dense_to_local(dense, window) if fits else None


def _flat(
    kernel: Tensor, sizes: Sizes, window: Window, positions: Positions, first: bool
) -> Tensor | None:
    exists = field_mask(sizes[1:], window, positions)[:, :, None, :, :, None]
    out_channels, rest = divmod(kernel.numel(), sizes[0] * int(exists.sum()))
    if kernel.dim() != 1 or rest:
        return None
    weight = kernel.new_zeros(*positions, out_channels, *window.kernel, sizes[0])
    # Of an output, the inputs that its field has come in the field's own order.
    order = (2, 0, 1, 5, 3, 4) if first else (0, 1, 2, 3, 4, 5)
    weight.permute(order)[exists.expand_as(weight).permute(order)] = kernel
    return weight
