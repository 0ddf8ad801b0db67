"""What `sfl runs` says of a run: a whole one, a damaged one; by which accuracy it is judged."""

from pathlib import Path

import pytest

from sfl.config.load import from_text
from sfl.errors import UserError
from sfl.runs import store
from sfl.runs.directory import Run
from sfl.runs.listing import best, describe, judged_on, will_be_logged
from tests.conftest import TINY, make_run


def test_a_run_in_short(runs_dir: Path) -> None:
    path = make_run(runs_dir / "a", accuracy=0.625)
    size = sum(file.stat().st_size for file in path.iterdir())
    described = describe(Run(path))
    assert 0 <= described.pop("age_seconds") < 1000
    assert described == {
        "run": "a", "status": "finished", "failure": None, "epochs_done": 1, "epochs": 1,
        "accuracy": 0.625, "accuracy_of": "test", "bytes": size,
        "model": "SimpleModel, spatial", "images": "shapes",
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


@pytest.mark.parametrize(
    ("lines", "finished", "accuracy"),
    [
        ([], False, (None, None)),
        ([{}], False, (None, None)),
        ([{"test_accuracy": 0.3}, {"test_accuracy": 0.2}], False, (0.3, "test")),
        ([{"test_accuracy": 0.3}], True, (0.5, "test")),
        ([{"validation_accuracy": 0.7, "test_accuracy": 0.3}], True, (0.7, "validation")),
        ([{"validation_accuracy": 0.7}, {"validation_accuracy": 0.6}], False, (0.7, "validation")),
    ],
)
def test_the_best_accuracy_is_on_validation_images_else_on_test_images(
    runs_dir: Path, lines: list[dict[str, float]], finished: bool, accuracy: tuple[object, object]
) -> None:
    path = make_run(runs_dir / "a", accuracy=0.5)
    (whole,) = Run(path).metrics
    Run(path).write_metrics([whole | line for line in lines])
    if not finished:
        (path / "result.json").unlink()
    assert best(Run(path)) == accuracy


@pytest.mark.parametrize(
    ("settings", "images"),
    [
        (["data: {validation: 9}", "data: {validation: 9}\ntrain: {test_every: 1}"], "validation"),
        (["train: {test_every: 1}", "data: {validation: 9}\ntrain: {test_every: 1}"], "test"),
        (["data: {validation: 9}", "train: {test_every: 1}"], None),
    ],
)
def test_runs_are_judged_on_images_that_all_of_them_log(
    settings: list[str], images: str | None
) -> None:
    configs = [from_text(f"model: {{name: SimpleModel}}\n{text}\n", "c.yaml") for text in settings]
    assert judged_on(*map(will_be_logged, configs)) == images


def test_images_from_a_folder_are_named_by_its_last_part(runs_dir: Path) -> None:
    config = TINY.replace(
        "source: shapes, shapes: {train: 64, test: 32}", "source: folder, root: ../my/flowers"
    )
    assert describe(Run(make_run(runs_dir / "a", config)))["images"] == "folder flowers"
