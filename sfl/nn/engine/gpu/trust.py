"""Whether a kernel's numbers are right on this machine: it is compared before it is used.

In each process a kernel is compared once on each GPU with the reference in float64, on small random
tensors, which takes milliseconds; its caller brings the comparison. If one is wrong or doesn't run,
none is used any more in this process, and a line says so; a CUDA graph that was recorded before
goes on with those that it holds, which were right.
"""

import platform
import re
import time
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path

import torch
from torch import Tensor

# The largest relative error, by how a result was rounded.
HALF, TF32, EXACT = 1e-2, 5e-3, 1e-4

_trusted: set[tuple[Hashable, torch.device]] = set()
_broken: str | None = None
_seconds = 0.0


def broken() -> str | None:
    """Why no kernel is trusted here, in a few words; None while none was wrong."""
    return _broken


def seconds() -> float:
    """How long this process has compared kernels, and compiled them for it."""
    return _seconds


def trusts(
    name: str, kernel: Hashable, device: torch.device, error: Callable[[], float], bound: float
) -> bool:
    """Whether the kernel may be used on that device. Compares it at its first use. Warns, once, if
    it is wrong.

    kernel: all that it is compiled for; equal ones are one kernel. error: computes its relative
    error.
    """
    if _broken is not None:
        return False
    if (kernel, device) in _trusted:
        return True
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():  # can't compare there
        return False
    if (reason := _wrong(error, bound)) is not None:
        _give_up(f"{name} {reason}", kernel, device)
        return False
    _trusted.add((kernel, device))
    return True


def relative_error(found: Tensor, exact: Tensor) -> float:
    """‖found − exact‖ / ‖exact‖ in the 2-norm; exact: float64."""
    return float((found.double() - exact).norm() / exact.norm().clamp_min(1e-30))


def _wrong(compare: Callable[[], float], bound: float) -> str | None:
    """What is wrong with it; None if nothing is."""
    global _seconds
    start = time.perf_counter()
    try:
        error = compare()
    except torch.OutOfMemoryError:
        raise
    except Exception as failure:  # Triton's, its compiler's, the driver's: each has its own types
        said = " ".join(str(failure).split()).replace(str(Path.home()), "~") or "no reason"
        said = re.sub(r"~?(/[\w.+-]+)+/", "", said)
        return f"doesn't run: {type(failure).__name__}: {said[:200]}"
    finally:
        _seconds += time.perf_counter() - start
    return None if error <= bound else f"is wrong by {error:.1e}"  # NaN is


def _give_up(reason: str, kernel: Hashable, device: torch.device) -> None:
    global _broken
    _broken = f"a GPU kernel failed its check: {reason}"
    machine = ", ".join(_machine(device))
    warnings.warn(
        f"layers run in plain PyTorch, slower: {_broken}. Please report this line: {kernel}, "
        f"{machine}",
        stacklevel=2,
    )


def _machine(device: torch.device) -> tuple[str, ...]:
    """GPU, driver and versions in words."""
    versions = (f"torch {torch.__version__}", platform.system())
    if device.type != "cuda":  # Triton's interpreter
        return (device.type, *versions)
    try:
        driver = Path("/proc/driver/nvidia/version").read_text().splitlines()[0]
    except (OSError, IndexError):
        driver = "driver unknown"
    return (torch.cuda.get_device_name(device), " ".join(driver.split()), *versions)
