"""A full disk, lost permissions, a removed folder: the last checkpoint stays, one line says why."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from safetensors import SafetensorError

from sfl.comparison import plan
from sfl.comparison.train_missing import train_missing
from sfl.errors import Exit, UserError
from sfl.runs.directory import BEST, LAST, Run
from sfl.training import checkpoint as checkpoints
from sfl.training import fit as fitting
from sfl.training import recorder as recording
from sfl.training import start
from sfl.training.checkpoint import read_checkpoint
from sfl.training.fit import fit
from sfl.training.memory import checkpoint_bytes, disk_bytes
from sfl.training.setup import set_up
from tests.training.tiny import (
    SIMPLE,
    SPATIAL,
    interrupted_after,
    metrics,
    new_run,
    same,
    tensors,
    tiny_config,
    tiny_setup,
)


def full(*arguments: object, **keywords: object) -> NoReturn:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_as_safetensors_says_it(*arguments: object) -> NoReturn:
    raise SafetensorError(
        "Error while serializing: I/O error: No space left on device (os error 28)"
    )


def denied(*arguments: object, **keywords: object) -> NoReturn:
    raise OSError(errno.EACCES, os.strerror(errno.EACCES))


@pytest.fixture
def begun(tmp_path: Path) -> Run:
    """A run that was stopped after its first epoch."""
    run = new_run(tmp_path, "begun")
    with interrupted_after(1):
        fit(tiny_setup(base=SPATIAL), run)
    return Run(run.path)


def breaking_in(epoch: int, monkeypatch: pytest.MonkeyPatch, breaks: Callable[[], Any]) -> None:
    """Has `breaks` called before that epoch is saved."""
    measure = fitting.measure  # type: ignore[attr-defined]

    def looking(setup: Any, learner: Any, number: int) -> Any:
        if number == epoch:
            breaks()
        return measure(setup, learner, number)

    monkeypatch.setattr(fitting, "measure", looking)


@pytest.mark.parametrize(
    ("module", "name", "fails", "code", "line"),
    [
        (checkpoints, "save_file", full_as_safetensors_says_it, Exit.RESOURCES, "no space left"),
        (os, "fsync", full, Exit.RESOURCES, "no space left on the disk"),
        (os, "replace", full, Exit.RESOURCES, "no space left on the disk"),
        (os, "replace", denied, Exit.RUN, "can't be written: Permission denied"),
        (os, "fsync", denied, Exit.RUN, "can't be written: Permission denied"),
    ],
    ids=["full at write", "full at fsync", "full at replace", "denied replace", "denied fsync"],
)
def test_a_failing_write_leaves_the_last_checkpoint_and_one_line(
    module: Any,
    name: str,
    fails: Callable[..., Any],
    code: Exit,
    line: str,
    begun: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {file: (begun.path / file).read_bytes() for file in (LAST, BEST, "metrics.jsonl")}
    with monkeypatch.context() as patch:
        breaking_in(2, patch, lambda: patch.setattr(module, name, fails))
        with pytest.raises(UserError) as caught:
            fit(tiny_setup(base=SPATIAL), Run(begun.path))
    assert caught.value.exit_code is code
    told = str(caught.value)
    assert str(begun.path) in told and line in told and "\n" not in told
    assert code is not Exit.RESOURCES or (" bytes needed, " in told and " free)" in told)
    assert before == {file: (begun.path / file).read_bytes() for file in before}
    assert not [path for path in begun.path.iterdir() if ".tmp" in path.name]
    fit(tiny_setup(base=SPATIAL), Run(begun.path))
    straight = new_run(tmp_path, "straight")
    fit(tiny_setup(base=SPATIAL), straight)
    assert same(tensors(straight), tensors(begun)) and metrics(straight) == metrics(begun)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 MB, where one may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64m", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system may be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, setup = new_run(small_disk), tiny_setup("model.channels=[40]", "train.epochs=9")
    monkeypatch.setattr(recording, "check_space", lambda *_: None)
    room = small_disk / "others"
    breaking_in(
        2, monkeypatch, lambda: room.write_bytes(bytes(shutil.disk_usage(room.parent).free))
    )
    with pytest.raises(UserError, match=r"no space left on the disk \([\d,]+ bytes needed, 0 free"):
        fit(setup, run)
    room.unlink()
    reached = read_checkpoint(run.path / LAST).metrics
    assert reached is not None and len(reached) == 1
    monkeypatch.setattr(fitting, "measure", lambda *_: {})
    fit(setup, Run(run.path))


def test_a_folder_that_is_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "a"
    breaking_in(2, monkeypatch, lambda: shutil.rmtree(run))
    with pytest.raises(UserError) as caught:
        start.train(tiny_config(), tmp_path / "runs", "a")
    assert caught.value.exit_code is Exit.RUN
    assert f"{run}/" in str(caught.value) and "No such file or directory" in str(caught.value)


# --- before the first epoch


def free(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sfl.files.shutil.disk_usage", lambda _: SimpleNamespace(free=count, total=10**9)
    )


def test_two_checkpoints_must_fit_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, setup = tiny_config(), tiny_setup()
    _, needed = disk_bytes(setup.summary, config)
    free(needed - 1, monkeypatch)
    monkeypatch.setattr(fitting, "train_epoch", full)  # not reached
    with pytest.raises(UserError) as caught:
        start.train(config, tmp_path, "a")
    assert caught.value.exit_code is Exit.RESOURCES
    assert str(caught.value) == (
        f"{tmp_path / 'a'}: no space left on the disk ({needed:,} bytes needed, {needed - 1:,} "
        "free) (free some space, or choose another folder)"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_run_never_takes_more_than_was_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup, run, replace, taken = (
        tiny_setup("model.channels=[40]"),
        new_run(tmp_path),
        os.replace,
        [],
    )

    def counting(*given: Any) -> None:
        taken.append(run.bytes)
        replace(*given)

    monkeypatch.setattr(os, "replace", counting)
    fit(setup, run)
    stays, most = disk_bytes(setup.summary, setup.config)
    assert most <= max(taken) < most + 60_000 and stays <= run.bytes < stays + 60_000
    assert run.checkpoint_bytes < run.bytes


def test_a_comparison_counts_what_its_runs_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, channels in (("a", 2), ("b", 3)):
        text = SIMPLE.replace("channels: [2]", f"channels: [{channels}]")
        Path(f"{name}.yaml").write_text(text)
    found = plan.plan(["a.yaml", "b.yaml"], ["train.keep=weights"], 2, tmp_path / "runs")
    sizes = []
    for experiment in found:
        setup = set_up(experiment.config)
        sizes += [disk_bytes(setup.summary, setup.config)] * 2
    needed = sum(stays for stays, _ in sizes[:3]) + sizes[3][1]
    monkeypatch.setattr(start, "train", full)  # not reached
    free(needed - 1, monkeypatch)
    with pytest.raises(UserError, match=rf"\({needed:,} bytes needed"):
        train_missing(found, tmp_path / "runs")


def test_going_on_the_last_checkpoint_is_there_already(
    begun: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = tiny_setup(base=SPATIAL)
    free(checkpoint_bytes(setup.summary, setup.config), monkeypatch)
    fit(setup, begun)


@pytest.mark.parametrize(
    "changes",
    [(), ("optimizer.name=sgd",), ("optimizer.name=sgd", "optimizer.momentum=0.9")],
    ids=["adam", "sgd", "momentum"],
)
def test_what_a_checkpoint_will_take_is_known_before(
    changes: tuple[str, ...], tmp_path: Path
) -> None:
    setup, run = tiny_setup("model.channels=[40]", *changes), new_run(tmp_path)
    fit(setup, run)
    expected, found = (
        checkpoint_bytes(setup.summary, setup.config),
        (run.path / LAST).stat().st_size,
    )
    assert expected <= found < expected + 20_000  # its config and names
