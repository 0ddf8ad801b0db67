"""A machine with a GPU that computes nothing: programs that see it, in processes of their own."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from subprocess import CompletedProcess

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def build(folder: Path) -> Path:
    """Builds the library in a folder; skips the test, in words, where it can't be."""
    import torch

    if sys.platform != "linux" or shutil.which("g++") is None:
        pytest.skip("a fake GPU needs Linux and g++")
    if not (torch.version.cuda or "").startswith("13."):
        pytest.skip("a fake GPU needs a PyTorch for CUDA 13, with its code for GPUs")
    packages = Path(sysconfig.get_paths()["purelib"])
    folders = [packages / "nvidia/cu13/include", packages / "triton/backends/nvidia/include"]
    if not all(each.is_dir() for each in folders):
        pytest.skip("a fake GPU needs the headers of the packages nvidia-cuda-runtime and triton")
    library = folder / "libcuda.so.1"
    headers = [f"-I{each}" for each in folders]
    options = ["-O1", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    command = ["g++", *options, *headers, "-o", str(library), str(HERE / "cuda.cpp")]
    subprocess.run(command, check=True)
    return library


def run(
    library: Path, *arguments: object, env: dict[str, str] | None = None, folder: Path | None = None
) -> "CompletedProcess[str]":
    """Runs Python with these arguments on that machine."""
    there = {
        **os.environ,
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": str(library.parent),
        "TRITON_LIBCUDA_PATH": str(library.parent),
        "TRITON_CACHE_DIR": str(library.parent / "triton"),
        "XDG_CACHE_HOME": str(library.parent / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        **(env or {}),
    }
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, env=there, cwd=folder, capture_output=True, text=True)
