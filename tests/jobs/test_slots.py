"""How many runs are trained at once, with which GPU, threads and memory."""

import pytest

from sfl.config.load import from_text
from sfl.errors import Exit, UserError
from sfl.jobs import speed
from sfl.jobs.check import Need, most_at_once
from sfl.jobs.job import Job
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
        slots(JOBS, [Need(False, 30_000_000_000, 60_000_000_000)] * 6, 3, 1)
    assert caught.value.exit_code is Exit.RESOURCES
    assert str(caught.value) == (
        "--jobs 3: a run takes about 30.0 GB of memory with its process, 60.0 GB are free "
        "(at most --jobs 2)"
    )
    # Two runs alone are never more than two at once.
    assert len(slots(JOBS[:2], [Need(False, 30, 60)] * 2, 3, 1)) == 3


def test_gpus_are_given_in_turn(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def given(*arguments: object) -> list[str]:
        found = slots(JOBS, needs(gpu=True), *arguments)  # type: ignore[arg-type]
        return [place["CUDA_VISIBLE_DEVICES"] for place in found]

    assert given(2, 1) == given("auto", 1) == ["0", "1"]
    assert given("auto", 2) == ["0", "1", "0", "1"]
    assert given("auto", 9) == ["0", "1"] * 3  # as many as there are jobs
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-a,GPU-b")
    assert given(3, 2) == ["GPU-a", "GPU-b", "GPU-a"]
    with pytest.raises(UserError, match="--jobs 3: this machine has 2 GPUs, for 1 at once") as bad:
        given(3, 1)
    assert bad.value.exit_code is Exit.USAGE


def test_the_memory_of_each_gpu_counts(two_gpus: None) -> None:
    assert len(slots(JOBS, needs(50, gpu=True), "auto", 3)) == 4
    with pytest.raises(UserError, match="at most --jobs 4"):
        slots(JOBS, needs(50, gpu=True), 6, 3)


def test_jobs_per_gpu_needs_one(two_gpus: None) -> None:
    with pytest.raises(UserError, match="--jobs-per-gpu 2: no run is trained on a GPU"):
        slots(JOBS, needs(), 2, 2)


def test_auto_takes_the_fastest_of_those_that_memory_holds(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    speeds = {1: 100.0, 2: 150.0, 4: 140.0, 8: 999.0}
    tried = list[int]()

    def together(config: object, at_once: int) -> float:
        tried.append(at_once)
        return speeds[at_once]

    monkeypatch.setattr(speed, "_together", together)
    monkeypatch.setattr(speed, "cores", lambda: 64)
    assert slots(JOBS * 4, needs() * 4, "auto", 1) == [{}, {}]
    assert tried == [1, 2, 4]  # slower again
    assert "runs side by side: 2 (1: 100 images/s, 2: 150" in capsys.readouterr().err
    tried.clear()
    assert len(slots(JOBS, needs(30), "auto", 1)) == 1 and tried == [1]


def test_cores_are_divided_where_nobody_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed, "cores", lambda: 16)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    plain = JOBS[0].config
    assert speed.thread_share(plain, 3) == {"OMP_NUM_THREADS": "5"}
    assert speed.thread_share(plain, 40) == {"OMP_NUM_THREADS": "1"}
    fixed = from_text(TINY.replace("epochs: 1", "epochs: 1, threads: 3"), "tiny")
    assert speed.thread_share(fixed, 2) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert speed.thread_share(plain, 2) == {}
