"""Metrics for TensorBoard: what its own reader finds, resumed or not; nothing unless asked for."""

import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sfl.errors import Exit, UserError
from sfl.runs.directory import Run
from sfl.training.fit import fit
from sfl.training.tensorboard import FILE, write_events
from tests.training.tiny import interrupted_after, new_run, tiny_setup

WITH = "train.tensorboard=true"


def scalars(run: Run) -> dict[tuple[str, int], float]:
    reader = EventAccumulator(str(run.path / "tensorboard"), {"scalars": 0})  # 0: all of them
    reader.Reload()
    found: dict[tuple[str, int], float] = {}
    for tag in reader.Tags()["scalars"]:
        times = [event.wall_time for event in reader.Scalars(tag)]
        assert times == sorted(times)
        for event in reader.Scalars(tag):
            assert (tag, event.step) not in found, "written twice"
            found[tag, event.step] = event.value
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
    assert [path.name for path in (run.path / "tensorboard").iterdir()] == [FILE]


def test_a_resumed_run_has_each_epoch_once(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    with interrupted_after(2):
        fit(tiny_setup(WITH), run)
    assert scalars(run) == expected(run) and len(Run(run.path).metrics) == 2
    fit(tiny_setup(WITH), run)
    assert scalars(run) == expected(run) and len(Run(run.path).metrics) == 3


def test_a_reader_sees_each_epoch_as_it_is_written(tmp_path: Path) -> None:
    run, lines = (
        new_run(tmp_path),
        [{"epoch": n, "seconds": 1.0, "loss": 1 / n} for n in range(1, 4)],
    )
    write_events(run, lines[:1])
    reader = EventAccumulator(str(run.path / "tensorboard"))
    for count in (1, 2, 3):
        write_events(run, lines[:count], count - 1)
        reader.Reload()
        assert [event.step for event in reader.Scalars("loss")] == [1, 2, 3][:count]


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


def test_training_itself_does_not_import_it() -> None:
    code = "import sys, sfl.training.fit; sys.exit('tensorboard' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_without_tensorboard_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfl.training.tensorboard.find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        tiny_setup(WITH)
    assert caught.value.exit_code is Exit.USAGE
    assert str(caught.value) == (
        "train.tensorboard needs TensorBoard, which is not there "
        "(install it: pip install tensorboard)"
    )


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    run = new_run(tmp_path)
    (run.path / "tensorboard").write_text("")
    with pytest.raises(UserError, match=r"tensorboard/events.*: can't be written"):
        fit(tiny_setup(WITH), run)


LINE = {"epoch": 1, "seconds": 1.0, "train_loss": 2.0}


def test_a_temporary_folder_that_is_gone_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    with pytest.raises(UserError, match=r"/gone: can't be written: No such file") as caught:
        write_events(new_run(tmp_path), [LINE])
    assert caught.value.exit_code is Exit.RUN


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_full_temporary_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    try:
        (folder / "other").write_bytes(bytes(4096))
        monkeypatch.setattr("tempfile.tempdir", str(folder))
        with pytest.raises(UserError, match=r"/small: no space left on the disk") as caught:
            write_events(new_run(tmp_path), [LINE])
        for thread in threading.enumerate():  # the writer's dies of the same error: here, not later
            if thread is not threading.current_thread():
                thread.join(10)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert caught.value.exit_code is Exit.RESOURCES
