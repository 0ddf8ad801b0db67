"""How much main memory this process may still take, keeping what it has, and its peak.

Linux gives memory that it doesn't have, and kills who uses it: what is too large must be refused
before.
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
    """What is free, of the machine and of the container; None where it can't be known."""
    known = (_bytes_in(MEMINFO, "MemAvailable"), _cgroup_available())
    limits = [limit for limit in known if limit is not None]
    if not limits and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    return min(limits, default=None)


def reuse_memory() -> None:
    """Has this process keep the memory that it frees; to be called before PyTorch is imported.

    A training step frees and takes the same memory each time; getting it from Linux anew, page by
    page and zeroed, takes a fifth of a step of RegularConvNet. What is larger than 32 MB can't be
    kept, but taken in huge pages: that halves a step of dense weights.
    """
    os.environ.setdefault(HUGE_PAGES, "1")
    mallopt = _glibc("mallopt")
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
        mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that it takes


def peak_bytes() -> int | None:
    """The most main memory that this process has had at a time since `forget_peak`.

    Where that can't be called, since it began; None where even that can't be known.
    """
    peak = _bytes_in(STATUS, "VmHWM")  # Linux's getrusage counts who started us, too
    if peak is not None or sys.platform != "darwin":
        return peak
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak() -> bool:
    """Gives back what is kept and begins a new peak; False where Linux doesn't let us."""
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def _glibc(name: str) -> Any:
    """A function of the C library; None where that isn't glibc."""
    return None if sys.platform == "win32" else getattr(ctypes.CDLL(None), name, None)


def _bytes_in(path: Path, name: str) -> int | None:
    """A size that Linux's kernel gives in kB; None where there is none."""
    with contextlib.suppress(OSError, KeyError):
        sizes = dict(line.split(":", 1) for line in path.read_text().splitlines())
        return int(sizes[name].split()[0]) * 1024
    return None


def _cgroup_available() -> int | None:
    """What a container's limit leaves (cgroup v2); cached files give way where memory is needed."""
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
        sizes = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    cached = int(sizes.get("active_file", 0)) + int(sizes.get("inactive_file", 0))
    return None if limit == "max" else int(limit) - used + cached
