"""Which cores count: those of the affinity, and of them what a container's quota allows."""

import os
from pathlib import Path

import pytest

from sfl import cores


@pytest.mark.parametrize(
    ("told", "expected"),
    [("200000 100000", 2), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", 8), (None, 8)],
)
def test_the_quota_of_a_container_counts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str | None, expected: int
) -> None:
    if told is not None:
        (tmp_path / "cpu.max").write_text(f"{told}\n")
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert cores.usable_cores() == expected
