"""Which engine computes the products, and why that one.

An engine is a module with the functions of `reference`: forward, input_gradient, weight_gradient,
copy. `choose` is the only place where one is chosen. SFL_ENGINE=reference in the
environment, or `reference_engine()` for a while, asks for plain PyTorch instead of the fastest.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from sfl.nn.engine import reference
from sfl.nn.engine.cpu import build, kernel
from sfl.nn.window import Window

SLOWER = "layers run in plain PyTorch, slower"

_reference_only = False


class Engine(Protocol):
    """What computes the products; what each function takes and gives stands in `reference`."""

    NAME: str

    def forward(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int, /
    ) -> Tensor: ...

    def input_gradient(
        self, dy: Tensor, weight: Tensor, x: Tensor, window: Window, groups: int, /
    ) -> Tensor: ...

    def weight_gradient(self, x: Tensor, dy: Tensor, window: Window, groups: int, /) -> Tensor: ...

    def copy(self, target: Tensor, source: Tensor, /) -> None: ...


def choose(device: torch.device, dtype: torch.dtype) -> tuple[Engine, str]:
    """The engine for tensors of that device and dtype, and in a few words why it is that one.

    Warns where nothing but a compiler is missing. Raises ValueError for an unknown SFL_ENGINE.
    """
    if _reference_only:
        return reference, "plain PyTorch (asked for)"
    return _choose(device.type, dtype)


@functools.cache
def _choose(kind: str, dtype: torch.dtype) -> tuple[Engine, str]:
    asked = os.environ.get("SFL_ENGINE", "")
    if asked not in ("", reference.NAME):
        raise ValueError(f"SFL_ENGINE is {asked!r}, expected {reference.NAME} or nothing")
    if asked:
        return reference, f"plain PyTorch (SFL_ENGINE={asked})"
    why_not = kernel.why_not(torch.device(kind), dtype)
    if why_not is None:
        return kernel, f"compiled kernel ({kernel.describe()})"
    if kind == "cpu" and dtype in build.DTYPES:
        warnings.warn(f"{SLOWER}: {why_not}", stacklevel=3)
    return reference, f"plain PyTorch ({why_not})"


def report(device: torch.device) -> str:
    """What computes there in float32, in a line: who has read it needs no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", SLOWER)
        return choose(device, torch.float32)[1]


@contextlib.contextmanager
def reference_engine() -> Iterator[None]:
    """Has plain PyTorch compute everything for a while, fused modules too.

    To compare it with the engine that is chosen otherwise; and for gradients of gradients through
    fused modules, which only PyTorch's own operations have.
    """
    global _reference_only
    before, _reference_only = _reference_only, True
    try:
        yield
    finally:
        _reference_only = before
