"""Whether a kernel's numbers are right on this machine: it is compared before it is used.

In each process a kernel is compared once on each GPU with the reference in float64, on random
tensors: with the channels, window, types and blocks at hand, and few positions, so that it takes
milliseconds. If one is wrong or can't be compiled, none is used any more in this process, and a
line says so; a CUDA graph that was recorded before goes on with those that it holds, which were
right.
"""

import platform
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sfl.nn.engine import reference

if TYPE_CHECKING:  # it imports Triton
    from sfl.nn.engine.gpu.launch import Kernel

POSITIONS = 4  # that are compared along each axis, at most
# The largest relative error, ‖found − right‖ / ‖right‖, by how a result was rounded.
HALF, TF32, EXACT = 1e-2, 5e-3, 1e-4

_trusted: set[tuple["Kernel | str", torch.device]] = set()
_broken: str | None = None


def broken() -> str | None:
    """Why no kernel is trusted here, in a few words; None while none was wrong."""
    return _broken


def trusts(kernel: "Kernel", x: Tensor, weight: Tensor, y: Tensor) -> bool:
    """Whether the kernel may be used for tensors of such sizes, in memory as `launch` says.

    Compares it at its first use. Warns, once, if it is wrong.
    """
    return trusts_what(kernel, x.device, lambda: error_of(kernel, x, weight, y), _bound(kernel))


def trusts_what(
    kernel: "Kernel | str", device: torch.device, error: Callable[[], float], bound: float
) -> bool:
    """The same of what an error and its bound are known of."""
    if _broken is not None:
        return False
    if (kernel, device) in _trusted:
        return True
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():  # can't compare there
        return False
    if (reason := _wrong(error, bound)) is not None:
        _give_up(reason, kernel, device)
        return False
    _trusted.add((kernel, device))
    return True


def _wrong(compare: Callable[[], float], bound: float) -> str | None:
    """What is wrong with it; None if nothing is."""
    try:
        error = compare()
    except torch.OutOfMemoryError:
        raise
    except Exception as failure:  # Triton's, its compiler's, the driver's: each has its own types
        said = " ".join(str(failure).split()) or "no reason"
        return f"can't be compiled: {type(failure).__name__}: {said[:200]}"
    return None if error <= bound else f"is wrong by {error:.1e}"  # NaN is


def _bound(kernel: "Kernel") -> float:
    written = kernel.weight_dtype if kernel.name == "weight_gradient" else kernel.dtype
    if written != torch.float32:
        return HALF
    return TF32 if kernel.precision == "tf32" else EXACT


def error_of(kernel: "Kernel", x: Tensor, weight: Tensor, y: Tensor) -> float:
    """Its relative error on random tensors like these, of few positions, in the 2-norm."""
    generator = torch.Generator(x.device).manual_seed(0)  # a run's own draws stay as they are

    def drawn(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        return torch.randn(shape, generator=generator, device=x.device).to(dtype)

    x_size, y_size = _few(kernel, x.shape, y.shape)
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
    found = written.double()
    if kernel.name != "weight_gradient":
        found = found.permute(3, 2, 0, 1)
    return float((found - exact).norm() / exact.norm().clamp_min(1e-30))


def _few(
    kernel: "Kernel", x: Sequence[int], y: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Sizes (H, W) and (OH, OW) with few positions, and the same padding at both ends."""
    sizes, positions = [], []
    for size, count, stride in zip(x[:2], y[:2], kernel.window.stride, strict=True):
        few = min(count, POSITIONS)
        smaller = size - (count - few) * stride
        sizes.append(smaller if smaller > 0 else size)
        positions.append(few if smaller > 0 else count)
    return tuple(sizes), tuple(positions)


def _give_up(reason: str, kernel: "Kernel | str", device: torch.device) -> None:
    global _broken
    name = (kernel if isinstance(kernel, str) else kernel.name).partition("(")[0].replace("_", " ")
    machine = ", ".join(_machine(device))
    _broken = f"a GPU kernel failed its check: {name} {reason}"
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
