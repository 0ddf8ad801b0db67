"""The processor's cores that this process may use: fewer than the machine's in a container."""

import contextlib
import os
from pathlib import Path

QUOTA = Path("/sys/fs/cgroup/cpu.max")  # of a container, on Linux


def usable_cores() -> int:
    """By the process's affinity, and by the quota of a container; at least 1."""
    found = os.cpu_count() or 1
    with contextlib.suppress(AttributeError):  # not on macOS
        found = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError):  # cgroup v2; "max" is no number
        quota, period = QUOTA.read_text().split()
        found = min(found, max(1, int(quota) // int(period)))
    return found
