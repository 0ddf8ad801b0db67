"""How tensors lie in memory: the order that each product is fastest with.

Activations are always (B, C, H, W); in which order their numbers lie is a matter of strides. What a
layer puts out lies as its input does, as in PyTorch:
  contiguous       in memory (B, C, H, W): PyTorch's usual one.
  channels_last    in memory (B, H, W, C): PyTorch's own for convolutions.
  batch innermost  in memory (H, W, C, B): what local layers are computed in. Each position is then
                   one matrix product, and a vector of the processor holds several images. A network
                   of local layers keeps it from its entrance to its classifier.
Local weights need none of this: they lie as their shape says, (OH, OW, O, kh, kw, C/G).

Shapes: B batch, C channels, H×W.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Copy = Callable[[Tensor, Tensor], object]  # (target, source), as Tensor.copy_


def is_batch_innermost(x: Tensor) -> bool:
    """Whether x (B, C, H, W) lies in memory as (H, W, C, B), and not as PyTorch's own do.

    One image that does is in torch.channels_last.
    """
    if x.dim() != 4 or x.shape[0] == 1 or x.is_contiguous():
        return False
    return x.permute(2, 3, 1, 0).is_contiguous()


def batch_innermost(x: Tensor) -> Tensor:
    """As sfl.nn.engine.batch_innermost, of PyTorch's own operations alone."""
    return positions_outermost(x).permute(3, 2, 0, 1)


def positions_outermost(x: Tensor, copy: Copy | None = None) -> Tensor:
    """(B, C, H, W) → (H, W, C, B), contiguous; no copy where it lies so in memory already."""
    turned = x.permute(2, 3, 1, 0)
    if copy is None or turned.is_contiguous():
        return turned.contiguous()
    copied = turned.new_empty(turned.shape)
    copy(copied, turned)
    return copied


def empty(like: Tensor, height: int, width: int, channels: int) -> Tensor:
    """(B, C, H, W) with B, dtype, device and order in memory of `like` (B, ·, ·, ·)."""
    batch = like.shape[0]
    shape = (batch, channels, height, width)
    # One number a place: the strides fit several orders.
    usual = like.is_contiguous() or like.shape[:2].numel() == 1
    if not usual and like.stride(0) > 0 and _steps_grow(like, (0, 1, 3, 2)):
        strides = (1, batch, width * channels * batch, channels * batch)
        return like.new_empty_strided(shape, strides)
    order = torch.channels_last if _is_channels_last(like) else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=order)


def _is_channels_last(x: Tensor) -> bool:
    """As PyTorch decides it for its own convolutions (is_channels_last_strides_2d in c10): by the
    steps, so that slices lie as the whole does; if in doubt, no.
    """
    one_place = x.stride(2) * x.shape[2] == x.stride(1)  # (B, 1, 1, 1): both
    return x.stride(1) > 0 and not one_place and _steps_grow(x, (1, 3, 2, 0))


def _steps_grow(x: Tensor, dims: tuple[int, ...]) -> bool:
    """Whether the numbers of x lie in this order of its dimensions, the innermost first."""
    least = 0
    for dim in dims:
        if x.stride(dim) < least:
            return False
        least = x.stride(dim) * x.shape[dim]
    return True


def empty_like(x: Tensor) -> Tensor:
    """As x (B, C, H, W), in its order in memory."""
    return empty(x, x.shape[2], x.shape[3], x.shape[1])


def room_for(output: Tensor) -> Tensor:
    """(H, W, C, B), contiguous, to write what `filled` takes: of output's memory if it lies so."""
    turned = output.permute(2, 3, 1, 0)
    return turned if turned.is_contiguous() else turned.new_empty(turned.shape)


def filled(output: Tensor, room: Tensor) -> Tensor:
    """The output (B, C, H, W) with the numbers of its room (H, W, C, B)."""
    if room.data_ptr() != output.data_ptr():
        output.copy_(room.permute(3, 2, 0, 1))
    return output
