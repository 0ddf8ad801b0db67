"""Normalisation, ReLU and pooling in the order in memory that the layers around them put out.

The spatial layers put out (B, C, H, W) tensors that lie in memory as (H, W, C, B). PyTorch's
BatchNorm2d and MaxPool2d would first reorder them, which takes longer than they do. The two here
give the same numbers, see the same memory as another tensor that PyTorch is quick with, and take
any other tensor as their parents do. `Sequential` goes on from there: where the compiled kernel
serves, batch normalisation with the ReLU behind it, and a ReLU with the pooling behind it, are one
pass over the activations each; for the twins with convolutions, too, whose tensors are in
torch.channels_last. Nothing else between the layers cares about the order.

Shapes: B batch, C channels, H×W.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfl.nn.engine import reference
from sfl.nn.engine.autograd import derivatives, is_traced, needs_composition
from sfl.nn.engine.cpu import kernel

GLOBAL_HOOKS = ("forward", "forward_pre", "backward", "backward_pre")


def is_batch_innermost(x: Tensor) -> bool:
    """Whether x (B, C, H, W) lies in memory as (H, W, C, B), and not as PyTorch's own do.

    One image that does is in torch.channels_last.
    """
    if x.dim() != 4 or x.shape[0] == 1 or x.is_contiguous():
        return False
    return x.permute(2, 3, 1, 0).is_contiguous()


class BatchNorm2d(nn.BatchNorm2d):
    """nn.BatchNorm2d."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) → the same shape and order in memory. Raises ValueError for others."""
        super()._check_input_dim(x)
        if not is_batch_innermost(x):
            return super().forward(x)
        batch, channels, height, width = x.shape
        # As (H·W, C, B) each channel holds the same numbers as before.
        y = super().forward(x.permute(2, 3, 1, 0).reshape(height * width, channels, batch))
        return y.view(height, width, channels, batch).permute(3, 2, 0, 1)

    def _check_input_dim(self, input: Tensor) -> None:
        """Done above: inside there are three dimensions."""


class MaxPool2d(nn.MaxPool2d):
    """nn.MaxPool2d."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) → (B, C, H', W'), in the same order in memory."""
        if not is_batch_innermost(x):
            pooled: Tensor = super().forward(x)
            return pooled
        batch, channels, height, width = x.shape
        # One image of C·B channels, which is what channels_last kernels are for.
        image = x.permute(2, 3, 1, 0).reshape(1, height, width, channels * batch)
        pooled = super().forward(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return pooled.reshape(*pooled.shape[1:3], channels, batch).permute(3, 2, 0, 1)


class Sequential(nn.Sequential):
    """nn.Sequential, with pairs of modules as one operation where that gives the same."""

    def forward(self, x: Tensor) -> Tensor:
        """As nn.Sequential. Modules with hooks are called one by one."""
        modules = list(self)
        while modules:
            module = modules.pop(0)
            together = _together(x, module, modules[0]) if modules else None
            if together is not None:
                modules.pop(0)
            x = (together or module)(x)
        return x


def _together(x: Tensor, first: nn.Module, second: nn.Module) -> Callable[[Tensor], Tensor] | None:
    """What does both in one pass over x; None where nothing does."""
    if is_traced(x) or not _is_served(x) or _watched(first) or _watched(second):
        return None
    if type(first) is BatchNorm2d and type(second) is nn.ReLU:
        usual = first.training and first.affine and first.running_mean is not None
        usual = usual and first.momentum is not None and x.numel() > x.shape[1]
        usual = usual and _are_usual(x, first.weight, first.bias)
        return (lambda x: batch_norm_relu(x, first)) if usual else None
    if type(first) is nn.ReLU and type(second) is MaxPool2d:
        sizes = (second.kernel_size, second.stride, second.padding, second.dilation)
        usual = sizes in ((2, 2, 0, 1), ((2, 2), (2, 2), 0, 1))
        usual = usual and not (second.ceil_mode or second.return_indices) and min(x.shape[2:]) > 1
        return relu_max_pool if usual else None
    return None


def _is_served(x: Tensor) -> bool:
    """Whether pointwise.cpp takes such a tensor."""
    if is_batch_innermost(x):
        return kernel.serves(x.device, x.dtype)
    # A usual tensor isn't taken, even if there is but one channel: PyTorch would return such a one.
    last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    known = last and not x.is_contiguous() and x.dtype in kernel.NAMES
    return known and kernel.serves(x.device, torch.float32)


def _are_usual(x: Tensor, *parameters: Tensor) -> bool:
    """Whether PyTorch would normalise x with such parameters."""
    exact = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
    usual = [p.shape == x.shape[1:2] and p.device == x.device for p in parameters]
    return all(usual) and all(p.dtype in (x.dtype, exact) for p in parameters)


def _watched(module: nn.Module) -> bool:
    """Whether somebody wants to see what goes into a module or comes out of it, or replaced it."""
    hooks = (
        "forward" in vars(module),
        *(getattr(nn.modules.module, f"_global_{kind}_hooks") for kind in GLOBAL_HOOKS),
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return any(hooks)


def batch_norm_relu(x: Tensor, norm: nn.BatchNorm2d) -> Tensor:
    """relu(norm(x)) in training, running statistics and all.

    x (B, C, H, W): batch innermost, float32 or float64; or in torch.channels_last, bfloat16 too.
    """
    y: Tensor
    y, mean, variance = _BatchNormRelu.apply(x, norm.weight, norm.bias, norm.eps)  # type: ignore[no-untyped-call]
    n = x.numel() // x.shape[1]
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None and norm.momentum is not None
    with torch.no_grad():
        norm.num_batches_tracked += 1
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
        unbiased = variance.to(norm.running_var.dtype) * (n / (n - 1))
        norm.running_var.lerp_(unbiased, norm.momentum)
    return y


def relu_max_pool(x: Tensor) -> Tensor:
    """max_pool2d(relu(x), 2); x as for batch_norm_relu."""
    y: Tensor = _ReluMaxPool.apply(x)  # type: ignore[no-untyped-call]
    return y


class _Order:
    """One of the two orders in memory, the one that a tensor (B, C, H, W) is in."""

    def __init__(self, x: Tensor) -> None:
        self.last = not is_batch_innermost(x)

    def __call__(self, x: Tensor) -> Tensor:
        """x in this order; the kernel reads it as it lies."""
        if self.last:
            return x.contiguous(memory_format=torch.channels_last)
        return reference.positions_outermost(x)

    def empty(self, x: Tensor, height: int, width: int) -> Tensor:
        """(B, C, height, width) of x's type."""
        if self.last:
            size, last = (*x.shape[:2], height, width), torch.channels_last
            return torch.empty(size, dtype=x.dtype, device=x.device, memory_format=last)
        return reference.empty(x, height, width, x.shape[1])


class _BatchNormRelu(torch.autograd.Function):
    """pointwise.cpp's norm_forward and norm_backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        (batch, channels, height, width), order = x.shape, _Order(x)
        numbers = (1, batch * height * width) if order.last else (batch, height * width)
        ctx.sizes = (numbers[0], channels, numbers[1], torch.get_num_threads())
        ctx.kind = f"{'last_' if order.last else ''}{kernel.NAMES[x.dtype]}"
        ctx.order, ctx.eps = order, eps
        y = order.empty(x, height, width)
        exact = torch.float32 if x.dtype == torch.bfloat16 else x.dtype
        mean, variance, scale = statistics = x.new_empty(3, channels, dtype=exact)
        given = (order(x), *_contiguous(exact, weight, bias))
        each = (x.new_tensor([eps], dtype=exact), *given, *statistics, order(y))
        kernel.call_exact(f"norm_forward_{ctx.kind}", ctx.sizes, *each)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, scale = ctx.saved_tensors
        if needs_composition(dy):

            def composed(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
                return F.batch_norm(x, None, None, weight, bias, True, eps=ctx.eps).relu()

            return (*derivatives(composed, ctx, dy, x, weight, bias), None)
        order, dx = ctx.order, ctx.order.empty(x, *x.shape[2:])
        parameters = dweight, dbias = mean.new_empty(2, x.shape[1])
        given = (order(dy), order(x), *_contiguous(mean.dtype, weight, bias, mean, scale))
        kernel.call_exact(f"norm_backward_{ctx.kind}", ctx.sizes, *given, *parameters, order(dx))
        return dx, dweight.to(weight.dtype), dbias.to(bias.dtype), None


def _contiguous(dtype: torch.dtype, *tensors: Tensor) -> list[Tensor]:
    return [tensor.to(dtype).contiguous() for tensor in tensors]


class _ReluMaxPool(torch.autograd.Function):
    """pointwise.cpp's pool_forward and pool_backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        (batch, channels, height, width), order = x.shape, _Order(x)
        y = order.empty(x, height // 2, width // 2)
        images = (batch, channels) if order.last else (1, channels * batch)
        ctx.sizes, ctx.order = (*images, height, width, torch.get_num_threads()), order
        kernel.call("pool_forward", ctx.sizes, order(x), order(y))
        ctx.save_for_backward(x)  # not y, which may be changed in place
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor | None:
        (x,) = ctx.saved_tensors
        if needs_composition(dy):
            (composed,) = derivatives(lambda x: F.max_pool2d(x.relu(), 2), ctx, dy, x)
            return composed
        dx: Tensor = ctx.order.empty(x, *x.shape[2:])
        if x.shape[2] % 2 or x.shape[3] % 2:  # a row or a column that no window reaches
            dx.zero_()
        kernel.call("pool_backward", ctx.sizes, *map(ctx.order, (dy, x, dx)))
        return dx
