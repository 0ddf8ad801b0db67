"""The engine for CPUs: the product and its two gradients in C++ (kernel.cpp).

Same functions and shapes as `sfl.nn.engine.reference`; `build` compiles the library on first use.
"""

from pathlib import Path

import torch
from torch import Tensor

from sfl.nn.engine.cpu import build
from sfl.nn.engine.cpu.build import NoKernel, Step
from sfl.nn.engine.cpu.turn import copy as copy  # one of the engine's functions
from sfl.nn.engine.cpu.turn import prepared
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
    steps: list[Step] = []
    y = empty(x, *weight.shape[:3])
    bias = None if bias is None else bias.contiguous()
    given = (_turned(x, steps), weight.contiguous(), bias)
    steps.append(build.prepared("forward", _shape(x, y, window, groups, y), *given, y))
    _run(steps)
    return y


def input_gradient(dy: Tensor, weight: Tensor, x: Tensor, window: Window, groups: int) -> Tensor:
    """As sfl.nn.engine.reference.input_gradient."""
    steps: list[Step] = []
    dx = _input_gradient(_turned(dy, steps), weight, x, window, groups, steps)
    _run(steps)
    return dx


def weight_gradient(
    x: Tensor, dy: Tensor, dtype: torch.dtype, window: Window, groups: int
) -> Tensor:
    """As sfl.nn.engine.reference.weight_gradient."""
    steps: list[Step] = []
    dw = _weight_gradient(x, _turned(dy, steps), window, groups, steps)
    _run(steps)
    return dw.to(dtype)


def gradients(
    dy: Tensor, weight: Tensor, x: Tensor, window: Window, groups: int
) -> tuple[Tensor, Tensor]:
    """Both, faster than one by one: dy is turned once, and little Python runs between."""
    steps: list[Step] = []
    turned = _turned(dy, steps)
    dx = _input_gradient(turned, weight, x, window, groups, steps)
    dw = _weight_gradient(x, turned, window, groups, steps)
    _run(steps)
    return dx, dw


def _run(steps: list[Step]) -> None:
    """All at once, prepared before: a product drives Python out of the cache, so that each line of
    it that runs between two of them waits for main memory.
    """
    for step in steps:
        step()


def _turned(x: Tensor, steps: list[Step]) -> Tensor:
    """(B, C, H, W) → (H, W, C, B), in a step where it doesn't lie so."""
    return positions_outermost(x, lambda *both: steps.append(prepared(*both)))


def _input_gradient(
    dy: Tensor, weight: Tensor, x: Tensor, window: Window, groups: int, steps: list[Step]
) -> Tensor:
    """dy: (OH, OW, O, B)."""
    dx = empty_like(x)
    shape = _shape(x, dy.permute(3, 2, 0, 1), window, groups, dx)
    steps.append(build.prepared("input_gradient", shape, dy, weight.contiguous(), dx))
    return dx


def _weight_gradient(
    x: Tensor, dy: Tensor, window: Window, groups: int, steps: list[Step]
) -> Tensor:
    """dy: (OH, OW, O, B)."""
    dw = dy.new_empty(*dy.shape[:3], *window.kernel, x.shape[1] // groups)
    # In memory (H, B, W, C), with room for a vector that begins at its last number.
    room = x.new_empty(x.numel() + VECTOR)
    batch, channels, height, width = x.shape
    turned = room[: x.numel()].view(height, batch, width, channels)
    steps.append(prepared(turned, x.permute(2, 0, 3, 1)))
    shape = _shape(x, dy.permute(3, 2, 0, 1), window, groups)
    steps.append(build.prepared("weight_gradient", shape, room, dy, dw))
    return dw


def _shape(
    x: Tensor, y: Tensor, window: Window, groups: int, output: Tensor | None = None
) -> tuple[int, ...]:
    """The numbers of kernel.cpp's Shape, in its order, for x (B, C, H, W) and y (B, O, OH, OW).

    `output`: which of them, or what is shaped like it, is written.
    """
    image, channel, _, place = (0, 0, 0, 0) if output is None else output.stride()
    threads = torch.get_num_threads()
    return (*x.shape, *y.shape[1:], *window.numbers, groups, threads, image, channel, place)
