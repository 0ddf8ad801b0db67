"""Accuracy on validation images, if all runs have it, else on test images."""

from pathlib import Path

import pytest

from sfl.config.load import from_text
from sfl.runs.accuracy import best, judged_on, will_be_logged
from sfl.runs.directory import Run
from tests.conftest import make_run


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
