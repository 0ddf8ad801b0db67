"""What is odd in a run's result is said in a line."""

import json
from pathlib import Path

import numpy as np
import pytest

from sfl.comparison.results import read_result
from sfl.errors import Exit, UserError
from sfl.runs.directory import Run
from tests.conftest import make_run


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_result(Run(path))
    assert caught.value.exit_code is Exit.RUN
    return str(caught.value)


def test_a_whole_one(tmp_path: Path) -> None:
    found = read_result(Run(make_run(tmp_path / "a", right=[True, False, True, True])))
    assert found.result.accuracy == 0.75 and found.result.n == 4
    assert found.correct.tolist() == [True, False, True, True]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"accuracy": "high"}, "accuracy"),
        ({"accuracy": 1.5}, "accuracy"),
        ({"accuracy": float("nan")}, "accuracy"),
        ({"loss": None}, "loss"),
        ({"accuracy_interval": [0.1]}, "accuracy_interval"),
        ({"accuracy_interval": ["a", "b"]}, "accuracy_interval"),
        ({"data": {"source": "shapes"}}, "data"),
        ({"epochs": True}, "epochs"),
        ({"epochs": "1"}, "epochs"),
        ({"epochs": 0}, "epochs"),
        ({"peak_memory_bytes": -1}, "peak_memory_bytes"),
    ],
)
def test_a_result_of_wrong_types_is_named(
    tmp_path: Path, wrong: dict[str, object], named: str
) -> None:
    path = make_run(tmp_path / "a", right=[True, False])
    run = Run(path)
    values = json.loads((path / "result.json").read_text())
    run.write_json("result.json", values | wrong)
    assert refusal(path) == (
        f"{path / 'result.json'}: missing or wrong: {named} "
        "(perhaps another version of sfl wrote it; the run can be trained again)"
    )


def test_a_run_that_has_not_finished_is_refused(tmp_path: Path) -> None:
    path = make_run(tmp_path / "a")
    (path / "result.json").unlink()
    assert refusal(path) == f"{path}: has not finished"


@pytest.mark.parametrize("name", ["predictions.npy", "labels.npy"])
def test_a_run_without_predictions_is_refused(tmp_path: Path, name: str) -> None:
    path = make_run(tmp_path / "a")
    (path / name).unlink()
    assert refusal(path).startswith(f"{path / name}: not found (a comparison needs the answer")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no array",
        np.zeros(99, dtype=np.int64),
        np.zeros(100),
        np.zeros((100, 1), dtype=np.int64),
        np.zeros(100, dtype=np.int64),  # another accuracy than the result's
        np.array([None] * 100, dtype=object),
    ],
    ids=["empty", "text", "shorter", "floats", "two dimensions", "others", "pickled"],
)
def test_damaged_predictions_are_named(tmp_path: Path, content: object) -> None:
    path = make_run(tmp_path / "a", accuracy=0.6)
    if isinstance(content, bytes):
        (path / "predictions.npy").write_bytes(content)
    else:
        np.save(path / "predictions.npy", content)  # type: ignore[arg-type]
    assert refusal(path).startswith(f"{path / 'predictions.npy'}: damaged (put it back")
