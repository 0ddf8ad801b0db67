"""Batch normalisation with ReLU, and ReLU with 2×2 max pooling, in C++ (pointwise.cpp).

`sfl.nn.engine.fused` gives them to autograd.

Shapes: x (B, C, H, W) with its batch innermost, float32 or float64; parameters and statistics (C,)
of the same dtype.
"""

import torch
from torch import Tensor

from sfl.nn.engine.cpu import build
from sfl.nn.engine.memory_order import batch_innermost, empty, empty_like, positions_outermost

Statistics = tuple[Tensor, Tensor, Tensor]  # mean, biased variance, 1 / √(variance + eps)


def serves(x: Tensor, weight: Tensor, bias: Tensor) -> bool:
    """Whether x can be normalised here with such parameters."""
    return weight.dtype == bias.dtype == x.dtype


def norm_forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Statistics]:
    """relu(batch_norm(x)), and the batch's statistics."""
    x = batch_innermost(x)  # saved tensors may come back in another order
    y = empty_like(x)
    mean, variance, scale = (x.new_empty(x.shape[1]) for _ in range(3))
    given = (x.new_tensor([eps]), positions_outermost(x), weight.contiguous(), bias.contiguous())
    found = (mean, variance, scale, positions_outermost(y))
    build.call("norm_forward", _sizes(x), *given, *found)
    return y, (mean, variance, scale)


def norm_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    x = batch_innermost(x)
    dx, dweight, dbias = empty_like(x), torch.empty_like(mean), torch.empty_like(mean)
    given = (positions_outermost(dy), positions_outermost(x), weight.contiguous())
    more = (bias.contiguous(), mean, scale, dweight, dbias, positions_outermost(dx))
    build.call("norm_backward", _sizes(x), *given, *more)
    return dx, dweight, dbias


def pool_forward(x: Tensor) -> Tensor:
    """max_pool2d(relu(x), 2)."""
    x = batch_innermost(x)
    y = empty(x, x.shape[2] // 2, x.shape[3] // 2, x.shape[1])
    build.call("pool_forward", _pool(x), positions_outermost(x), positions_outermost(y))
    return y


def pool_backward(dy: Tensor, x: Tensor) -> Tensor:
    """The gradient of x."""
    x = batch_innermost(x)
    dx = empty_like(x)
    if x.shape[2] % 2 or x.shape[3] % 2:  # a row or a column that no window reaches
        dx.zero_()
    build.call("pool_backward", _pool(x), *map(positions_outermost, (dy, x, dx)))
    return dx


def _sizes(x: Tensor) -> tuple[int, ...]:
    """The numbers of pointwise.cpp's Sizes."""
    batch, channels, height, width = x.shape
    return (batch, channels, height * width, torch.get_num_threads())


def _pool(x: Tensor) -> tuple[int, ...]:
    """The numbers of pointwise.cpp's Pool."""
    batch, channels, height, width = x.shape
    return (channels * batch, height, width, torch.get_num_threads())
