"""The locally connected product as operators of PyTorch: `torch.ops.sfl.spatial_conv2d` and its two
gradients.

Each of the three is linear in both of its tensors, so the gradients of each are the other two:
autograd can go through them as often as it likes. What computes them is chosen here.

Shapes: B batch, C channels in, O channels out, H×W input, OH×OW positions, kh×kw kernel, G groups.
A window travels as three lists of two numbers: stride, padding before the first input, dilation.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from sfl.nn.engine import reference
from sfl.nn.engine.autograd import needs_every_rule
from sfl.nn.engine.cpu import kernel
from sfl.nn.window import Window

Numbers = list[int]


def locally_connected(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> Tensor:
    """x (B, C, H, W), weight (OH, OW, O, C/G, kh, kw), bias (O, OH, OW) → (B, O, OH, OW)."""
    if needs_every_rule():
        return reference.with_all_derivatives(x, weight, bias, window, groups)
    # Turned here, so that what is kept for the gradients needs no turning again.
    x = reference.positions_outermost(x).permute(3, 2, 0, 1)
    y: Tensor = torch.ops.sfl.spatial_conv2d(x, weight, bias, *_lists(window), groups)
    return y


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
    form = kernel if kernel.serves(x.device, x.dtype) else reference
    y: Tensor = form.forward(x, weight, bias, window, groups)
    return y


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
    form = kernel if kernel.serves(dy.device, dy.dtype) else reference
    inside = (size[0], size[1])
    dx: Tensor = form.input_gradient(dy, weight, inside, window, groups)
    return dx


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
    form = kernel if kernel.serves(x.device, x.dtype) else reference
    window = _window(size, stride, padding, dilation)
    dw: Tensor = form.weight_gradient(x, dy, window, groups)
    return dw


# --- shapes, for tensors that hold nothing


def _spatial_conv2d_shape(x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
    height, width, channels = weight.shape[:3]
    return reference.empty(x, height, width, channels)


def _input_gradient_shape(dy: Tensor, weight: Tensor, size: Numbers, *rest: Any) -> Tensor:
    return reference.empty(dy, size[0], size[1], weight.shape[3] * rest[-1])


def _weight_gradient_shape(x: Tensor, dy: Tensor, size: Numbers, *rest: Any) -> Tensor:
    out_channels, height, width = dy.shape[1:]
    shape = (height, width, out_channels, x.shape[1] // rest[-1], *size)
    return reference.empty_weight(shape, dtype=dy.dtype, device=dy.device)


# --- gradients: of each operator, the other two


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    first, second, _, *ctx.rest = inputs
    ctx.save_for_backward(first, second)


def _spatial_conv2d_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    if forward_ad._current_level >= 0:  # the tangent of dy would be lost without a word
        raise RuntimeError("forward mode over a backward pass: begin it before the forward pass")
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
            if x.dtype == weight.dtype == torch.float64:  # as PyTorch's own rules leave it
                dtype = torch.float64
            each = None if bias is None else bias.to(dtype)
            y: Tensor = torch.ops.sfl.spatial_conv2d(x.to(dtype), weight.to(dtype), each, *rest)
            return y

    _LIBRARY.impl("spatial_conv2d", rule, key)


def _register(name: str, arguments: str, form: Any, shape: Any, backward: Any) -> None:
    """An operator sfl::name.

    By hand, because torch.library.custom_op imports PyTorch's compiler on the first call: 160 MB.
    """
    window = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"
    _LIBRARY.define(f"{name}({arguments}, {window}) -> Tensor")
    _LIBRARY.impl(name, form, "CompositeExplicitAutograd")
    torch.library.register_fake(f"sfl::{name}", shape, lib=_LIBRARY)
    torch.library.register_autograd(f"sfl::{name}", backward, setup_context=_keep, lib=_LIBRARY)


_LIBRARY = torch.library.Library("sfl", "FRAGMENT")
_register(
    "spatial_conv2d", "Tensor x, Tensor weight, Tensor? bias",
    spatial_conv2d, _spatial_conv2d_shape, _spatial_conv2d_backward,
)  # fmt: skip
_register(
    "spatial_conv2d_input_gradient", "Tensor dy, Tensor weight, SymInt[] size",
    input_gradient, _input_gradient_shape, _input_gradient_backward,
)  # fmt: skip
_register(
    "spatial_conv2d_weight_gradient", "Tensor x, Tensor dy, SymInt[] size",
    weight_gradient, _weight_gradient_shape, _weight_gradient_backward,
)  # fmt: skip
_autocast_rule("AutocastCPU", "cpu")
_autocast_rule("AutocastCUDA", "cuda")


def _window(kernel: Any, stride: Numbers, padding: Numbers, dilation: Numbers) -> Window:
    two = [(int(numbers[0]), int(numbers[1])) for numbers in (kernel, stride, padding, dilation)]
    return Window(*two)


def _lists(window: Window) -> tuple[Numbers, Numbers, Numbers]:
    return list(window.stride), list(window.padding), list(window.dilation)
