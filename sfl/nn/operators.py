"""The locally connected product as operators of PyTorch: `torch.ops.sfl.spatial_conv2d` and its two
gradients.

Each of the three is linear in both of its tensors, so the gradients of each are the other two:
autograd can go through them as often as it likes. What computes them is chosen here.

Shapes: B batch, C channels in, O channels out, H×W input, OH×OW positions, kh×kw kernel, G groups.
A window travels as three lists of two numbers: stride, padding before the first input, dilation.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

from sfl.nn import kernel, plain
from sfl.nn.window import Window

Numbers = list[int]
Sizes = Sequence[int]


def locally_connected(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> Tensor:
    """x (B, C, H, W), weight (OH, OW, O, C/G, kh, kw), bias (O, OH, OW) → (B, O, OH, OW)."""
    # An operator of one's own has no rules for these; forward mode would be silently zero.
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return plain.with_all_derivatives(x, weight, bias, window, groups)
    y: Tensor = torch.ops.sfl.spatial_conv2d(x, weight, bias, *_lists(window), groups)
    return y


@torch.library.custom_op("sfl::spatial_conv2d", mutates_args=())
def spatial_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    groups: int,
) -> Tensor:
    """The product itself."""
    window = _window(weight.shape[4:], stride, padding, dilation)
    form = kernel if kernel.serves(x.device, x.dtype) else plain
    y: Tensor = form.forward(x, weight, bias, window, groups)
    return y


@torch.library.custom_op("sfl::spatial_conv2d_input_gradient", mutates_args=())
def input_gradient(
    dy: Tensor,
    weight: Tensor,
    size: Numbers,
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    groups: int,
) -> Tensor:
    """From the gradient of y (B, O, OH, OW) that of x (B, C, H, W); size: (H, W)."""
    window = _window(weight.shape[4:], stride, padding, dilation)
    form = kernel if kernel.serves(dy.device, dy.dtype) else plain
    inside = (size[0], size[1])
    dx: Tensor = form.input_gradient(dy, weight, inside, window, groups)
    return dx


@torch.library.custom_op("sfl::spatial_conv2d_weight_gradient", mutates_args=())
def weight_gradient(
    x: Tensor,
    dy: Tensor,
    size: Numbers,
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    groups: int,
) -> Tensor:
    """From x and the gradient of y that of the weight; size: (kh, kw)."""
    form = kernel if kernel.serves(x.device, x.dtype) else plain
    window = _window(size, stride, padding, dilation)
    dw: Tensor = form.weight_gradient(x, dy, window, groups)
    return dw


# --- shapes, for tensors that hold nothing


@spatial_conv2d.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    height, width, channels = weight.shape[:3]
    return plain.empty(x, height, width, channels)


@input_gradient.register_fake
def _(dy: Tensor, weight: Tensor, size: Numbers, *rest: Any) -> Tensor:
    return plain.empty(dy, size[0], size[1], weight.shape[3] * rest[-1])


@weight_gradient.register_fake
def _(x: Tensor, dy: Tensor, size: Numbers, *rest: Any) -> Tensor:
    out_channels, height, width = dy.shape[1:]
    shape = (height, width, out_channels, x.shape[1] // rest[-1], *size)
    return plain.empty_weight(shape, dtype=dy.dtype, device=dy.device)


# --- gradients: of each operator, the other two


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, _, *ctx.rest = inputs
    ctx.save_for_backward(first, second)


def _spatial_conv2d_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    (x, weight), needed = ctx.saved_tensors, ctx.needs_input_grad
    dx = dw = db = None
    if needed[0]:
        dx = torch.ops.sfl.spatial_conv2d_input_gradient(dy, weight, x.shape[2:], *ctx.rest)
    if needed[1]:
        size = weight.shape[4:]
        dw = torch.ops.sfl.spatial_conv2d_weight_gradient(x, dy, size, *ctx.rest)
    if needed[2]:
        db = dy.sum(0)
    return dx, dw, db, None, None, None, None


def _input_gradient_backward(ctx: Any, ddx: Tensor) -> tuple[Any, ...]:
    (dy, weight), needed = ctx.saved_tensors, ctx.needs_input_grad
    ddy = dw = None
    if needed[0]:
        ddy = torch.ops.sfl.spatial_conv2d(ddx, weight, None, *ctx.rest)
    if needed[1]:
        size = weight.shape[4:]
        dw = torch.ops.sfl.spatial_conv2d_weight_gradient(ddx, dy, size, *ctx.rest)
    return ddy, dw, None, None, None, None, None


def _weight_gradient_backward(ctx: Any, ddw: Tensor) -> tuple[Any, ...]:
    (x, dy), needed = ctx.saved_tensors, ctx.needs_input_grad
    dx = ddy = None
    if needed[0]:
        dx = torch.ops.sfl.spatial_conv2d_input_gradient(dy, ddw, x.shape[2:], *ctx.rest)
    if needed[1]:
        ddy = torch.ops.sfl.spatial_conv2d(x, ddw, None, *ctx.rest)
    return dx, ddy, None, None, None, None, None


spatial_conv2d.register_autograd(_spatial_conv2d_backward, setup_context=_keep)
input_gradient.register_autograd(_input_gradient_backward, setup_context=_keep)
weight_gradient.register_autograd(_weight_gradient_backward, setup_context=_keep)


# --- autocast


def _autocast_rule(key: str, device: str) -> None:
    """Casts what the product gets: to autocast's dtype or, for the compiled kernel, to float32.

    The kernel adds up and multiplies in float32 in the time that bfloat16 would take it.
    """
    outside = torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key))

    def rule(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        with torch._C._ExcludeDispatchKeyGuard(outside):
            exact = kernel.serves(x.device, torch.float32)
            dtype = torch.float32 if exact else torch.get_autocast_dtype(device)
            each = None if bias is None else bias.to(dtype)
            y: Tensor = torch.ops.sfl.spatial_conv2d(x.to(dtype), weight.to(dtype), each, *rest)
            return y

    _LIBRARY.impl("spatial_conv2d", rule, key)


_LIBRARY = torch.library.Library("sfl", "FRAGMENT")
_autocast_rule("AutocastCPU", "cpu")
_autocast_rule("AutocastCUDA", "cuda")


# --- FLOPs: two for each multiply-add, those with the zeros of the padding included


@register_flop_formula(torch.ops.sfl.spatial_conv2d)
def _(x: Sizes, weight: Sizes, *rest: Any, **keywords: Any) -> int:
    return 2 * x[0] * math.prod(weight)


@register_flop_formula(torch.ops.sfl.spatial_conv2d_input_gradient)
def _(dy: Sizes, weight: Sizes, *rest: Any, **keywords: Any) -> int:
    return 2 * dy[0] * math.prod(weight)


@register_flop_formula(torch.ops.sfl.spatial_conv2d_weight_gradient)
def _(x: Sizes, dy: Sizes, *rest: Any, out_shape: Sizes, **keywords: Any) -> int:
    return 2 * x[0] * math.prod(out_shape)


def _window(kernel: Any, stride: Numbers, padding: Numbers, dilation: Numbers) -> Window:
    two = [(int(numbers[0]), int(numbers[1])) for numbers in (kernel, stride, padding, dilation)]
    return Window(*two)


def _lists(window: Window) -> tuple[Numbers, Numbers, Numbers]:
    return list(window.stride), list(window.padding), list(window.dilation)
