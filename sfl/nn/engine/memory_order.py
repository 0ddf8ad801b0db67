"""How tensors lie in memory: the order that each product is fastest with.

Activations are always (B, C, H, W); in which order their numbers lie is a matter of strides, as
with torch.channels_last. Two orders are used here:
  batch innermost  in memory (H, W, C, B): what the local layers take and put out. Each position is
                   then one matrix product, and a vector of the processor holds several images.
  channels_last    in memory (B, H, W, C): PyTorch's own, for convolutions.
Local weights need none of this: they lie as their shape says, (OH, OW, O, kh, kw, C/G).

Shapes: B batch, C channels, H×W.
"""

from torch import Tensor


def is_batch_innermost(x: Tensor) -> bool:
    """Whether x (B, C, H, W) lies in memory as (H, W, C, B), and not as PyTorch's own do.

    One image that does is in torch.channels_last.
    """
    if x.dim() != 4 or x.shape[0] == 1 or x.is_contiguous():
        return False
    return x.permute(2, 3, 1, 0).is_contiguous()


def positions_outermost(x: Tensor) -> Tensor:
    """(B, C, H, W) → (H, W, C, B), contiguous; no copy where it lies so in memory already."""
    return x.permute(2, 3, 1, 0).contiguous()


def batch_innermost(x: Tensor) -> Tensor:
    """x (B, C, H, W) itself, with its batch innermost; no copy where it lies so already."""
    return positions_outermost(x).permute(3, 2, 0, 1)


def empty(like: Tensor, height: int, width: int, channels: int) -> Tensor:
    """(B, C, H, W) with its batch innermost; B, dtype and device of `like`."""
    batch = like.shape[0]
    strides = (1, batch, width * channels * batch, channels * batch)
    return like.new_empty_strided((batch, channels, height, width), strides)


def empty_like(x: Tensor) -> Tensor:
    """As x (B, C, H, W), with its batch innermost."""
    return empty(x, x.shape[2], x.shape[3], x.shape[1])
