"""How many runs are trained at once, with which GPU, threads and memory."""

from pathlib import Path

import pytest

from sfl import cores
from sfl.config.load import from_text, override
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.jobs import speed
from sfl.jobs.check import Need, most_at_once
from sfl.jobs.job import AtOnce, Job
from sfl.jobs.slots import slots
from tests.conftest import TINY

JOBS = [Job(f"run{number}", from_text(TINY, "tiny")) for number in range(6)]
SIZES = (10, 30, 20, 10, 10, 10)


def needs(free: int | None = 1000, *, gpu: bool = False) -> list[Need]:
    return [Need(gpu, size, free) for size in SIZES]


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.parametrize(("free", "fit"), [(None, 6), (5, 1), (30, 1), (49, 1), (50, 2), (90, 6)])
def test_memory_must_do_for_the_largest(free: int | None, fit: int) -> None:
    assert most_at_once(needs(free)) == fit


def test_more_than_memory_holds_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        slots(JOBS, [Need(False, 30_000_000_000, 60_000_000_000)] * 6, AtOnce(3))
    assert caught.value.exit_code is Exit.RESOURCES
    assert str(caught.value) == (
        "--jobs 3: a run takes about 30.0 GB of memory with its process, 60.0 GB are free "
        "(at most --jobs 2)"
    )
    # Two runs alone are never more than two at once.
    assert len(slots(JOBS[:2], [Need(False, 30, 60)] * 2, AtOnce(3))) == 2


def test_gpus_are_given_in_turn(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def given(*arguments: object) -> list[str]:
        found = slots(JOBS, needs(gpu=True), AtOnce(*arguments))  # type: ignore[arg-type]
        return [place["CUDA_VISIBLE_DEVICES"] for place in found]

    assert given(2, 1) == given("auto", 1) == ["0", "1"]
    assert given("auto", 2) == ["0", "1", "0", "1"]
    assert given("auto", 9) == ["0", "1"] * 3  # as many as there are jobs
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert given(3, 2) == ["GPU-a", "GPU-b", "GPU-a"]
    with pytest.raises(UserError, match=r"--jobs 3: GPUs here: 2, for 1 .*--jobs-per-gpu 2") as bad:
        given(3, 1)
    assert bad.value.exit_code is Exit.USAGE


def test_the_memory_of_each_gpu_counts(two_gpus: None) -> None:
    assert len(slots(JOBS, needs(50, gpu=True), AtOnce("auto", 3))) == 4
    with pytest.raises(UserError, match="at most --jobs 4"):
        slots(JOBS, needs(50, gpu=True), AtOnce(6, 3))


def test_of_runs_to_come_the_gpus_are_counted(two_gpus: None) -> None:
    with pytest.raises(UserError, match=r"--jobs 5: GPUs here: 2, for 1 .*--jobs-per-gpu 3"):
        slots(JOBS[:2], needs(gpu=True), AtOnce(5))


def test_jobs_per_gpu_needs_one(two_gpus: None) -> None:
    with pytest.raises(UserError, match="--jobs-per-gpu 2: no run is trained on a GPU"):
        slots(JOBS, needs(), AtOnce(2, 2))


def test_auto_takes_the_fastest_of_those_that_memory_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speeds = {1: 100.0, 2: 150.0, 4: 140.0, 8: 999.0}
    tried = list[int]()

    def together(config: object, at_once: int, read_images: object) -> float:
        tried.append(at_once)
        return speeds[at_once]

    monkeypatch.setattr(speed, "_together", together)
    monkeypatch.setattr("sfl.jobs.slots.usable_cores", lambda: 64)
    assert slots(JOBS * 4, needs() * 4, AtOnce("auto")) == [{}, {}]
    assert tried == [1, 2, 4]  # slower again
    assert "runs side by side: 2 (1: 100 images/s, 2: 150" in capsys.readouterr().err


def test_what_is_timed_has_no_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    taught = override(JOBS[0].config, ["train.teacher=run", "train.teacher_share=0.5"])
    measured = list[Config]()

    def noted(config: Config, at_once: int, read_images: object) -> float:
        measured.append(config)
        return 1.0

    monkeypatch.setattr(speed, "_together", noted)
    speed.fastest(taught, 1)  # by processes that don't know where the teacher is
    assert [one.train.teacher for one in measured] == [None]


def test_nothing_is_timed_where_memory_holds_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = list[int]()
    monkeypatch.setattr(speed, "_together", lambda config, at_once, *_: tried.append(at_once))
    assert len(slots(JOBS, needs(30), AtOnce("auto"))) == 1 and tried == []  # nothing to choose


def test_cores_are_divided_where_nobody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "usable_cores", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert speed.thread_share(3) == {"OMP_NUM_THREADS": "5"}
    assert speed.thread_share(40) == {"OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert speed.thread_share(2) == {}


def test_a_containers_quota_is_divided_and_no_more_are_tried(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So no run has threads of which `too_many_threads` would complain."""
    (tmp_path / "cpu.max").write_text("400000 100000\n")
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert speed.thread_share(2) == {"OMP_NUM_THREADS": "2"}
    # The more the faster.
    monkeypatch.setattr(speed, "_together", lambda config, at_once, read_images: at_once)
    assert len(slots(JOBS * 4, needs() * 4, AtOnce("auto"))) == 4
