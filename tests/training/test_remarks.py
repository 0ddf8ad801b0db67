"""What is said before training: for which numbers, and where."""

import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sfl.nn import engine
from sfl.runs.directory import ENVIRONMENT, Run
from sfl.training import remarks
from sfl.training.fit import fit
from sfl.training.remarks import busy, load_of_others, one_class, other_threads
from sfl.training.setup import set_up
from tests.training.tiny import interrupted_after, new_run, random_dataset, tiny_config, tiny_setup


@pytest.mark.parametrize(
    ("load", "cores", "threads", "advice"),
    [
        (0.0, 2, 2, None),
        (0.4, 2, 2, None),
        (1.0, 2, 2, 1),
        (1.0, 2, 1, None),  # there is a core for its thread
        (9.0, 2, 2, 1),
        (9.0, 2, 1, None),  # nothing smaller than one
        (1.9, 8, 8, None),  # a desktop
        (4.0, 16, 8, None),
        (10.0, 16, 8, 6),
        (3.0, 1, 1, None),
    ],
)
def test_advice_where_others_hold_the_cores(
    load: float, cores: int, threads: int, advice: int | None
) -> None:
    line = busy(load, cores, threads)
    assert (line is None) == (advice is None)
    if line is not None:
        assert f"keep about {min(int(load), cores)} of {cores} cores busy" in line
        assert line.endswith(f"--set train.threads={advice}")


def test_what_is_our_own_load_is_not_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (3.0, 9.0, 9.0))
    for seconds, threads, others in [(0.0, 2, 3.0), (60.0, 2, 2.0), (9e9, 2, 1.0), (9e9, 4, 0.0)]:
        monkeypatch.setattr(time, "process_time", lambda seconds=seconds: seconds)
        assert load_of_others(threads) == others


def test_a_system_that_does_not_say_how_busy_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError

    monkeypatch.setattr("os.getloadavg", refuse)
    assert load_of_others(2) is None


def test_only_another_number_of_threads_is_worth_a_word() -> None:
    assert other_threads(2, 2) is None
    assert other_threads(2, 1) == (
        "began with 2 threads and goes on with 1: the last bits of its numbers may differ "
        "(the same again: --set train.threads=2)"
    )


def test_a_run_says_them_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, setup = new_run(tmp_path), tiny_setup()
    with interrupted_after(1):
        fit(setup, run)
    assert "run: " not in capsys.readouterr().err
    began = run.environment
    assert began is not None
    run.write_json(ENVIRONMENT, began.to_dict() | {"threads": began.threads + 1})
    monkeypatch.setattr("os.getloadavg", lambda: (1e6, 0.0, 0.0))
    monkeypatch.setattr(remarks, "usable_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    fit(setup, Run(run.path))
    said = capsys.readouterr().err
    for words in ("goes on with 8", "8 of 8 cores busy"):
        assert said.index(words) < said.index("epoch 2/3")


def test_one_class_is_told_before_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert one_class(("cat", "dog")) is None
    fit(set_up(tiny_config("train.epochs=1"), random_dataset(classes=1)), new_run(tmp_path))
    said = capsys.readouterr().err
    line = "run: all images are of one class, class 0: every answer is right, nothing is learnt\n"
    assert said.index(line) < said.index("epoch 1/1")


def test_threads_beyond_what_may_be_used() -> None:
    assert remarks.too_many_threads(4, 4) is None
    said = remarks.too_many_threads(2, 16)
    assert (
        said is not None and "16 threads for the 2 cores that" in said and "train.threads=2" in said
    )


def test_the_gpu_and_the_precision_are_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    report = lambda device, dtype: "Triton kernels (sm_90)"  # noqa: E731
    monkeypatch.setattr(engine, "report", report)
    setup: Any = replace(tiny_setup(), device=torch.device("cuda"), precision="bfloat16")
    capsys.readouterr()  # of the images
    remarks.remark(setup, SimpleNamespace(name="it"))  # type: ignore[arg-type]
    assert capsys.readouterr().err.splitlines() == [
        "it: on NVIDIA H200, bfloat16",
        "spatial layers: Triton kernels (sm_90), compiled at their first use",
    ]
