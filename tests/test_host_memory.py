"""What is free: of the machine, of a container, and where there is no /proc."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sfl import host_memory
from sfl.host_memory import available_bytes


def write_cgroup(folder: Path, limit: str, current: int, active: int, inactive: int) -> None:
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    stat = f"anon 5\nfile 9\nactive_file {active}\ninactive_file {inactive}\n"
    (folder / "memory.stat").write_text(stat)


def test_the_smallest_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       100 kB\nMemFree:        10 kB\nMemAvailable:   70 kB\n")
    monkeypatch.setattr(host_memory, "MEMINFO", meminfo)
    monkeypatch.setattr(host_memory, "CGROUP", tmp_path)
    assert available_bytes() == 70 * 1024
    write_cgroup(tmp_path, "max", 10, 0, 0)
    assert available_bytes() == 70 * 1024
    # A container's: cached files count as used, but give way.
    write_cgroup(tmp_path, "50000", 30000, 4000, 1000)
    assert available_bytes() == 50000 - 30000 + 5000
    write_cgroup(tmp_path, "9000000", 30000, 0, 0)
    assert available_bytes() == 70 * 1024


def test_where_there_is_no_proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(host_memory, "CGROUP", tmp_path / "none")
    monkeypatch.setattr(os, "sysconf_names", {"SC_PHYS_PAGES": 1, "SC_PAGE_SIZE": 2})
    sizes = {"SC_PHYS_PAGES": 7, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(os, "sysconf", lambda name: sizes[name])
    assert available_bytes() == 7 * 4096
    monkeypatch.setattr(os, "sysconf_names", {})
    assert available_bytes() is None


@pytest.mark.skipif(sys.platform != "linux", reason="counts page faults as Linux does")
def test_freed_memory_is_taken_again() -> None:
    code = """
import resource
from sfl.host_memory import reuse_memory
reuse_memory()
import torch

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(5):  # 20 MB: more than glibc would keep by itself
    before = faults()
    torch.zeros(5_000_000)
print(faults() - before)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100  # of 5,000 pages


LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


@LINUX
def test_a_peak_is_known_and_can_be_forgotten() -> None:
    """In a process of its own: others' memory must not come and go meanwhile."""
    code = (
        "from sfl.host_memory import forget_peak, peak_bytes\n"
        "forget_peak(); before = peak_bytes()\n"
        "held = bytearray(200_000_000); held[::4096] = b'x' * len(held[::4096]); del held\n"
        "peak = peak_bytes(); known = forget_peak()\n"
        "print(peak - before, peak_bytes() - before, known)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    most, after, known = done.stdout.split()
    assert known == "True"
    assert 190_000_000 < int(most) < 230_000_000
    assert int(after) < 20_000_000


def test_a_peak_that_linux_does_not_let_us_forget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "CLEAR_REFS", tmp_path / "none" / "none")
    assert not host_memory.forget_peak()


def test_a_peak_that_cannot_be_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_memory, "STATUS", tmp_path / "none")
    monkeypatch.setattr(sys, "platform", "other")
    assert host_memory.peak_bytes() is None
