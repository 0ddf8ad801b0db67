"""The compiled library of the CPU engine: built from the C++ beside this file, kept, called.

Its name says from what it was built, and what is in it: kernel-KEY-HASH.so. To load one that was
cut off would end the process, so its hash is compared before.

Knows how a compiler is found and called, and where what it built is kept; not what is in it.
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
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

FOLDER = Path(__file__).parent
SOURCES, HEADERS = sorted(FOLDER.glob("*.cpp")), sorted(FOLDER.glob("*.h"))
TIMEOUT = 300  # seconds for the compiler
UNFINISHED = ".kernel"  # how the name of a folder ends in which it is compiling
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp")


DTYPES = {torch.float32: "float32", torch.float64: "float64"}
Step = Callable[[], object]


ELSEWHERE = "set XDG_CACHE_HOME to a folder that you can write to"


class NoKernel(Exception):
    """Why there is no compiled library here, in a few words."""


@functools.cache
def library() -> ctypes.CDLL:
    """The library, built if it isn't there yet. Raises NoKernel."""
    try:
        return ctypes.CDLL(str(build()))
    except OSError as error:
        raise NoKernel(str(error)) from None


def call(name: str, numbers: tuple[int, ...], *tensors: Tensor | None) -> None:
    """Calls the library's function of that name on tensors of one dtype, each dense in memory.

    The last one is written to. numbers: the sizes, and how tensors lie where that is not the same
    each time; the first is 0 where there are no images.
    """
    prepared(name, numbers, *tensors)()


def prepared(name: str, numbers: tuple[int, ...], *tensors: Tensor | None) -> Step:
    """What makes that call, and keeps the tensors until then."""
    output = tensors[-1]
    if numbers[0] == 0 and output is not None:  # nothing to read; a gradient of the weights is zero
        return output.zero_
    (dtype,) = {tensor.dtype for tensor in tensors if tensor is not None}
    pointers = [None if t is None else ctypes.c_void_p(t.data_ptr()) for t in tensors]
    function = getattr(library(), f"sfl_{name}_{DTYPES[dtype]}")
    array = _array(numbers)

    def step(_: object = tensors) -> None:
        function(array, *pointers)

    return step


@functools.lru_cache(1024)
def _array(numbers: tuple[int, ...]) -> ctypes.Array[ctypes.c_int64]:
    """As the library reads them."""
    return (ctypes.c_int64 * len(numbers))(*numbers)


def build() -> Path:
    """The library's path, built if it isn't there. Raises NoKernel.

    Warns if there is one that isn't as it was built, and replaces it.
    """
    command = [compiler(), *FLAGS, *map(str, SOURCES), *_openmp()]
    folder, name = _cache(), f"kernel-{key(command)}"
    try:
        for path in folder.glob(f"{name}-*.so"):
            if path.stem == f"{name}-{_hash(path)}":
                return path
            warnings.warn(f"{path}: damaged; it is built anew", stacklevel=2)
            path.unlink(missing_ok=True)
        return _built(command, folder, name)
    except subprocess.CalledProcessError as error:
        raise NoKernel(_first_error(error)) from None
    except OSError as error:
        said = f"the compiled kernel can't be kept in {folder}: {error.strerror or error}"
        raise NoKernel(f"{said}: {ELSEWHERE}") from None
    except subprocess.TimeoutExpired as error:
        raise NoKernel(f"{SOURCES[0].name} can't be compiled: {error}") from None


def _built(command: list[str], kept: Path, name: str) -> Path:
    kept.mkdir(parents=True, exist_ok=True)
    for left in kept.glob(f"*{UNFINISHED}"):  # of a process that was killed
        if time.time() - left.stat().st_mtime > 2 * TIMEOUT:
            shutil.rmtree(left, ignore_errors=True)
    # Under a name of its own, then renamed: two processes that build at once both end well.
    with tempfile.TemporaryDirectory(dir=kept, suffix=UNFINISHED) as folder:
        built = Path(folder) / "kernel.so"
        subprocess.run(
            [*command, "-o", str(built)], check=True, capture_output=True, timeout=TIMEOUT
        )
        with built.open("rb") as file, contextlib.suppress(OSError):  # not every disk has fsync
            os.fsync(file.fileno())
        path = kept / f"{name}-{_hash(built)}.so"
        os.replace(built, path)
    return path


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def compiler() -> str:
    """The C++ compiler's path: CXX, g++ or clang++. Raises NoKernel."""
    for name in (os.environ.get("CXX"), "g++", "clang++"):
        if name and (found := shutil.which(name)):
            return found
    raise NoKernel("there is no C++ compiler")


def key(command: list[str]) -> str:
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


def _first_error(error: subprocess.CalledProcessError) -> str:
    """The compiler's first line with an error in it, without this machine's paths."""
    lines = error.stderr.decode(errors="replace").splitlines() or [str(error)]
    told = (line for line in lines if "error" in line or "failed" in line)  # the linker's: failed
    line: str = next(told, lines[-1])
    for source in SOURCES:
        line = line.replace(str(source), f"{source.name} can't be compiled")
    return line


def _openmp() -> list[str]:
    """PyTorch's own OpenMP library, if it brings one: two of them would fight for the cores."""
    folder = Path(torch.__file__).parent / "lib"
    return [str(path) for path in sorted(folder.glob("libgomp*.so*"))]


def _cache() -> Path:
    """The user's cache folder; it may not be there yet."""
    try:
        home = os.environ.get("XDG_CACHE_HOME")
        return Path(home) / "sfl" if home else Path.home() / ".cache" / "sfl"
    except RuntimeError:  # a folder that others can write to is no place for code that we load
        raise NoKernel(f"no home folder for the compiled kernel: {ELSEWHERE}") from None


def _instructions() -> str:
    """The processor's instruction sets; several machines may share the cache's folder."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()
