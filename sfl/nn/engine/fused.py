"""Modules that do two things in one pass: normalisation with ReLU, and ReLU with pooling.

They are fused when a network is built, as timm's BatchNormAct2d is, and are seen in `print(model)`.
Each gives the numbers of the two modules of PyTorch that it stands for. How it computes them
depends on the tensor:
  in one pass   where a compiled engine serves and the batch is innermost in memory, as the local
                layers put it out (sfl.nn.engine.memory_order); normalisation in training only,
                pooling on a CPU only.
  as two        otherwise, of PyTorch's own operations: for convolutions, and wherever
                torch.compile, forward mode or a transform of torch.func is at work.
What is computed in one pass has no gradient of its gradient: PyTorch says so when one is asked for.
`sfl.nn.engine.reference_engine()` or SFL_ENGINE=reference gives the form that has.

Shapes: B batch, C channels, H×W.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.library import custom_op
from torch.nn import functional as F

from sfl.nn.engine import reference
from sfl.nn.engine.choice import Engine, choose
from sfl.nn.engine.cpu import kernel, pointwise
from sfl.nn.engine.memory_order import batch_innermost, empty, empty_like, is_batch_innermost
from sfl.nn.engine.operators import needs_pytorchs_own
from sfl.nn.engine.traced import Whole


class BatchNormReLU(Whole, nn.BatchNorm2d):
    """nn.BatchNorm2d, with its arguments and its state_dict, then a ReLU."""

    def forward(self, input: Tensor) -> Tensor:
        """input (B, C, H, W) → the same shape and order in memory. Raises ValueError for others."""
        given = (self.weight, self.bias, self.running_mean, self.running_var)
        if self.training and self.momentum is not None and all(each is not None for each in given):
            assert self.running_mean is not None and self.running_var is not None
            statistics = self.running_mean, self.running_var
            y = normalise_in_one_pass(input, *given[:2], *statistics, self.momentum, self.eps)
            if y is not None:
                assert self.num_batches_tracked is not None
                self.num_batches_tracked += 1
                return y
        return self._in_two(input)

    def _in_two(self, x: Tensor) -> Tensor:
        if not is_batch_innermost(x):
            return F.relu(super().forward(x), inplace=True)
        batch, channels, height, width = x.shape
        # PyTorch would reorder x first. As (H·W, C, B, 1) each channel holds the same numbers.
        turned = x.permute(2, 3, 1, 0).reshape(height * width, channels, batch, 1)
        # Not in place of the view that is given back: its gradient would be copied as a whole.
        y = F.relu(super().forward(turned), inplace=True)
        return y.view(height, width, channels, batch).permute(3, 2, 0, 1)


def normalise_in_one_pass(
    x: Tensor, weight: Tensor, bias: Tensor, running_mean: Tensor, running_variance: Tensor,
    momentum: float, eps: float,
) -> Tensor | None:  # fmt: skip
    """relu(batch_norm(x)) in training, of x (B, C, H, W) and the rest (C,): as F.batch_norm, it
    moves the running statistics. None, and nothing has changed, where it can't be in one pass.
    """
    # Of parameters that don't fit, and of one number a channel, PyTorch says what is wrong.
    if any(p.shape != x.shape[1:2] or p.device != x.device for p in (weight, bias)):
        return None
    n = len(x) * x.shape[2:].numel()
    if n < 2:
        return None
    if _engine_in_one_pass(x, weight, bias) is None or not _norm_of(x).serves(x, weight, bias):
        return None
    y, mean, variance, _ = batch_norm_relu(x, weight, bias, eps)
    with torch.no_grad():
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        unbiased = variance.to(running_variance.dtype) * (n / (n - 1))
        running_variance.lerp_(unbiased, momentum)
    return y  # type: ignore[no-any-return]


class SyncBatchNormReLU(Whole, nn.SyncBatchNorm):
    """nn.SyncBatchNorm, then a ReLU: what a BatchNormReLU becomes among several workers."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) → the same shape."""
        return F.relu(super().forward(x), inplace=True)


def synchronized(model: nn.Module) -> nn.Module:
    """nn.SyncBatchNorm.convert_sync_batchnorm, which alone would lose the ReLU of a BatchNormReLU.

    The model must not be a BatchNormReLU itself, only hold some.
    """
    fused = [name for name, module in model.named_modules() if isinstance(module, BatchNormReLU)]
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for name in fused:
        model.get_submodule(name).__class__ = SyncBatchNormReLU
    return model


class ReLUMaxPool2d(Whole, nn.MaxPool2d):
    """A ReLU, then nn.MaxPool2d(2)."""

    def __init__(self) -> None:
        super().__init__(kernel_size=2)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) → (B, C, H/2, W/2), rounded down, in the same order in memory."""
        if min(x.shape[2:]) > 1 and _engine_in_one_pass(x) is kernel:
            return relu_max_pool(x)  # type: ignore[no-any-return]
        # The same numbers and gradients as in the other order, for a quarter of the work.
        # Not in place of a view, see BatchNormReLU.
        return pooled(x, lambda image: F.relu(F.max_pool2d(image, 2), inplace=True))


def pooled(x: Tensor, pool: Callable[[Tensor], Tensor]) -> Tensor:
    """pool(x) in the order in memory of x (B, C, H, W); pool: each channel by itself."""
    if not is_batch_innermost(x):
        return pool(x)
    batch, channels, height, width = x.shape
    # PyTorch would reorder x first. As one image of C·B channels it is in torch.channels_last.
    image = x.permute(2, 3, 1, 0).reshape(1, height, width, channels * batch)
    found = pool(image.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return found.reshape(*found.shape[1:3], channels, batch).permute(3, 2, 0, 1)


def _engine_in_one_pass(x: Tensor, *parameters: Tensor) -> Engine | None:
    """The compiled engine for x, where nothing but gradients is asked for of x and parameters."""
    if torch.compiler.is_compiling() or not is_batch_innermost(x):
        return None
    if needs_pytorchs_own(x, *parameters):
        return None
    engine = choose(x.device, x.dtype)[0]
    return None if engine is reference else engine


def _norm_of(x: Tensor) -> Any:
    """The module with serves, norm_forward and norm_backward; the GPU's imports Triton.

    By x's device and not by `choose`: a backward pass must be computed as its forward pass was,
    also inside `reference_engine()`.
    """
    return pointwise if x.device.type == "cpu" else import_module("sfl.nn.engine.gpu.norm")


# --- operators, so that whatever records or fakes operations knows what they are


@custom_op("sfl::batch_norm_relu", mutates_args=())
def batch_norm_relu(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """relu(batch_norm(x)), and the batch's mean, biased variance and 1 / √(variance + eps)."""
    norm = _norm_of(x)
    y, statistics = norm.norm_forward(x, weight, bias, eps)
    return y, *statistics


@custom_op("sfl::batch_norm_relu_backward", mutates_args=())
def batch_norm_relu_backward(
    dy: Tensor, x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, scale: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias."""
    norm = _norm_of(x)
    dx, of_weight, of_bias = norm.norm_backward(dy, x, weight, bias, mean, scale)
    return dx, of_weight, of_bias


@custom_op("sfl::relu_max_pool", mutates_args=())
def relu_max_pool(x: Tensor) -> Tensor:
    """max_pool2d(relu(x), 2)."""
    return pointwise.pool_forward(x)


@custom_op("sfl::relu_max_pool_backward", mutates_args=())
def relu_max_pool_backward(dy: Tensor, x: Tensor) -> Tensor:
    """The gradient of x."""
    return pointwise.pool_backward(dy, x)


@batch_norm_relu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
    return empty_like(batch_innermost(x)), *(weight.new_empty(x.shape[1]) for _ in range(3))


@batch_norm_relu_backward.register_fake
def _(dy: Tensor, x: Tensor, weight: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    return empty_like(batch_innermost(x)), *(weight.new_empty(x.shape[1]) for _ in range(2))


@relu_max_pool.register_fake
def _(x: Tensor) -> Tensor:
    return empty(batch_innermost(x), x.shape[2] // 2, x.shape[3] // 2, x.shape[1])


@relu_max_pool_backward.register_fake
def _(dy: Tensor, x: Tensor) -> Tensor:
    return empty_like(batch_innermost(x))


def _keep_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:3], output[1], output[3])


def _norm_gradients(ctx: Any, dy: Tensor, *rest: Tensor) -> tuple[Any, ...]:
    return *batch_norm_relu_backward(dy, *ctx.saved_tensors), None


def _keep_pool(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)  # not the output, which may be changed in place


def _pool_gradient(ctx: Any, dy: Tensor) -> Tensor:
    return relu_max_pool_backward(dy, *ctx.saved_tensors)  # type: ignore[no-any-return]


batch_norm_relu.register_autograd(_norm_gradients, setup_context=_keep_norm)
relu_max_pool.register_autograd(_pool_gradient, setup_context=_keep_pool)
