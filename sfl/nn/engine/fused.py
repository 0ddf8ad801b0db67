"""Normalisation and pooling with their ReLU, as modules: what stands between the layers.

The layers put out tensors (B, C, H, W) whose batch is innermost in memory, (H, W, C, B). PyTorch's
BatchNorm2d and MaxPool2d would reorder them first, which takes longer than they do. These two give
the same numbers in the same order in memory. Where the built CPU engine serves such a tensor, each
is one pass over it, forward and backward; else it is made of PyTorch's own operations.

One pass has no second derivatives. Where they are needed, use SFL_ENGINE=reference, or
`kernel.without()` in code: then both modules are PyTorch's operations.

Shapes: B batch, C channels, H×W.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from sfl.nn.engine.autograd import is_traced
from sfl.nn.engine.cpu import kernel
from sfl.nn.engine.reference import empty, positions_outermost


class BatchNormReLU2d(nn.BatchNorm2d):
    """Batch normalisation (Ioffe & Szegedy 2015), then ReLU; otherwise as nn.BatchNorm2d."""

    def forward(self, input: Tensor) -> Tensor:
        """input (B, C, H, W) → the same shape and order in memory. Raises ValueError for others."""
        super()._check_input_dim(input)
        if self._is_usual(input) and _is_served(input):
            return self._in_one_pass(input)
        if not is_batch_innermost(input):
            return F.relu_(super().forward(input))
        batch, channels, height, width = input.shape
        # As (H·W, C, B) each channel holds the same numbers as before.
        flat = input.permute(2, 3, 1, 0).reshape(height * width, channels, batch)
        y = F.relu_(super().forward(flat))
        return y.view(height, width, channels, batch).permute(3, 2, 0, 1)

    def _check_input_dim(self, input: Tensor) -> None:
        """Done above: inside there are three dimensions."""

    def _is_usual(self, x: Tensor) -> bool:
        """Whether it normalises by the batch and keeps running statistics, as nearly always."""
        usual = self.training and self.affine and self.track_running_stats
        if not usual or self.momentum is None or x.numel() == x.shape[1]:
            return False
        return all(p.shape == x.shape[1:2] and p.dtype == x.dtype and p.device == x.device
                   for p in (self.weight, self.bias))  # fmt: skip

    def _in_one_pass(self, x: Tensor) -> Tensor:
        y: Tensor
        y, mean, variance = _BatchNormReLU.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        n = x.numel() // x.shape[1]
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None and self.momentum is not None
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = variance.to(self.running_var.dtype) * (n / (n - 1))
            self.running_var.lerp_(unbiased, self.momentum)
        return y


class ReLUMaxPool2d(nn.Module):
    """ReLU, then the largest of each 2×2 square; a last odd row or column is left out."""

    def forward(self, input: Tensor) -> Tensor:
        """input (B, C, H, W) → (B, C, H // 2, W // 2), in the same order in memory."""
        if input.dim() == 4 and min(input.shape[2:]) > 1 and _is_served(input):
            y: Tensor = _ReLUMaxPool.apply(input)  # type: ignore[no-untyped-call]
            return y
        # Pooled first: a fourth of the work, and the same numbers.
        if not is_batch_innermost(input):
            return F.relu_(F.max_pool2d(input, 2))
        batch, channels, height, width = input.shape
        # One image of C·B channels, which is what channels_last kernels are for.
        image = input.permute(2, 3, 1, 0).reshape(1, height, width, channels * batch)
        pooled = F.relu_(F.max_pool2d(image.permute(0, 3, 1, 2), 2)).permute(0, 2, 3, 1)
        return pooled.reshape(*pooled.shape[1:3], channels, batch).permute(3, 2, 0, 1)


def is_batch_innermost(x: Tensor) -> bool:
    """Whether x (B, C, H, W) lies in memory as (H, W, C, B), and not as PyTorch's own do.

    One image that does is in torch.channels_last.
    """
    if x.dim() != 4 or x.shape[0] == 1 or x.is_contiguous():
        return False
    return x.permute(2, 3, 1, 0).is_contiguous()


def _is_served(x: Tensor) -> bool:
    # is_traced goes first: behind it a compiler looks at nothing.
    return not is_traced(x) and is_batch_innermost(x) and kernel.serves(x.device, x.dtype)


class _BatchNormReLU(torch.autograd.Function):
    """pointwise.cpp's norm_forward and norm_backward."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels, height, width = x.shape
        ctx.sizes = (batch, channels, height * width, torch.get_num_threads())
        y = empty(x, height, width, channels)
        mean, variance, scale = statistics = x.new_empty(3, channels)
        given = (positions_outermost(x), weight.contiguous(), bias.contiguous())
        found = (*statistics, positions_outermost(y))
        kernel.call("norm_forward", ctx.sizes, x.new_tensor([eps]), *given, *found)
        ctx.save_for_backward(x, weight, bias, mean, scale)
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, *parameters = ctx.saved_tensors
        dx = empty(x, x.shape[2], x.shape[3], x.shape[1])
        dweight, dbias = found = x.new_empty(2, x.shape[1])
        given = (*map(positions_outermost, (dy, x)), *(p.contiguous() for p in parameters))
        kernel.call("norm_backward", ctx.sizes, *given, *found, positions_outermost(dx))
        return dx, dweight, dbias, None


class _ReLUMaxPool(torch.autograd.Function):
    """pointwise.cpp's pool_forward and pool_backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        y = empty(x, height // 2, width // 2, channels)
        ctx.sizes = (channels * batch, height, width, torch.get_num_threads())
        kernel.call("pool_forward", ctx.sizes, positions_outermost(x), positions_outermost(y))
        ctx.save_for_backward(x)  # not y, which may be changed in place
        return y

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dx = empty(x, x.shape[2], x.shape[3], x.shape[1])
        if x.shape[2] % 2 or x.shape[3] % 2:  # a row or a column that no window reaches
            dx.zero_()
        kernel.call("pool_backward", ctx.sizes, *map(positions_outermost, (dy, x, dx)))
        return dx
