"""What `sfl runs` says of a run: a whole one, one under way, a damaged one."""

from pathlib import Path

import pytest

from sfl.errors import UserError
from sfl.runs import store
from sfl.runs.directory import Run
from sfl.runs.listing import describe
from tests.conftest import make_run


def test_a_run_in_short(runs_dir: Path) -> None:
    path = make_run(runs_dir / "a", accuracy=0.625)
    size = sum(file.stat().st_size for file in path.iterdir())
    described = describe(Run(path))
    assert 0 <= described.pop("age_seconds") < 1000
    assert described == {
        "run": "a", "status": "finished", "failure": None, "epochs_done": 1, "epochs": 1,
        "accuracy": 0.625, "accuracy_of": "test", "bytes": size,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", b'{"epoch": 1}\n{"epo'),
        ("metrics.jsonl", b"3\n"),
        ("metrics.jsonl", b"\xff\xfe"),
        ("result.json", b"{"),
        ("result.json", b"[1]"),
        ("result.json", b"[" * 100_000),
        ("result.json", b"{}"),
        ("config.yaml", b"{"),
        ("config.yaml", b"train: 3"),
    ],
)
def test_a_damaged_run_does_not_hide_the_others(runs_dir: Path, name: str, content: bytes) -> None:
    make_run(runs_dir / "whole")
    (make_run(runs_dir / "broken") / name).write_bytes(content)
    described = [describe(run) for run in store.list_runs(runs_dir)]
    assert {row["run"]: row["status"] for row in described} == {
        "whole": "finished",
        "broken": "damaged",
    }
    store.remove(store.find(runs_dir, "broken"))


def test_a_failed_run_says_why(runs_dir: Path) -> None:
    path = make_run(runs_dir / "a")
    (path / "result.json").unlink()
    Run(path).write_failure(UserError("training diverged: loss nan", "lower optimizer.lr"))
    described = describe(Run(path))
    assert described["status"] == "failed"
    assert described["failure"] == "training diverged: loss nan (lower optimizer.lr)"
