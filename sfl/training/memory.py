"""Whether a training run fits into memory, before it is tried; and knowing it when it didn't."""

import os
from pathlib import Path

import torch

from sfl.config import OptimizerSettings
from sfl.errors import Exit, UserError
from sfl.nn.summary import ModelSummary

GB = 1e9
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")


def training_bytes(
    summary: ModelSummary, batch_size: int, optimizer: OptimizerSettings, precision: str
) -> int:
    """What a step holds at least, at the larger of its two peaks.

    Always the weights and the optimizer's moments; at the end of the forward pass the
    activations that wait for the backward pass, at the end of that the gradients.
    """
    moments = 2 if optimizer.name.startswith("adam") else 1 if optimizer.momentum else 0
    activation_bytes = 2 if precision == "bfloat16" else 4
    activations = activation_bytes * summary.activations * batch_size
    return summary.bytes * (1 + moments) + max(summary.bytes, activations)


def available_bytes(device: torch.device) -> int | None:
    """Memory that is free on the device; None where it can't be known."""
    if device.type == "cuda":
        # What torch keeps of earlier models is free for this one.
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    limits = [limit for limit in (_linux_available(), _cgroup_available()) if limit is not None]
    if not limits and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min(limits, default=None)


def check_memory(
    summary: ModelSummary,
    batch_size: int,
    optimizer: OptimizerSettings,
    device: torch.device,
    precision: str,
) -> None:
    """Raises UserError (exit 6) for a model that can't be trained here."""
    needed = training_bytes(summary, batch_size, optimizer, precision)
    free = available_bytes(device)
    if free is not None and needed > free:
        raise UserError(
            f"training this model takes at least {needed / GB:.1f} GB "
            f"({summary.weights:,} weights, batch {batch_size}), {device.type} has "
            f"{free / GB:.1f} GB free",
            "choose storage: local, fewer channels or a smaller batch",
            Exit.RESOURCES,
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python ran out of memory: CPU allocations raise a plain RuntimeError."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "not enough memory" in text or "can't allocate memory" in text or "out of memory" in text
    )


def _linux_available() -> int | None:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines)
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None


def _cgroup_available() -> int | None:
    """What a container's limit leaves (cgroup v2); cached files give way where memory is needed."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        lines = (CGROUP / "memory.stat").read_text().splitlines()
    except (OSError, ValueError):
        return None
    sizes = dict(line.split() for line in lines)
    cached = int(sizes.get("active_file", 0)) + int(sizes.get("inactive_file", 0))
    return None if limit == "max" else int(limit) - used + cached
