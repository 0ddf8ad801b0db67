"""The compiled form of the product for CPUs: kernel.cpp, built on first use and kept.

`load()` gives the built library or None, `report()` says in a line which form runs and why. Same
functions as sfl.nn.engine.reference. The library also has what stands between the products
(pointwise.cpp), which sfl.nn.engine.fused calls.
SFL_KERNEL=plain in the environment does without it.
"""

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from sfl.nn.engine import reference
from sfl.nn.engine.reference import channels_innermost, positions_outermost
from sfl.nn.window import Window

FOLDER = Path(__file__).parent
SOURCES, HEADERS = sorted(FOLDER.glob("*.cpp")), sorted(FOLDER.glob("*.h"))
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp")
_in_use, _told = True, False
VECTOR = 16  # numbers of the widest vector, at most
NAMES = {torch.float32: "float32", torch.float64: "float64"}


class NoKernel(Exception):
    """Why there is no compiled form here, in a few words."""


def serves(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the compiled product takes such tensors; builds it if need be."""
    takes = device.type == "cpu" and dtype in (torch.float32, torch.float64)
    return _in_use and takes and load() is not None


@contextlib.contextmanager
def without() -> Iterator[None]:
    """Has the plain form compute for a while, to compare the two."""
    global _in_use
    before, _in_use = _in_use, False
    try:
        yield
    finally:
        _in_use = before


def report(device: torch.device) -> str:
    """Which form runs there: "compiled kernel (g++, AVX512)" or "plain PyTorch (why)"."""
    try:
        if device.type != "cpu":
            raise NoKernel(f"the kernel is for CPUs, not {device.type}")
        _open()
    except (NoKernel, OSError) as reason:
        global _told
        _told = True  # who asked needs no warning
        return f"plain PyTorch ({reason})"
    return f"compiled kernel ({Path(_compiler()).name}, {torch.backends.cpu.get_cpu_capability()})"


@functools.cache
def load() -> ctypes.CDLL | None:
    """The library; None, after one warning, where it can't be had."""
    if os.environ.get("SFL_KERNEL") == "plain":
        return None
    try:
        return _open()
    except (NoKernel, OSError) as reason:
        if not _told:
            warnings.warn(f"layers run in plain PyTorch, slower: {reason}", stacklevel=2)
        return None


def forward(x: Tensor, weight: Tensor, bias: Tensor | None, window: Window, groups: int) -> Tensor:
    """As sfl.nn.engine.reference.forward."""
    positions_h, positions_w, out_channels = weight.shape[:3]
    y = reference.empty(x, positions_h, positions_w, out_channels)
    each = None if bias is None else bias.contiguous()
    shape, weight = _shape(x, y, window, groups), channels_innermost(weight)
    call("forward", shape, positions_outermost(x), weight, each, positions_outermost(y))
    return y


def input_gradient(
    dy: Tensor, weight: Tensor, size: tuple[int, int], window: Window, groups: int
) -> Tensor:
    """As sfl.nn.engine.reference.input_gradient."""
    dx = reference.empty(dy, *size, weight.shape[3] * groups)
    shape, weight = _shape(dx, dy, window, groups), channels_innermost(weight)
    call("input_gradient", shape, positions_outermost(dy), weight, positions_outermost(dx))
    return dx


def weight_gradient(x: Tensor, dy: Tensor, window: Window, groups: int) -> Tensor:
    """As sfl.nn.engine.reference.weight_gradient."""
    out_channels, positions_h, positions_w = dy.shape[1:]
    units, field = (positions_h, positions_w, out_channels), (x.shape[1] // groups, *window.kernel)
    dw = reference.empty_weight((*units, *field), dtype=dy.dtype, device=dy.device)
    shape = _shape(x, dy, window, groups)
    # Room for x turned round, and for a vector that begins at its last number.
    turned = x.new_empty(x.numel() + VECTOR)
    call("weight_gradient", shape, positions_outermost(x), positions_outermost(dy), turned, dw)
    return dw


def _shape(x: Tensor, y: Tensor, window: Window, groups: int) -> tuple[int, ...]:
    """The numbers of kernel.cpp's Shape, in its order, for x (B, C, H, W) and y (B, O, OH, OW)."""
    numbers = (*window.kernel, *window.stride, *window.padding, *window.dilation)
    return (*x.shape, *y.shape[1:], *numbers, groups, torch.get_num_threads())


def call(name: str, shape: tuple[int, ...], *tensors: Tensor | None) -> None:
    """The library's function of that name on contiguous tensors of one type."""
    if shape[0] == 0:  # no image: nothing to read, and a gradient of no image is zero
        last = tensors[-1]
        assert last is not None
        last.zero_()
        return
    (dtype,) = {tensor.dtype for tensor in tensors if tensor is not None}
    library = load()
    assert library is not None
    pointers = [ctypes.c_void_p(t.data_ptr() if t is not None else None) for t in tensors]
    function = getattr(library, f"sfl_{name}_{NAMES[dtype]}")
    function((ctypes.c_int64 * len(shape))(*shape), *pointers)


def _open() -> ctypes.CDLL:
    """The library. Raises NoKernel, or OSError for one that can't be loaded, built anew once."""
    try:
        return ctypes.CDLL(str(_build()))
    except OSError:  # a file that was cut off
        _build().unlink(missing_ok=True)
        _build.cache_clear()
        return ctypes.CDLL(str(_build()))


# --- building


@functools.cache
def _build() -> Path:
    """The library's path, built if it isn't there. Raises NoKernel."""
    if os.environ.get("SFL_KERNEL") == "plain":
        raise NoKernel("SFL_KERNEL=plain")
    command = [_compiler(), *FLAGS, *map(str, SOURCES), *_openmp()]
    path = _cache() / f"kernel-{_key(command)}.so"
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A name of its own, then one step: two processes that build at once both end well.
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            subprocess.run(
                [*command, "-o", str(built)], check=True, capture_output=True, timeout=300
            )
            os.replace(built, path)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").splitlines() or [str(error)]
        line = next((line for line in lines if "error" in line), lines[-1])
        for source in SOURCES:
            line = line.replace(str(source), f"{source.name} can't be compiled")
        raise NoKernel(line) from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernel(f"{SOURCES[0].name} can't be compiled: {error}") from None
    return path


def _compiler() -> str:
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    raise NoKernel("there is no C++ compiler")


def _openmp() -> list[str]:
    """PyTorch's own OpenMP library, if it brings one: two of them would fight for the cores."""
    folder = Path(torch.__file__).parent / "lib"
    return [str(path) for path in sorted(folder.glob("libgomp*.so*"))]


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(home) / "sfl" if home else Path.home() / ".cache" / "sfl"
    except RuntimeError:  # and a folder for everyone is no place for code that we load
        raise NoKernel("there is no home folder to keep it in") from None


def _key(command: list[str]) -> str:
    """A hash of all that the library depends on: source, compiler, flags, processor."""
    try:
        version = subprocess.run([command[0], "--version"], capture_output=True, timeout=60).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoKernel(f"{command[0]} doesn't run: {error}") from None
    digest = hashlib.sha256(version + repr(command).encode())
    for path in (*SOURCES, *HEADERS):
        digest.update(path.read_bytes())
    digest.update(f"{platform.machine()} {_instructions()}".encode())
    return digest.hexdigest()[:16]


def _instructions() -> str:
    """What the processor knows; the folder of the cache may be shared by several machines."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()
