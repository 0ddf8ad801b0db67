"""The engine for CPUs: the product and its two gradients in C++ (kernel.cpp).

Same functions and shapes as `sfl.nn.engine.reference`; `build` compiles the library on first use.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from sfl.nn.engine.cpu import build
from sfl.nn.engine.cpu.build import NoKernel
from sfl.nn.engine.cpu.turn import copy as copy  # one of the engine's functions
from sfl.nn.engine.memory_order import empty, empty_like, filled, positions_outermost, room_for
from sfl.nn.window import Window

NAME = "compiled"
VECTOR = 16  # numbers of the widest vector, at most


def why_not(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why this engine can't serve such tensors; None where it can. Builds it if need be."""
    if device.type != "cpu":
        return f"the kernel is for CPUs, not {device.type}"
    if dtype not in build.DTYPES:
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
    output = empty(x, *weight.shape[:3])
    y = room_for(output)
    bias = None if bias is None else bias.contiguous()
    given = (positions_outermost(x, copy), weight.contiguous(), bias)
    build.call("forward", _shape(x.shape, y.shape, window, groups), *given, y)
    return filled(output, y, copy)


def input_gradient(dy: Tensor, weight: Tensor, x: Tensor, window: Window, groups: int) -> Tensor:
    """As sfl.nn.engine.reference.input_gradient."""
    output = empty_like(x)
    dy, dx = positions_outermost(dy, copy), room_for(output)
    shape = _shape(output.shape, dy.shape, window, groups)
    build.call("input_gradient", shape, dy, weight.contiguous(), dx)
    return filled(output, dx, copy)


def weight_gradient(
    x: Tensor, dy: Tensor, dtype: torch.dtype, window: Window, groups: int
) -> Tensor:
    """As sfl.nn.engine.reference.weight_gradient."""
    dy = positions_outermost(dy, copy)
    dw = dy.new_empty(*dy.shape[:3], *window.kernel, x.shape[1] // groups)
    # In memory (H, B, W, C), with room for a vector that begins at its last number.
    room = x.new_empty(x.numel() + VECTOR)
    batch, channels, height, width = x.shape
    turned = room[: x.numel()].view(height, batch, width, channels)
    copy(turned, x.permute(2, 0, 3, 1))
    build.call("weight_gradient", _shape(x.shape, dy.shape, window, groups), room, dy, dw)
    return dw.to(dtype)


def _shape(x: Sequence[int], y: Sequence[int], window: Window, groups: int) -> tuple[int, ...]:
    """The numbers of kernel.cpp's Shape, in its order, for x (B, C, H, W) and y (OH, OW, O, B)."""
    numbers = (*window.kernel, *window.stride, *window.padding, *window.dilation)
    return (*x, y[2], y[0], y[1], *numbers, groups, torch.get_num_threads())
