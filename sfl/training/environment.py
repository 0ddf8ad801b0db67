"""What a run was made with: versions, device, commit. No host, no user, no absolute path."""

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sfl import torchrun
from sfl.nn import engine

PACKAGES = ("torch", "torchvision", "numpy", "safetensors", "pillow")


def environment(device: torch.device, precision: str) -> dict[str, Any]:
    """environment.json of a run directory."""
    return {
        "sfl": version("sfl"),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "device": device_name(device),
        "workers": torchrun.count(),
        "threads": torch.get_num_threads(),
        "precision": precision,
        "engine": engine.report(device),
        "git": _git(),
    }


def device_name(device: torch.device) -> str:
    """The device in words: a GPU's name, or the processor's with its instruction set."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return f"{platform.processor()} (MPS)"
    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _git() -> dict[str, Any] | None:
    """The commit of the checkout that this code runs from; None outside of one."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():
        return None
    commit = _ask_git(root, "rev-parse", "HEAD")
    # Only the code counts: a run must not look changed because results lie beside it.
    status = _ask_git(root, "status", "--porcelain", "--", "sfl")
    return None if not commit else {"commit": commit, "clean": status == ""}


def _ask_git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
