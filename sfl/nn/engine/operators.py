"""The locally connected product and its two gradients as operators of PyTorch (`torch.ops.sfl`).

Each of the three is linear in both of its tensors, so the gradients of each are the other two, and
autograd can differentiate any number of times. `choice` decides which engine computes them. x and
y are of one dtype; the weight is of the same, or float32 where that is a smaller float.

Shapes: B batch, C channels in, O channels out, H×W input, OH×OW positions, kh×kw kernel, G groups.
An operator takes a Window as its eight numbers: kernel, stride, padding, dilation.
"""

import sys
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import custom_op

from sfl.nn.engine import memory_order, reference
from sfl.nn.engine.choice import choose
from sfl.nn.engine.cpu import kernel
from sfl.nn.engine.memory_order import empty, empty_like, is_batch_innermost
from sfl.nn.window import Window

Numbers = list[int]


def locally_connected(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int
) -> Tensor:
    """x (B, C, H, W), weight (OH, OW, O, kh, kw, C/G), bias (O, OH, OW) → (B, O, OH, OW).

    Under autocast: in its dtype on a CUDA device; in float32 on MPS, and on a CPU, where that takes
    no longer. Weights that have autocast's dtype get it back. Those of float32 stay it, whatever
    the product's dtype: the engine rounds them, and their gradient needs no rounding.
    """
    kind = x.device.type
    if kind in ("cpu", "cuda", "mps") and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind) if kind == "cuda" else torch.float32
        if x.dtype == weight.dtype == torch.float64:  # as PyTorch's own rules leave it
            dtype = torch.float64
        fitting = _fitting(weight, dtype)
        bias = None if bias is None else bias.to(fitting.dtype)
        with torch.autocast(kind, enabled=False):
            y = _product(x.to(dtype), fitting, bias, window, groups)
        return y.to(weight.dtype) if weight.dtype == torch.get_autocast_dtype(kind) else y
    return _product(x, weight, bias, window, groups)


def locally_connected_input_gradient(
    dy: Tensor, weight: Tensor, x: Tensor, window: Window, groups: int
) -> Tensor:
    """The gradient of x (B, C, H, W) from that of y, dy (B, O, OH, OW). It lies as x does."""
    dx: Tensor = input_gradient(dy, _fitting(weight, dy.dtype), x, [*window.numbers], groups)
    return dx


def _fitting(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight as an engine takes it with activations of that dtype."""
    rounded_there = weight.dtype == torch.float32 and dtype in (torch.bfloat16, torch.float16)
    return weight if rounded_there else weight.to(dtype)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int) -> Tensor:
    if needs_pytorchs_own(x, weight, bias):
        # In PyTorch's order, so that a view of it is one wherever it is loaded.
        return reference.with_all_derivatives(x, weight, bias, window, groups).contiguous()
    y: Tensor = spatial_conv2d(x, weight, bias, [*window.numbers], groups)
    return y


def batch_innermost(x: Tensor) -> Tensor:
    """x (B, C, H, W), the same numbers, with its batch innermost in memory.

    No copy where it lies so already. A network of SpatialFeatureLayers is fastest when its input
    is given in this order; its outputs then have it, too.
    """
    if is_batch_innermost(x) or needs_pytorchs_own(x):
        return memory_order.batch_innermost(x)
    turned: Tensor = turned_innermost(x)
    return turned


def needs_pytorchs_own(*tensors: Tensor | None) -> bool:
    """Whether something is at work that knows PyTorch's own operators only.

    An export, torch.jit.trace: the file is to be loaded where sfl is not. Forward mode and the
    transforms of torch.func, which would lose derivatives silently. DTensor, which has no rule for
    others.
    """
    if torch.compiler.is_exporting() or torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        return True
    if torch.compiler.is_compiling():
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    return any(_is_transformed(t) or _has_tangent(t) or _is_distributed(t) for t in given)


def _is_transformed(x: Tensor) -> bool:
    return torch.func.debug_unwrap(x, recurse=False) is not x


def _is_distributed(x: Tensor) -> bool:
    # Whoever has one has imported it; we needn't, which would take a while.
    tensor = sys.modules.get("torch.distributed.tensor")
    return tensor is not None and isinstance(x, tensor.DTensor)


def _has_tangent(x: Tensor) -> bool:
    return forward_ad.unpack_dual(x).tangent is not None


# --- the operators, and the copy between orders in memory


@custom_op("sfl::spatial_conv2d", mutates_args=())
def spatial_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None, window: Numbers, groups: int
) -> Tensor:
    """The product itself."""
    return choose(x.device, x.dtype)[0].forward(x, weight, bias, _window(window), groups)


@custom_op("sfl::spatial_conv2d_input_gradient", mutates_args=())
def input_gradient(dy: Tensor, weight: Tensor, x: Tensor, window: Numbers, groups: int) -> Tensor:
    """The gradient of x (B, C, H, W) from that of y, dy (B, O, OH, OW).

    Of x it takes the size, and the order in memory in which the gradient is to lie.
    """
    return choose(dy.device, dy.dtype)[0].input_gradient(dy, weight, x, _window(window), groups)


@custom_op("sfl::spatial_conv2d_weight_gradient", mutates_args=())
def weight_gradient(
    x: Tensor, dy: Tensor, dtype: torch.dtype, window: Numbers, groups: int
) -> Tensor:
    """The gradient of the weight, which is of that dtype, from x and that of y."""
    return choose(x.device, x.dtype)[0].weight_gradient(x, dy, dtype, _window(window), groups)


@custom_op("sfl::spatial_conv2d_gradients", mutates_args=())
def both_gradients(
    dy: Tensor, weight: Tensor, x: Tensor, window: Numbers, groups: int
) -> tuple[Tensor, Tensor]:
    """The gradients of x and of the weight at once. Can't be differentiated."""
    engine, rest = choose(dy.device, dy.dtype)[0], (_window(window), groups)
    if engine is kernel:
        return kernel.gradients(dy, weight, x, *rest)
    dy = memory_order.batch_innermost(dy)  # once for both
    dw = engine.weight_gradient(x, dy, weight.dtype, *rest)
    return engine.input_gradient(dy, weight, x, *rest), dw


@custom_op("sfl::batch_innermost", mutates_args=())
def turned_innermost(x: Tensor) -> Tensor:
    """A copy of x (B, C, H, W) with its batch innermost in memory."""
    turned = x.permute(2, 3, 1, 0)
    copied = turned.new_empty(turned.shape)
    choose(x.device, x.dtype)[0].copy(copied, turned)
    return copied.permute(3, 2, 0, 1)


def _window(numbers: Numbers) -> Window:
    kh, kw, *rest = map(int, numbers)
    sh, sw, ph, pw, dh, dw = rest
    return Window((kh, kw), (sh, sw), (ph, pw), (dh, dw))


# --- shapes, for tensors that hold nothing


@spatial_conv2d.register_fake
def _(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return empty(x, *weight.shape[:3])


@input_gradient.register_fake
def _(dy: Tensor, weight: Tensor, x: Tensor, window: Numbers, groups: int) -> Tensor:
    return empty_like(x)


@turned_innermost.register_fake
def _(x: Tensor) -> Tensor:
    turned = x.permute(2, 3, 1, 0)
    return turned.new_empty(turned.shape).permute(3, 2, 0, 1)


@weight_gradient.register_fake
def _(x: Tensor, dy: Tensor, dtype: torch.dtype, window: Numbers, groups: int) -> Tensor:
    out_channels, height, width = dy.shape[1:]
    shape = (height, width, out_channels, *window[:2], x.shape[1] // groups)
    return dy.new_empty(shape, dtype=dtype)


@both_gradients.register_fake
def _(dy: Tensor, weight: Tensor, x: Tensor, window: Numbers, groups: int) -> tuple[Tensor, Tensor]:
    return empty_like(x), weight.new_empty(weight.shape)


# --- gradients: of each operator, the other two


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.rest = inputs[-2:]


def _product_backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    if _has_tangent(dy):  # which would be lost without a word
        raise RuntimeError("forward mode over a backward pass: begin it before the forward pass")
    (x, weight), needed = ctx.saved_tensors, ctx.needs_input_grad
    if all(needed[:2]) and not torch.is_grad_enabled():  # nobody wants gradients of them
        dx, dw = both_gradients(dy, weight, x, *ctx.rest)
    else:
        dx = input_gradient(dy, weight, x, *ctx.rest) if needed[0] else None
        dw = weight_gradient(x, dy, weight.dtype, *ctx.rest) if needed[1] else None
    db = dy.sum(0, dtype=weight.dtype) if needed[2] else None
    return dx, dw, db, None, None


def _input_gradient_backward(ctx: Any, ddx: Tensor) -> tuple[Any, ...]:
    (dy, weight), needed = ctx.saved_tensors, ctx.needs_input_grad
    ddy = spatial_conv2d(ddx, weight, None, *ctx.rest) if needed[0] else None
    dw = weight_gradient(ddx, dy, weight.dtype, *ctx.rest) if needed[1] else None
    return ddy, dw, None, None, None


def _weight_gradient_backward(ctx: Any, ddw: Tensor) -> tuple[Any, ...]:
    (x, dy), needed = ctx.saved_tensors, ctx.needs_input_grad
    dx = input_gradient(dy, ddw, x, *ctx.rest) if needed[0] else None
    ddy = spatial_conv2d(x, ddw, None, *ctx.rest) if needed[1] else None
    return dx, ddy, None, None, None


spatial_conv2d.register_autograd(_product_backward, setup_context=_keep)
input_gradient.register_autograd(_input_gradient_backward, setup_context=_keep)
weight_gradient.register_autograd(_weight_gradient_backward, setup_context=_keep)
turned_innermost.register_autograd(lambda ctx, dy: dy)
