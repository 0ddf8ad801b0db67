"""Chooses the device of a run, its precision, and its number of threads."""

import contextlib
import warnings
from collections.abc import Iterator, Mapping

import torch

from sfl import torchrun
from sfl.errors import UserError


def pick_device(name: str) -> torch.device:
    """auto: CUDA, else MPS, else the CPU. Raises UserError (exit 2) if there is no such device.

    auto warns of a GPU that is too old, and takes the CPU.

    Under torchrun, each process on a machine gets its own GPU.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto" and cuda and (too_old := _too_old(torch.device("cuda"))):
        warnings.warn(f"takes the CPU: {too_old}")  # noqa: B028 - from one place: once
        cuda = False
    if name == "auto":
        name = "cuda" if cuda else "mps" if mps else "cpu"
    several = torchrun.count() > 1
    if several and name.startswith("cuda:"):
        raise UserError(f"train.device: {name}: torchrun gives each process a GPU", "use cuda")
    if name.startswith("cuda") and not cuda:
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "has no CUDA"
        raise UserError(
            f"train.device: {name}: PyTorch sees no CUDA device; {torch.__version__} {built}",
            "nvidia-smi says whether the driver sees one; else use auto or cpu",
        )
    processes, gpus = torchrun.local_count(), torch.cuda.device_count() if cuda else 0
    if name == "cuda" and processes > gpus:  # which all of them say, as only rank 0's is printed
        raise UserError(
            f"torchrun: {processes} processes here, but CUDA devices: {gpus}",
            f"--nproc-per-node {gpus}, or train.device=cpu",
        )
    device = torch.device(f"cuda:{torchrun.local_rank()}" if several and name == "cuda" else name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        raise UserError(f"train.device: {name}: CUDA devices here: {count}, numbered from 0")
    if device.type == "cuda" and (too_old := _too_old(device)):
        raise UserError(f"train.device: {name}: {too_old}", "use cpu, or another PyTorch")
    if device.type == "mps" and not mps:
        raise UserError(f"train.device: {name}: this machine has no MPS device", "use auto or cpu")
    return device


def _too_old(device: torch.device) -> str:
    """Why this PyTorch has no programs for a GPU; "" if it has."""
    names = [name.removeprefix("sm_") for name in torch.cuda.get_arch_list()]
    built = [int(name) for name in names if name.isdigit()]
    major, minor = torch.cuda.get_device_capability(device)
    if not built or 10 * major + minor >= min(built):
        return ""
    return (
        f"{torch.cuda.get_device_name(device)} has compute capability {major}.{minor}, PyTorch "
        f"{torch.__version__} needs {min(built) / 10}"
    )


def prepare(device: torch.device, precision: str) -> None:
    """Makes a CUDA device the one that everything uses, with numbers that repeat.

    At float32 PyTorch would compute convolutions, but not other products, with 10 bits of each
    number (TF32); here all products are in the precision, so that twins are. cuDNN takes only
    algorithms that add in the same order each time.
    """
    if device.type != "cuda":
        return
    if device.index is not None:
        torch.cuda.set_device(device)
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    # Also where it was set by the newer switch, which counts for more.
    torch.backends.cudnn.conv.fp32_precision = "tf32" if precision == "tf32" else "ieee"  # type: ignore[attr-defined]
    torch.backends.cudnn.deterministic = True


def planned_device(name: str) -> torch.device:
    """As `pick_device`, though it may be another machine's."""
    return pick_device(name) if name == "auto" else torch.device(name)


def pick_precision(name: str, device: torch.device) -> str:
    """auto: bfloat16 if the hardware multiplies it faster than float32, else float32. tf32 where
    there is none, as of a run that was trained elsewhere: float32.
    """
    if name == "tf32":
        return name if _is_ampere(device) else "float32"
    if name != "auto":
        return name
    if device.type == "cuda":
        fast = _is_ampere(device)
    else:
        # torch 2.10 has no get_capabilities yet
        capabilities: Mapping[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        multiplies = any(capabilities.get(unit) for unit in ("amx_bf16", "avx512_bf16"))
        fast = device.type == "cpu" and multiplies
    return "bfloat16" if fast else "float32"


def local_precision(device: torch.device, precision: str) -> str:
    """Of the products of local layers: float32 but on CUDA devices, whatever the run's."""
    return precision if device.type == "cuda" else "float32"


def local_dtype(device: torch.device, precision: str) -> torch.dtype:
    """Of what local layers multiply."""
    bfloat16 = local_precision(device, precision) == "bfloat16"
    return torch.bfloat16 if bfloat16 else torch.float32


def refuse_precision(precision: str, device: torch.device) -> None:
    """Raises UserError (exit 2) if a run can't be trained in that precision there."""
    if precision == "tf32" and not _is_ampere(device):
        here = device.type
        if device.type == "cuda":
            here = ".".join(map(str, torch.cuda.get_device_capability(device)))
        raise UserError(
            f"train.precision: tf32: only on CUDA devices of compute capability 8.0 or more, not "
            f"on {here}",
            "use float32",
        )


def _is_ampere(device: torch.device) -> bool:
    """Whether the device has units for bfloat16 and TF32."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


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
