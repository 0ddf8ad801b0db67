"""The engine for NVIDIA GPUs: the product and its two gradients by the kernels of `kernels`.

Same functions and shapes as `sfl.nn.engine.reference`. Where there is nothing to multiply, or
`trust` doesn't trust a kernel, they are those of the reference. Imports Triton.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from sfl.nn.engine import reference
from sfl.nn.engine.gpu import trust
from sfl.nn.engine.gpu.launch import Kernel, kernel_for, ready
from sfl.nn.engine.memory_order import empty, empty_like, filled, positions_outermost, room_for
from sfl.nn.engine.reference import copy as copy  # one of the engine's functions
from sfl.nn.window import Window

NAME = "triton"
# What is compared, at most: so many positions along each axis, of so many weights together (50 MB
# with what float64 needs), but for a single position.
POSITIONS, WEIGHTS = 4, 1 << 21


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int) -> Tensor:
    """As sfl.nn.engine.reference.forward."""
    output = empty(x, *weight.shape[:3])
    y, added = room_for(output), None if bias is None else ready(bias)
    if _ran("forward", ready(positions_outermost(x)), ready(weight), added, y, window, groups):
        return filled(output, y)
    return reference.forward(x, weight, bias, window, groups)


def input_gradient(dy: Tensor, weight: Tensor, x: Tensor, window: Window, groups: int) -> Tensor:
    """As sfl.nn.engine.reference.input_gradient."""
    output = empty_like(x)
    dx, y = room_for(output), ready(positions_outermost(dy))
    if _ran("input_gradient", dx, ready(weight), None, y, window, groups):
        return filled(output, dx)
    return reference.input_gradient(dy, weight, x, window, groups)


def weight_gradient(
    x: Tensor, dy: Tensor, dtype: torch.dtype, window: Window, groups: int
) -> Tensor:
    """As sfl.nn.engine.reference.weight_gradient."""
    inner, y = ready(positions_outermost(x)), ready(positions_outermost(dy))
    shape = (*y.shape[:3], *window.kernel, x.shape[1] // groups)
    dw = torch.empty(shape, dtype=dtype, device=dy.device)
    if _ran("weight_gradient", inner, dw, None, y, window, groups):
        return dw
    return reference.weight_gradient(x, dy, dtype, window, groups)


def _ran(
    name: str, x: Tensor, weight: Tensor, bias: Tensor | None, y: Tensor, window: Window,
    groups: int,
) -> bool:  # fmt: skip
    """Runs the kernel of that name, if there is something to multiply and it is trusted."""
    if not (x.numel() and y.numel()):
        return False
    kernel = kernel_for(name, x, weight, bias, y, window, groups)
    trusted = trust.trusts(
        name.replace("_", " "), kernel, x.device, lambda: error_of(kernel, x, weight, y),
        _bound(kernel),
    )  # fmt: skip
    if trusted:
        kernel.run(x, weight, bias, y)
    return trusted


def _bound(kernel: Kernel) -> float:
    written = kernel.weight_dtype if kernel.name == "weight_gradient" else kernel.dtype
    if written != torch.float32:
        return trust.HALF
    return trust.TF32 if kernel.precision == "tf32" else trust.EXACT


def error_of(kernel: Kernel, x: Tensor, weight: Tensor, y: Tensor) -> float:
    """Its relative error on random tensors like these, of few positions."""
    generator = torch.Generator(x.device).manual_seed(0)  # a run's own draws stay as they are

    def drawn(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator, device=x.device).to(dtype)

    x_size, y_size = _few(kernel, x.shape, y.shape)
    # Fewer images; what is left beyond whole blocks stays the same: the widest has 128 columns.
    batch = x.shape[3] if x.shape[3] <= 256 else 128 + (x.shape[3] % 128 or 128)
    x = drawn((*x_size, x.shape[2], batch), kernel.dtype)
    y = drawn((*y_size, y.shape[2], batch), kernel.dtype)
    weight = drawn((*y_size, *weight.shape[2:]), kernel.weight_dtype)
    bias = drawn((y.shape[2], *y_size), kernel.weight_dtype) if kernel.bias else None
    written = {"forward": y, "input_gradient": x, "weight_gradient": weight}[kernel.name]
    written.fill_(torch.nan)  # what isn't written is wrong
    kernel.run(x, weight, bias, y)
    x_, y_ = (tensor.permute(3, 2, 0, 1).double() for tensor in (x, y))
    rounded = weight.to(kernel.dtype).double()
    rest = (kernel.window, kernel.groups)
    if kernel.name == "forward":
        exact = reference.forward(x_, rounded, None if bias is None else bias.double(), *rest)
    elif kernel.name == "input_gradient":
        exact = reference.input_gradient(y_, rounded, x_, *rest)
    else:
        exact = reference.weight_gradient(x_, y_, torch.float64, *rest)
    if kernel.name != "weight_gradient":
        written = written.permute(3, 2, 0, 1)
    return trust.relative_error(written, exact)


def _few(
    kernel: Kernel, x: Sequence[int], y: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes (H, W) and (OH, OW) with few positions, and the same padding at both ends."""
    field = math.prod(kernel.window.kernel) * kernel.channels // kernel.groups
    most = min(POSITIONS, max(1, math.isqrt(WEIGHTS // (kernel.out_channels * field))))
    sizes, positions = [], []
    for size, count, stride in zip(x[:2], y[:2], kernel.window.stride, strict=True):
        few = min(count, most)
        smaller = size - (count - few) * stride
        sizes.append(smaller if smaller > 0 else size)
        positions.append(few if smaller > 0 else count)
    return tuple(sizes), tuple(positions)
