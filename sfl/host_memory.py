"""Main memory: how much is free, how to reuse it, and the peak of this process.

Linux allocates more memory than it has, and kills the process that uses it. So work that is too
large must be refused before it starts.
"""

import contextlib
import ctypes
import os
import sys
from pathlib import Path
from typing import Any

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # PyTorch's own switch for them
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
MEMINFO, CGROUP = Path("/proc/meminfo"), Path("/sys/fs/cgroup")
STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def available_bytes() -> int | None:
    """Free bytes, the smaller of the machine's and the container's; None if unknown."""
    known = (_bytes_in(MEMINFO, "MemAvailable"), _cgroup_available())
    limits = [limit for limit in known if limit is not None]
    if not limits and "SC_PHYS_PAGES" in os.sysconf_names:
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min(limits, default=None)


def reuse_memory() -> None:
    """Makes this process keep the memory that it frees. Call it before PyTorch is imported.

    Each training step frees and allocates the same memory. If Linux has to provide it again, page
    by page and filled with zeros, that takes a fifth of a step of RegularConvNet. Blocks above
    32 MB can't be kept; they use huge pages, which halves the time of a step with dense weights.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the largest value allowed


def peak_bytes() -> int | None:
    """The peak of this process's memory since `forget_peak`; None if unknown.

    If `forget_peak` did not work, the peak since the process started.
    """
    peak = _bytes_in(STATUS, "VmHWM")  # getrusage would count the parent process, too
    if peak is not None or sys.platform != "darwin":
        return peak
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> bool:
    """Returns unused memory to the system and resets the peak; False if that is not possible."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _glibc(name: str) -> Any:
    """A function of the C library; None if it has none of that name (not glibc)."""
    return getattr(ctypes.CDLL(None), name, None)


def _bytes_in(path: Path, name: str) -> int | None:
    """A size that Linux's kernel gives in kB; None where there is none."""
    with contextlib.suppress(OSError, KeyError):
        sizes = dict(line.split(":", 1) for line in path.read_text().splitlines())
        return int(sizes[name].split()[0]) * 1024
    return None


def _cgroup_available() -> int | None:
    """Free bytes under the container's limit (cgroup v2), with the file cache counted as free."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        sizes = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    cached = int(sizes.get("active_file", 0)) + int(sizes.get("inactive_file", 0))
    return None if limit == "max" else int(limit) - used + cached
