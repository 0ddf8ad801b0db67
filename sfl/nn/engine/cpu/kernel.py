"""The engine for CPUs: the product and its two gradients in C++ (kernel.cpp).

Same functions and shapes as `sfl.nn.engine.reference`; `build` compiles the library on first use.
"""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

from sfl.nn.engine.cpu import build
from sfl.nn.engine.cpu.build import NoKernel
from sfl.nn.engine.memory_order import empty, positions_outermost
from sfl.nn.window import Window

NAME = "compiled"
VECTOR = 16  # numbers of the widest vector, at most
DTYPES = {torch.float32: "float32", torch.float64: "float64"}


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this engine can't serve such tensors; None where it can. Builds it if need be."""
    if device.type != "cpu":
        return f"the kernel is for CPUs, not {device.type}"
    if dtype not in DTYPES:
        return f"the kernel is for float32 and float64, not {str(dtype).removeprefix('torch.')}"
    try:
        build.library()
    except NoKernel as reason:
        return str(reason)
    return None


def describe() -> str:
    """What it was built with and for: "g++, AVX512"."""
    return f"{Path(build.compiler()).name}, {torch.backends.cpu.get_cpu_capability()}"


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int) -> Tensor:
    """As sfl.nn.engine.reference.forward."""
    positions_h, positions_w, out_channels = weight.shape[:3]
    y = empty(x, positions_h, positions_w, out_channels)
    bias = None if bias is None else bias.contiguous()
    given = (positions_outermost(x), weight.contiguous(), bias)
    call("forward", _shape(x, y, window, groups), *given, positions_outermost(y))
    return y


def input_gradient(
    dy: Tensor, weight: Tensor, size: tuple[int, int], window: Window, groups: int
) -> Tensor:
    """As sfl.nn.engine.reference.input_gradient."""
    dx = empty(dy, *size, weight.shape[5] * groups)
    given = (positions_outermost(dy), weight.contiguous())
    call("input_gradient", _shape(dx, dy, window, groups), *given, positions_outermost(dx))
    return dx


def weight_gradient(x: Tensor, dy: Tensor, window: Window, groups: int) -> Tensor:
    """As sfl.nn.engine.reference.weight_gradient."""
    out_channels, positions_h, positions_w = dy.shape[1:]
    units, field = (positions_h, positions_w, out_channels), (*window.kernel, x.shape[1] // groups)
    dw = dy.new_empty(*units, *field)
    # Room for a transposed copy of x, and for a vector that begins at its last number.
    turned = x.new_empty(x.numel() + VECTOR)
    given = (positions_outermost(x), positions_outermost(dy), turned)
    call("weight_gradient", _shape(x, dy, window, groups), *given, dw)
    return dw


def _shape(x: Tensor, y: Tensor, window: Window, groups: int) -> tuple[int, ...]:
    """The numbers of kernel.cpp's Shape, in its order, for x (B, C, H, W) and y (B, O, OH, OW)."""
    numbers = (*window.kernel, *window.stride, *window.padding, *window.dilation)
    return (*x.shape, *y.shape[1:], *numbers, groups, torch.get_num_threads())


def call(name: str, numbers: tuple[int, ...], *tensors: Tensor | None) -> None:
    """Calls the library's function of that name on contiguous tensors of one dtype.

    The last tensor is written to. numbers: the sizes; the first is 0 where there are no images.
    """
    *_, output = tensors
    if numbers[0] == 0 and output is not None:  # nothing to read; a gradient of the weights is zero
        output.zero_()
        return
    (dtype,) = {tensor.dtype for tensor in tensors if tensor is not None}
    pointers = [ctypes.c_void_p(t.data_ptr() if t is not None else None) for t in tensors]
    function = getattr(build.library(), f"sfl_{name}_{DTYPES[dtype]}")
    function((ctypes.c_int64 * len(numbers))(*numbers), *pointers)
