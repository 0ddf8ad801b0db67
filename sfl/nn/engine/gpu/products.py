"""The engine for NVIDIA GPUs: the product and its two gradients by the kernels of `kernels`.

Same functions and shapes as `sfl.nn.engine.reference`. Where there is nothing to multiply, or
`trust` doesn't trust a kernel, they are those of the reference. Imports Triton.
"""

import torch
from torch import Tensor

from sfl.nn.engine import reference
from sfl.nn.engine.gpu import trust
from sfl.nn.engine.gpu.launch import kernel_for
from sfl.nn.engine.memory_order import empty, empty_like, filled, positions_outermost, room_for
from sfl.nn.engine.reference import copy as copy  # one of the engine's functions
from sfl.nn.window import Window

NAME = "triton"


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int) -> Tensor:
    """As sfl.nn.engine.reference.forward."""
    output = empty(x, *weight.shape[:3])
    given = _ready(positions_outermost(x)), _ready(weight)
    y, added = room_for(output), None if bias is None else _ready(bias)
    if x.numel() and weight.numel():
        kernel = kernel_for("forward", *given, added, y, window, groups)
        if trust.trusts(kernel, *given, y):
            kernel.run(*given, added, y)
            return filled(output, y)
    return reference.forward(x, weight, bias, window, groups)


def input_gradient(dy: Tensor, weight: Tensor, x: Tensor, window: Window, groups: int) -> Tensor:
    """As sfl.nn.engine.reference.input_gradient."""
    output = empty_like(x)
    y, filters, dx = _ready(positions_outermost(dy)), _ready(weight), room_for(output)
    if dy.numel() and x.numel():
        kernel = kernel_for("input_gradient", dx, filters, None, y, window, groups)
        if trust.trusts(kernel, dx, filters, y):
            kernel.run(dx, filters, None, y)
            return filled(output, dx)
    return reference.input_gradient(dy, weight, x, window, groups)


def weight_gradient(
    x: Tensor, dy: Tensor, dtype: torch.dtype, window: Window, groups: int
) -> Tensor:
    """As sfl.nn.engine.reference.weight_gradient."""
    inner, y = _ready(positions_outermost(x)), _ready(positions_outermost(dy))
    shape = (*y.shape[:3], *window.kernel, x.shape[1] // groups)
    dw = torch.empty(shape, dtype=dtype, device=dy.device)
    if x.numel() and dy.numel():
        kernel = kernel_for("weight_gradient", inner, dw, None, y, window, groups)
        if trust.trusts(kernel, inner, dw, y):
            kernel.run(inner, dw, None, y)
            return dw
    return reference.weight_gradient(x, dy, dtype, window, groups)


def _ready(tensor: Tensor) -> Tensor:
    """Contiguous, from an address on that kernels are compiled for: as the allocator gives."""
    tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % 16 else tensor
