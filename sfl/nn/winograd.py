"""Convolutions with shared weights at the speed of a CPU that multiplies bfloat16: `Conv2d`.

PyTorch computes a convolution of 3×3 kernels with 36 products for a tile of 2×2 outputs and a pair
of channels. Winograd's minimal filtering takes 16 (A. Lavin and S. Gray, Fast Algorithms for
Convolutional Neural Networks, 2016), for which winograd.cpp is. It is used where it is faster: in
training and evaluation under autocast to bfloat16, on processors with AVX-512's bfloat16 products
and without AMX (which multiplies faster by more than is saved here), for 3×3 kernels that move by
1, from and to multiples of 16 channels and not too few. Everything else goes to PyTorch.

Both round to bfloat16 what they multiply and what they return; a gradient of the weights is not
rounded again here. What is multiplied here is the transformed kernel and input, so results differ
from exact ones by 0.3 to 0.5 % (root of the mean square), PyTorch's by 0.2 to 0.3 %. An infinite
input gives NaN where PyTorch gives infinity.

Shapes: B batch, C channels in, O channels out, H×W input, H'×W' output.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfl.nn import kernel
from sfl.nn.autograd import derivatives, is_traced, needs_composition

# Transforms take time as C + O, what they save is as C · O: below this ratio they don't pay.
# Measured on two cores with AVX-512: 32 to 64 channels (21) 1.1 times as fast as PyTorch, 16 to 64
# (13) 0.85 times.
LEAST_RATIO = 20
# Kernels are transformed in every call, for few tiles in vain: 4 to 16 of them lose up to a third.
LEAST_TILES = 32
PADDINGS = {"same": (1, 1), "valid": (0, 0)}
CAST = (torch.float32, torch.bfloat16, torch.float16)  # what autocast casts


class Conv2d(nn.Conv2d):
    """nn.Conv2d; under autocast to bfloat16 by Winograd's filtering where that is faster.

    As everywhere but under autocast, weights may not be changed between forward and backward.
    """

    def forward(self, input: Tensor) -> Tensor:
        """input (B, C, H, W) or (C, H, W) → (B, O, H', W') or (O, H', W'). Errors as nn.Conv2d."""
        if torch.compiler.is_compiling():  # before all that a compiler can't follow
            return super().forward(input)
        tensors = (input, self.weight, self.bias)
        padding = PADDINGS[self.padding] if isinstance(self.padding, str) else self.padding
        if not (self.is_suited and _is_time(input, padding) and _fits(*tensors, padding)):
            return super().forward(input)
        return _Conv2d.apply(input.bfloat16(), *tensors[1:], padding)  # type: ignore[no-any-return, no-untyped-call]

    @property
    def is_suited(self) -> bool:
        """Whether such a layer is faster that way, from its settings."""
        moves = (*self.stride, *self.dilation, self.groups)
        usual = self.kernel_size == (3, 3) and set(moves) == {1} and self.padding_mode == "zeros"
        c, o = self.in_channels, self.out_channels
        whole = c % kernel.VECTOR == o % kernel.VECTOR == 0
        return usual and whole and c * o >= LEAST_RATIO * (c + o)


def is_available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether it is faster than PyTorch there for what autocast computes in `dtype`."""
    return device.type == "cpu" and dtype == torch.bfloat16 and kernel.multiplies_pairs()


def report(model: nn.Module, device: torch.device, dtype: torch.dtype) -> str:
    """What computes the model's convolutions: "5 of 6 by the compiled Winograd kernel"."""
    convolutions = [module for module in model.modules() if isinstance(module, nn.Conv2d)]
    suited = sum(isinstance(conv, Conv2d) and conv.is_suited for conv in convolutions)
    if not suited or not is_available(device, dtype):
        return "PyTorch"
    return f"{suited} of {len(convolutions)} by the compiled Winograd kernel"


def conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]) -> Tensor:
    """The convolution by Winograd's filtering, whatever the processor.

    x (B, C, H, W) bfloat16, weight (O, C, 3, 3) and bias (O) float32, C and O multiples of 16,
    padding of zeros, at most 2 → (B, O, H', W') bfloat16 in torch.channels_last. The kernel must
    be there, see sfl.nn.kernel. Raises ValueError for other tensors, empty ones included.
    """
    if x.dtype != torch.bfloat16 or not _fits(x, weight, bias, padding):
        shapes = [tuple(t.shape) for t in (x, weight, bias) if t is not None]
        raise ValueError(f"no such convolution: {shapes}, padding {padding}, {x.dtype}")
    y: Tensor = _Conv2d.apply(x, weight, bias, padding)  # type: ignore[no-untyped-call]
    return y


def _is_time(x: Tensor, padding: tuple[int, ...]) -> bool:
    """Whether autocast asks for bfloat16 now, and x is an input that it pays for."""
    if not torch.is_autocast_enabled("cpu") or x.dim() != 4 or x.dtype not in CAST:
        return False
    if not is_available(x.device, torch.get_autocast_dtype("cpu")):
        return False
    height, width = (n + 2 * p - 2 for n, p in zip(x.shape[2:], padding, strict=True))
    enough = min(height, width) >= 2 and len(x) * (height // 2) * (width // 2) >= LEAST_TILES
    return enough and x.is_contiguous(memory_format=torch.channels_last)  # as outputs will be


def _fits(x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, ...]) -> bool:
    """Whether winograd.cpp takes these tensors. It checks nothing itself."""
    parameters = [weight] if bias is None else [weight, bias]
    if any(map(is_traced, (x, *parameters))) or x.dim() != 4 or not x.numel():
        return False
    if any(t.device.type != "cpu" for t in (x, *parameters)):
        return False
    if any(t.dtype != torch.float32 for t in parameters):
        return False
    out_channels, channels = len(weight), x.shape[1]
    if weight.shape != (out_channels, channels, 3, 3):
        return False
    if bias is not None and bias.shape != (out_channels,):
        return False
    if not 0 <= min(padding) <= max(padding) <= 2:
        return False
    some = all(n + 2 * p > 2 for n, p in zip(x.shape[2:], padding, strict=True))
    return some and channels % kernel.VECTOR == out_channels % kernel.VECTOR == 0


class _Conv2d(torch.autograd.Function):
    """winograd.cpp's three functions."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, padding: tuple[int, int]
    ) -> Tensor:
        batch, _, height, width = x.shape
        size = (batch, len(weight), height + 2 * padding[0] - 2, width + 2 * padding[1] - 2)
        y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        # winograd.cpp's Convolution
        ctx.shape = (*x.shape, len(weight), *padding, torch.get_num_threads())
        ctx.padding = padding
        each = None if bias is None else bias.contiguous()
        kernel.call_exact("winograd_forward", ctx.shape, *map(_laid, (x, weight)), each, y)
        ctx.save_for_backward(x, weight, bias)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias = ctx.saved_tensors
        if needs_composition(dy):

            def composed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
                each = None if bias is None else bias.to(x.dtype)
                return F.conv2d(x, weight.to(x.dtype), each, padding=ctx.padding)

            return (*derivatives(composed, ctx, dy, x, weight, bias), None)
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        x, weight, dy = map(_laid, (x, weight, dy))
        dx = dweight = dbias = None
        if of_x:
            dx = torch.empty_like(x)
            kernel.call_exact("winograd_input_gradient", ctx.shape, dy, weight, dx)
        if of_weight:
            dweight, dbias = torch.empty_like(weight), weight.new_empty(len(weight))
            kernel.call_exact("winograd_weight_gradient", ctx.shape, x, dy, dweight, dbias)
        elif of_bias:
            dbias = dy.sum((0, 2, 3), dtype=weight.dtype)
        return dx, dweight, dbias if of_bias else None, None


def _laid(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
