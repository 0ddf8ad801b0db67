"""The functional forms: a convolution without weight sharing, and the notebook's dense form.

Shapes: B batch, C channels in, O channels out, H×W input, OH×OW output, kh×kw kernel, G groups.
"""

import torch
from torch import Tensor, nn

from sfl.nn.engine import locally_connected
from sfl.nn.window import Padding, Pair, window_of


def spatial_conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution in which every output position has weights of its own.

    input (B, C, H, W) or (C, H, W); weight (OH, OW, O, kh, kw, C/G); bias (O, OH, OW), (O,) or None
    → (B, O, OH, OW) or (O, OH, OW). stride, padding, dilation, groups: as in `F.conv2d`, of which
    this is the same where weight[oh, ow] is the same at every position, (O, kh, kw, C/G) there and
    (O, C/G, kh, kw) in a convolution.

    Raises ValueError, naming both, where input, weight and bias don't fit each other, in their
    numbers, types or devices (under autocast the types may differ).
    """
    _expect_tensor(input)
    if input.dim() == 3:
        return spatial_conv2d(input[None], weight, bias, stride, padding, dilation, groups)[0]
    if input.dim() != 4:
        raise ValueError(f"input has {input.dim()} dimensions, expected the 4 of (B, C, H, W)")
    if weight.dim() != 6:
        raise ValueError(
            f"weight has {weight.dim()} dimensions, expected the 6 of (OH, OW, O, kh, kw, C/G)"
        )
    _expect_one_kind(input=input, weight=weight, bias=bias)
    positions_h, positions_w, out_channels, kh, kw, per_group = weight.shape
    _, channels, height, width = input.shape
    if channels != per_group * groups:
        raise ValueError(f"input has {channels} channels, the weights expect {per_group * groups}")
    expect_groups(channels, out_channels, groups)
    window, positions = window_of((height, width), (kh, kw), stride, padding, dilation)
    if positions != (positions_h, positions_w):
        raise ValueError(
            f"an input of {height}×{width} gives {positions[0]}×{positions[1]} positions, "
            f"the weights are for {positions_h}×{positions_w}"
        )
    if bias is not None:
        bias = _bias_map(bias, out_channels, positions)
    return locally_connected(input, weight, bias, window, groups)


def dense_conv2d(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The notebook's form: every input feeds every unit, through one matrix product.

    input (B, C, H, W) or (C, H, W); weight (C, H, W, O, OH, OW); bias (O, OH, OW), (O,) or None
    → (B, O, OH, OW) or (O, OH, OW). Equal to
    `torch.tensordot(input, weight, dims=([1, 2, 3], [0, 1, 2])) + bias`.

    Raises ValueError, naming both shapes, where input and weight don't fit each other.
    """
    _expect_tensor(input)
    if input.dim() == 3:
        return dense_conv2d(input[None], weight, bias)[0]
    if input.shape[1:] != weight.shape[:3]:
        expected = tuple(weight.shape[:3])
        raise ValueError(f"input is {tuple(input.shape[1:])}, the weights expect {expected}")
    _, _, _, out_channels, positions_h, positions_w = weight.shape
    matrix = weight.flatten(3).flatten(0, 2)  # (C·H·W, O·OH·OW)
    flat = input.flatten(1)
    if bias is None:
        y = flat @ matrix
    else:
        each = _bias_map(bias, out_channels, (positions_h, positions_w))
        y = torch.addmm(each.flatten(), flat, matrix)
    return y.view(-1, out_channels, positions_h, positions_w)


def _bias_map(bias: Tensor, out_channels: int, positions: tuple[int, int]) -> Tensor:
    """A bias a channel (O,) or a unit (O, OH, OW) as (O, OH, OW)."""
    if bias.shape == (out_channels,):
        return bias[:, None, None].expand(-1, *positions)
    if bias.shape != (out_channels, *positions):
        expected = f"{(out_channels,)} or {(out_channels, *positions)}"
        raise ValueError(f"bias is {tuple(bias.shape)}, expected {expected}")
    return bias


def _expect_tensor(given: object) -> None:
    if not isinstance(given, Tensor):
        raise TypeError(f"input is a {type(given).__name__}, expected a tensor (B, C, H, W)")
    if given.layout is not torch.strided:
        raise ValueError(f"input is {given.layout}, expected a dense one: give input.to_dense()")


def _expect_one_kind(**tensors: Tensor | None) -> None:
    """The kernel reads memory as what it is told to: other types would be read as garbage."""
    (first, like), *others = [(name, t) for name, t in tensors.items() if t is not None]
    if like.is_complex():
        raise ValueError(f"{first} is {like.dtype}: complex numbers are not supported")
    kind = like.device.type
    casts = kind in ("cpu", "cuda") and torch.is_autocast_enabled(kind)
    for name, tensor in others:
        if tensor.device != like.device:
            raise ValueError(f"{first} is on {like.device}, {name} on {tensor.device}")
        if tensor.dtype != like.dtype and not casts:
            raise ValueError(f"{first} is {like.dtype}, {name} is {tensor.dtype}")


def expect_groups(channels: int, out_channels: int, groups: int) -> None:
    if groups < 1 or channels % groups or out_channels % groups:
        raise ValueError(
            f"groups must divide the channels in and out: {channels} and {out_channels} are not "
            f"divided by {groups}"
        )


def has_own_forward(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it computes otherwise than that kind does: by its class, or by what was put on it."""
    return any(
        name in vars(module) or getattr(type(module), name, None) is not getattr(kind, name, None)
        for name in ("forward", "_conv_forward")
    )


def expect_convolution(conv: nn.Module, channels: int) -> None:
    """Raises ValueError for a module that isn't known to do what `nn.Conv2d` does, and for other
    channels in.
    """
    if has_own_forward(conv, nn.Conv2d):
        raise ValueError(
            f"{type(conv).__name__} isn't known to be a mere convolution: its forward is its own"
        )
    assert isinstance(conv, nn.Conv2d)
    if conv.in_channels != channels:
        given = f"in_dimensions has {channels} channels"
        raise ValueError(f"{given}, the convolution expects {conv.in_channels}")
