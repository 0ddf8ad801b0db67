"""What a run writes is as described, and runs of earlier versions are read."""

import json
from pathlib import Path
from typing import Any

import pytest

from sfl.errors import Exit, UserError
from sfl.runs.directory import Run
from sfl.runs.records import Environment, Epoch, Result
from tests.conftest import ENVIRONMENT

RESULTS = sorted((Path(__file__).parents[2] / "docs" / "results").glob("*/"))
EPOCH: dict[str, Any] = {
    "epoch": 1, "train_loss": 2.0, "train_accuracy": 0.5, "lr": 3e-4, "seconds": 2.0,
    "images_per_second": 32.0,
}  # fmt: skip


def test_a_run_writes_the_described_fields_and_no_others(trained: Path) -> None:
    run, line = Run(trained), Run(trained).metrics[0]
    assert line.keys() <= Epoch.model_fields.keys()
    for name, record in (("result.json", run.result), ("environment.json", run.environment)):
        assert record is not None
        assert not record.model_extra, name
        assert record.to_dict() == json.loads((trained / name).read_text())


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_runs_of_earlier_versions_are_read_and_kept_as_they_are(folder: Path) -> None:
    run = Run(folder)
    assert run.result is not None and run.environment is not None and run.metrics
    assert run.result.to_dict() == json.loads((folder / "result.json").read_text())
    assert run.environment.to_dict() == json.loads((folder / "environment.json").read_text())


def test_absent_fields_stay_absent_null_stays_null_and_unknown_ones_are_kept() -> None:
    assert Epoch(**EPOCH).to_dict() == EPOCH
    more = EPOCH | {"peak_memory_bytes": None, "sleep": {"steps": 3}}
    assert Epoch(**more).to_dict() == more
    resumed = ENVIRONMENT | {"resumed": [ENVIRONMENT | {"device": "another"}]}
    assert Environment.check(resumed, "").to_dict() == resumed


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (Epoch, {"lr": "0.1"}),
        (Epoch, {"train_loss": float("nan")}),
        (Epoch, {"test_accuracy": 1.5}),
        (Environment, {"precision": "float33"}),
        (Environment, {"resumed": 5}),
        (Environment, {"data": {"source": "shapes"}}),
    ],
)
def test_what_is_wrong_is_named(kind: type[Epoch | Environment], wrong: dict[str, Any]) -> None:
    whole = EPOCH if kind is Epoch else ENVIRONMENT
    with pytest.raises(UserError) as caught:
        kind.check(whole | wrong, "file")
    assert caught.value.exit_code is Exit.RUN
    assert str(caught.value).startswith(f"file: missing or wrong: {next(iter(wrong))} (")


def test_an_empty_object_lacks_what_all_versions_wrote() -> None:
    with pytest.raises(UserError) as caught:
        Result.check({}, "file")
    assert "missing or wrong: model, accuracy" in str(caught.value)
    assert "peak_memory_bytes" not in str(caught.value)
