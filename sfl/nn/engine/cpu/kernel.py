"""The engine for CPUs: the product and its two gradients in C++ (kernel.cpp).

Same functions and shapes as `sfl.nn.engine.reference`; `build` compiles the library on first use.
"""

from pathlib import Path

import torch
from torch import Tensor

from sfl.nn.engine.cpu import build
from sfl.nn.engine.cpu.build import NoKernel
from sfl.nn.engine.cpu.turn import copy as copy  # one of the engine's functions
from sfl.nn.engine.memory_order import empty, empty_like, positions_outermost
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
    y = empty(x, *weight.shape[:3])
    bias = None if bias is None else bias.contiguous()
    given = (positions_outermost(x, copy), weight.contiguous(), bias)
    build.call("forward", _shape(x, y, window, groups, y), *given, y)
    return y


def input_gradient(dy: Tensor, weight: Tensor, x: Tensor, window: Window, groups: int) -> Tensor:
    """As sfl.nn.engine.reference.input_gradient."""
    dx = empty_like(x)
    shape = _shape(x, dy, window, groups, dx)
    build.call("input_gradient", shape, positions_outermost(dy, copy), weight.contiguous(), dx)
    return dx


def weight_gradient(
    x: Tensor, dy: Tensor, dtype: torch.dtype, window: Window, groups: int
) -> Tensor:
    """As sfl.nn.engine.reference.weight_gradient."""
    turned_dy = positions_outermost(dy, copy)
    dw = dy.new_empty(*turned_dy.shape[:3], *window.kernel, x.shape[1] // groups)
    # In memory (H, B, W, C), with room for a vector that begins at its last number.
    room = x.new_empty(x.numel() + VECTOR)
    batch, channels, height, width = x.shape
    turned = room[: x.numel()].view(height, batch, width, channels)
    copy(turned, x.permute(2, 0, 3, 1))
    build.call("weight_gradient", _shape(x, dy, window, groups), room, turned_dy, dw)
    return dw.to(dtype)


def _shape(
    x: Tensor, y: Tensor, window: Window, groups: int, output: Tensor | None = None
) -> tuple[int, ...]:
    """The numbers of kernel.cpp's Shape, in its order, for x (B, C, H, W) and y (B, O, OH, OW).

    `output`: which of them, or what is shaped like it, is written.
    """
    numbers = (*window.kernel, *window.stride, *window.padding, *window.dilation)
    image, channel, _, place = (0, 0, 0, 0) if output is None else output.stride()
    threads = torch.get_num_threads()
    return (*x.shape, *y.shape[1:], *numbers, groups, threads, image, channel, place)
