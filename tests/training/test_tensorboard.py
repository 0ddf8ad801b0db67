"""Metrics for TensorBoard: what its own reader finds, resumed or not; nothing unless asked for."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util import tensor_util

from sfl.errors import Exit, UserError
from sfl.runs.directory import Run
from sfl.training.fit import fit
from tests.training.tiny import interrupted_after, new_run, tiny_setup

WITH = "train.tensorboard=true"


def scalars(run: Run) -> dict[tuple[str, int], float]:
    (file,) = (run.path / "tensorboard").iterdir()
    found: dict[tuple[str, int], float] = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            assert (value.tag, event.step) not in found, "written twice"
            found[value.tag, event.step] = float(tensor_util.make_ndarray(value.tensor))
    return found


def expected(run: Run) -> dict[tuple[str, int], Any]:
    return {
        (name, line["epoch"]): pytest.approx(value, rel=1e-6)
        for line in Run(run.path).metrics
        for name, value in line.items()
        if name != "epoch" and value is not None  # a peak that can't be known
    }


def test_the_metrics_are_there_under_their_names(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup(WITH, "data.validation=20"), run)
    assert scalars(run) == expected(run)
    assert ("validation_accuracy", 3) in scalars(run)


def test_a_resumed_run_has_each_epoch_once(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with interrupted_after(2):
        fit(tiny_setup(WITH), run)
    assert scalars(run) == expected(run) and len(Run(run.path).metrics) == 2
    fit(tiny_setup(WITH), run)
    assert scalars(run) == expected(run) and len(Run(run.path).metrics) == 3


def test_the_leak_of_dense_storage_is_there_layer_by_layer(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup(WITH, "model.storage=dense", "model.channels=[1]"), run)
    shares = [line["outside_share"]["features.0"] for line in Run(run.path).metrics]
    assert 0 < shares[0] < shares[1] < shares[2] < 1
    found = scalars(run)
    assert [found["outside_share/features.0", n] for n in (1, 2, 3)] == pytest.approx(shares)


def test_never_on_by_itself(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup(), run)
    assert not (run.path / "tensorboard").exists()


def test_without_tensorboard_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfl.training.tensorboard.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        tiny_setup(WITH)
    assert caught.value.exit_code is Exit.USAGE
    assert str(caught.value) == (
        "train.tensorboard needs TensorBoard, which is not there (install it: pip install "
        "'sfl[tensorboard]')"
    )


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    (run.path / "tensorboard").write_text("")
    with pytest.raises(UserError, match=r"tensorboard/events.*: can't be written"):
        fit(tiny_setup(WITH), run)
