"""Chooses the device of a run, its precision, and its number of threads."""

import contextlib
from collections.abc import Iterator, Mapping

import torch

from sfl import torchrun
from sfl.errors import UserError


def pick_device(name: str) -> torch.device:
    """auto: CUDA, else MPS, else the CPU. Raises UserError (exit 2) if there is no such device.

    Under torchrun, each process on a machine gets its own GPU.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    several = torchrun.count() > 1
    if several and name.startswith("cuda:"):
        raise UserError(f"train.device: {name}: torchrun gives each process a GPU", "use cuda")
    device = torch.device(f"cuda:{torchrun.local_rank()}" if several and name == "cuda" else name)
    if device.type == "cuda" and not cuda:
        raise UserError(f"train.device: {name}: this machine has no CUDA device", "use auto or cpu")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"train.device: {name}: there are {count} CUDA devices, numbered from 0")
    if device.type == "mps" and not mps:
        raise UserError(f"train.device: {name}: this machine has no MPS device", "use auto or cpu")
    return device


def planned_device(name: str) -> torch.device:
    """The same, though it may be another machine's."""
    return pick_device(name) if name == "auto" else torch.device(name)


def pick_precision(name: str, device: torch.device) -> str:
    """auto: bfloat16 if the hardware multiplies it faster than float32, else float32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
    else:
        # torch 2.10 has no get_capabilities yet
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        multiplies = any(capabilities.get(unit) for unit in ("amx_bf16", "avx512_bf16"))
        fast = device.type == "cpu" and multiplies
    return "bfloat16" if fast else "float32"


@contextlib.contextmanager
def threads(count: int | None) -> Iterator[int]:
    """Inside, PyTorch and the compiled engine compute with so many threads, which it gives.

    None: as many as PyTorch chooses.
    """
    before = torch.get_num_threads()
    if count is None:  # setting even the same number would change how MKL chooses its own
        yield before
        return
    torch.set_num_threads(count)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
