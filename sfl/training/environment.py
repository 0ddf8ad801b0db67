"""What a run was made with: versions, device, commit. No host, no user, no absolute path."""

import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from sfl import torchrun
from sfl.nn.engine import choose
from sfl.runs.records import Commit, Machine
from sfl.training.device import local_dtype, local_precision

PACKAGES = ("torch", "torchvision", "numpy", "safetensors", "pillow")


def environment(device: torch.device, precision: str) -> Machine:
    """What a run is trained with, for environment.json."""
    return Machine(
        sfl=version("sfl"),
        python=platform.python_version(),
        packages={name: version(name) for name in PACKAGES} | _of_triton(device),
        system=f"{platform.system()} {platform.machine()}",
        device=device_name(device),
        workers=torchrun.count(),
        threads=torch.get_num_threads(),
        precision=precision,  # type: ignore[arg-type]
        local_precision=local_precision(device, precision),  # type: ignore[arg-type]
        engine=engine_of(device, precision),
        git=_git(),
    )


def engine_of(device: torch.device, precision: str) -> str:
    """The name of the engine that computes local layers there."""
    return choose(device, local_dtype(device, precision))[0].NAME


def device_name(device: torch.device) -> str:
    """The device in words: a GPU's name, or the processor's with its instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"{platform.processor()} (MPS)"
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"


def _of_triton(device: torch.device) -> dict[str, str]:
    """Its version, where it may compute."""
    try:
        return {"triton": version("triton")} if device.type == "cuda" else {}
    except PackageNotFoundError:
        return {}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git() -> Commit | None:
    """The commit of the checkout that this code runs from; None outside of one."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None
    commit = _ask_git(root, "rev-parse", "HEAD")
    # Only the code counts: a run must not look changed because results lie beside it.
    status = _ask_git(root, "status", "--porcelain", "--", "sfl")
    return Commit(commit=commit, clean=status == "") if commit else None


def _ask_git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
