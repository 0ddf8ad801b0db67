"""Convolutions with shared weights at the speed of a CPU that multiplies bfloat16: `Conv2d`.

PyTorch computes a convolution of 3×3 kernels with 36 products for a tile of 2×2 outputs and a pair
of channels. Winograd's minimal filtering takes 16 (A. Lavin and S. Gray, Fast Algorithms for
Convolutional Neural Networks, 2016), for which winograd.cpp is. It is used where it is faster: in
training and evaluation under autocast to bfloat16, on processors with AVX-512's bfloat16 products
and without AMX (which multiplies faster by more than is saved here), for 3×3 kernels that move by
1, from and to multiples of 16 channels and not too few. Everything else goes to PyTorch.

Both round to bfloat16 what they multiply and what they return. Here that is the transformed kernel
and input, which differ from the exact result by 0.3 to 0.45 % (root of the mean square) where
PyTorch's differ by 0.2 %; a gradient of the weights is not rounded again.

Shapes: B batch, C channels in, O channels out, H×W input, H'×W' output.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfl.nn import kernel
from sfl.nn.autograd import derivatives, is_traced, needs_composition

LANES = 16  # channels are taken as many at a time
# Transforms take time as C + O, what they save is as C · O: below this ratio they don't pay.
# Measured on two cores with AVX-512: 32 to 64 channels (21) 1.1 times as fast as PyTorch, 16 to 64
# (13) 0.85 times.
LEAST_RATIO = 20
PADDINGS = {"same": (1, 1), "valid": (0, 0)}


class Conv2d(nn.Conv2d):
    """nn.Conv2d."""

    def forward(self, input: Tensor) -> Tensor:
        """input (B, C, H, W) or (C, H, W) → (B, O, H', W') or (O, H', W'). Errors as nn.Conv2d."""
        padding = PADDINGS[self.padding] if isinstance(self.padding, str) else self.padding
        if not (self._is_minimal() and max(padding) <= 2 and _serves(input, padding)):
            return super().forward(input)
        if self.weight.dtype != torch.float32 or input.shape[1] != self.in_channels:
            return super().forward(input)
        return conv2d(input.bfloat16(), self.weight, self.bias, (padding[0], padding[1]))

    def _is_minimal(self) -> bool:
        """Whether winograd.cpp can compute it, and sooner."""
        moves = (*self.stride, *self.dilation, self.groups)
        usual = self.kernel_size == (3, 3) and set(moves) == {1} and self.padding_mode == "zeros"
        c, o = self.in_channels, self.out_channels
        return usual and c % LANES == o % LANES == 0 and c * o >= LEAST_RATIO * (c + o)


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether it is faster than PyTorch there for what autocast computes in `dtype`."""
    return device.type == "cpu" and dtype == torch.bfloat16 and kernel.multiplies_pairs()


def _serves(x: Tensor, padding: tuple[int, ...]) -> bool:
    """Whether it is faster for such an input, and gives what PyTorch would."""
    if is_traced(x) or x.dim() != 4 or not x.numel() or not torch.is_autocast_enabled("cpu"):
        return False
    if not serves(x.device, torch.get_autocast_dtype("cpu")):
        return False
    smallest = min(x.shape[2] + 2 * padding[0], x.shape[3] + 2 * padding[1]) - 2
    # The output lies as the input does; a tile that sticks out of an image is work for nothing.
    return smallest >= 2 and x.is_contiguous(memory_format=torch.channels_last)


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """The convolution by Winograd's filtering, whatever the processor.

    x (B, C, H, W) bfloat16, weight (O, C, 3, 3) and bias (O) float32, C and O multiples of 16,
    padding of zeros, at most 2 → (B, O, H', W') bfloat16 in torch.channels_last. The kernel must
    be there, see sfl.nn.kernel.
    """
    y: Tensor = _Conv2d.apply(x, weight, bias, padding)  # type: ignore[no-untyped-call]
    return y


class _Conv2d(torch.autograd.Function):
    """winograd.cpp's three functions."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]
    ) -> Tensor:
        batch, _, height, width = x.shape
        ctx.shape = (*x.shape, len(weight), *padding, torch.get_num_threads())
        size = (batch, len(weight), height + 2 * padding[0] - 2, width + 2 * padding[1] - 2)
        x, weight = _channels_last(x), _channels_last(weight)
        y = torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
        each = None if bias is None else bias.contiguous()
        kernel.call_exact("winograd_forward", ctx.shape, x, weight, each, y)
        ctx.save_for_backward(x, weight, bias)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if needs_composition(dy):

            def composed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
                each = None if bias is None else bias.to(x.dtype)
                return F.conv2d(x, weight.to(x.dtype), each, padding=ctx.shape[5:7])

            return (*derivatives(composed, ctx, dy, x, weight, bias), None)
        dy = _channels_last(dy)
        dx = dweight = dbias = None
        if ctx.needs_input_grad[0]:
            dx = torch.empty_like(x)
            kernel.call_exact("winograd_input_gradient", ctx.shape, dy, weight, dx)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            dweight, dbias = torch.empty_like(weight), weight.new_empty(len(weight))
            kernel.call_exact("winograd_weight_gradient", ctx.shape, x, dy, dweight, dbias)
        return dx, dweight, dbias if bias is not None else None, None


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
