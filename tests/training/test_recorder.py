"""What is written when: checkpoints that are due, the environment, why a run failed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sfl.errors import Exit, UserError
from sfl.nn.engine import choice
from sfl.runs.directory import (
    BEST,
    CONFIG,
    ENVIRONMENT,
    LABELS,
    LAST,
    METRICS,
    PREDICTIONS,
    RESULT,
    Run,
)
from sfl.runs.store import find
from sfl.training import fit as fitting
from sfl.training import recorder as recording
from sfl.training.checkpoint import Checkpoint
from sfl.training.environment import engine_of, environment
from sfl.training.fit import fit
from sfl.training.recorder import Recorder, is_best
from sfl.training.setup import set_up
from tests.training.tiny import (
    interrupted_after,
    new_run,
    random_dataset,
    tiny_config,
    tiny_setup,
)


def test_keep_weights_drops_what_only_resuming_needs(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    fit(tiny_setup("train.keep=weights", "train.epochs=1"), run)
    written = {path.name for path in run.path.iterdir()}
    assert written == {CONFIG, ENVIRONMENT, METRICS, BEST, RESULT, PREDICTIONS, LABELS}


def test_checkpoints_come_when_they_are_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved: list[tuple[str, int]] = []
    original = recording.write_checkpoint  # type: ignore[attr-defined]

    def spy(checkpoint: Checkpoint) -> None:
        path = checkpoint.path
        saved.append((path.name, len(Run(path.parent).metrics) + 1))
        original(checkpoint)

    monkeypatch.setattr(recording, "write_checkpoint", spy)
    fit(tiny_setup("train.epochs=5", "train.checkpoint_every=2"), new_run(tmp_path))
    assert saved == [(name, epoch) for epoch in (2, 4, 5) for name in (BEST, LAST)]

    saved.clear()  # the epoch of the best weights is never lost to a run that is gone on with
    monkeypatch.setattr(recording, "is_best", lambda metrics: len(metrics) == 3)
    few = ["train.epochs=5", "train.checkpoint_every=4", "data.validation=10"]
    fit(tiny_setup(*few), new_run(tmp_path, "validated"))
    assert saved == [(BEST, 3), (LAST, 3), (LAST, 4), (LAST, 5)]


def test_is_best_by_hand() -> None:
    def newest(*accuracies: float) -> bool:
        return is_best([{"validation_accuracy": accuracy} for accuracy in accuracies])

    assert newest(0.0) and newest(0.1, 0.2)
    assert not newest(0.2, 0.2) and not newest(0.3, 0.1, 0.2)


def test_where_it_went_on_stands_behind_where_it_began(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, run = tiny_setup(), new_run(tmp_path)
    with interrupted_after(1):
        fit(setup, run)
    assert run.environment is not None and run.environment.resumed == []
    began = run.environment.to_dict()
    elsewhere = environment(torch.device("cpu"), "float32").model_copy(update={"device": "another"})
    monkeypatch.setattr(recording, "environment", lambda *_: elsewhere)
    fit(setup, run)
    assert run.environment.to_dict() == {**began, "resumed": [elsewhere.to_dict()]}


def test_a_run_that_is_stopped_before_its_first_step_can_be_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "build_learner", stop)
    run = new_run(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_setup(), run)
    assert find(tmp_path, run.name) == run


def test_a_failure_is_noted_and_goes_when_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)
    with interrupted_after(1):
        fit(tiny_setup(), run)
    assert run.status == "interrupted" and run.failure is None

    def fail(*_: object) -> None:
        raise UserError(f"{run.path}/x: no space", "free some", Exit.RESOURCES)

    with monkeypatch.context() as patch:
        patch.setattr(fitting, "train_epoch", fail)
        with pytest.raises(UserError):
            fit(tiny_setup(), run)
    assert Run(run.path).status == "failed"
    assert run.failure == "run/x: no space (free some)\n"  # no path of this machine
    with interrupted_after(1):
        fit(tiny_setup(), run)
    assert Run(run.path).status == "interrupted"
    fit(tiny_setup(), run)
    assert Run(run.path).status == "finished" and run.failure is None


def test_of_a_failure_that_is_a_bug_only_its_kind_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path)

    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/tmp/cache_of_somebody/x")

    monkeypatch.setattr(fitting, "train_epoch", fail)
    with pytest.raises(PermissionError):
        fit(tiny_setup(), run)
    assert run.failure == "PermissionError\n"


def test_what_is_recorded_of_a_folder_with_validation_images_and_broken_files(
    tmp_path: Path,
) -> None:
    clean = random_dataset(32, 16)
    seen = {"skipped": {"train/a.png": "broken", "test/b.png": "broken"}}
    dataset = replace(clean, validation=random_dataset(16).train, reading=seen)
    records = []
    for name, images in (("own", dataset), ("none", clean)):
        run = new_run(tmp_path, name)
        fit(set_up(tiny_config("train.epochs=1"), images), run)
        assert run.environment is not None and run.result is not None
        records.append((run.environment.to_dict(), run.result.to_dict()["data"], run.metrics[0]))
    (told, data, line), (told_clean, data_clean, line_clean) = records
    assert told["skipped_images"] == 2 and "skipped_images" not in told_clean
    assert told["data"] == data == {"source": "shapes", **dataset.fingerprints}
    assert set(data) - set(data_clean) == {"validation"}
    assert "validation_accuracy" in line and "validation_accuracy" not in line_clean


def test_another_engine_in_mid_run_is_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a GPU kernel that failed its check: the rest is computed by plain PyTorch."""
    run = new_run(tmp_path)
    original = Recorder.epoch

    def fails(self: Recorder, *given: Any) -> None:
        monkeypatch.setenv("SFL_ENGINE", "reference")
        choice._choose.cache_clear()
        original(self, *given)

    monkeypatch.setattr(Recorder, "epoch", fails)
    before = engine_of(torch.device("cpu"), "float32")
    if before == "reference":
        pytest.skip("there is no C++ compiler")
    try:
        fit(tiny_setup("train.epochs=2"), run)
    finally:
        monkeypatch.undo()
        choice._choose.cache_clear()
    assert run.environment is not None
    assert run.environment.engine == before
    assert [each.engine for each in run.environment.resumed] == ["reference"]
