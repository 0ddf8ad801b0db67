"""Which engine computes the products, and why that one.

An engine is a module with the functions of `reference`: forward, input_gradient, weight_gradient,
copy. `choose` is the only place where one is chosen. SFL_ENGINE=reference in the
environment, or `reference_engine()` for a while, asks for plain PyTorch instead of the fastest.
"""

import contextlib
import functools
import importlib.util
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from sfl.nn.engine import reference
from sfl.nn.engine.cpu import build, kernel
from sfl.nn.engine.gpu import trust
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

    def weight_gradient(
        self, x: Tensor, dy: Tensor, dtype: torch.dtype, window: Window, groups: int, /
    ) -> Tensor: ...

    def copy(self, target: Tensor, source: Tensor, /) -> None: ...


def choose(device: torch.device, dtype: torch.dtype) -> tuple[Engine, str]:
    """The engine for tensors of that device and dtype, and in a few words why it is that one.

    Warns where nothing but a compiler is missing. Raises ValueError for an unknown SFL_ENGINE.
    """
    if _reference_only:
        return reference, "plain PyTorch (asked for)"
    if device.type == "cuda" and (reason := trust.broken()):
        return reference, f"plain PyTorch ({reason})"
    return _choose(device, dtype)


@functools.cache
def _choose(device: torch.device, dtype: torch.dtype) -> tuple[Engine, str]:
    asked = os.environ.get("SFL_ENGINE", "")
    if asked not in ("", reference.NAME):
        raise ValueError(f"SFL_ENGINE is {asked!r}, expected {reference.NAME} or nothing")
    if asked:
        return reference, f"plain PyTorch (SFL_ENGINE={asked})"
    if device.type == "cuda":
        return _on_a_gpu(device, dtype)
    why_not = kernel.why_not(device, dtype)
    if why_not is None:
        return kernel, f"compiled kernel ({kernel.describe()})"
    if device.type == "cpu" and dtype in build.DTYPES:
        warnings.warn(f"{SLOWER}: {why_not}", stacklevel=3)
    return reference, f"plain PyTorch ({why_not})"


def _on_a_gpu(device: torch.device, dtype: torch.dtype) -> tuple[Engine, str]:
    why_not = _no_triton_for(device, dtype)
    if why_not is not None:
        return reference, f"plain PyTorch ({why_not})"
    try:
        from sfl.nn.engine.gpu import products  # Triton takes a second
    except Exception as error:  # whatever an installation that is broken raises
        return (
            reference,
            f"plain PyTorch (Triton can't be imported: {' '.join(str(error).split())})",
        )
    major, minor = torch.cuda.get_device_capability(device)
    return products, f"Triton kernels (sm_{major}{minor})"


def _no_triton_for(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why the engine for GPUs can't serve such tensors; None where it can."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"the Triton kernels are not for {str(dtype).removeprefix('torch.')}"
    if not torch.cuda.is_available():
        return "no CUDA device here"
    if torch.version.cuda is None or sys.platform == "win32":
        return "the Triton kernels are for NVIDIA GPUs on Linux"
    if "triton" in sys.modules and sys.modules["triton"] is None:  # so says `flops`
        return "Triton can't be imported: python -c 'import triton' says why"
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed"
    capability = torch.cuda.get_device_capability(device)
    least = (7, 5) if dtype == torch.float32 else (8, 0)  # below, bfloat16 is emulated
    if capability < least:
        has, needs = (".".join(map(str, each)) for each in (capability, least))
        return f"the GPU has compute capability {has}, the Triton kernels need {needs}"
    return None


def report(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """What computes there in that dtype, in a line: the reason of `choose`, without its warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", SLOWER)
        return choose(device, dtype)[1]


def preparing_seconds() -> float:
    """How long this process has compiled GPU kernels and compared them before their first use."""
    return trust.seconds()


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
