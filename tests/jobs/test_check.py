"""What is looked at before the first of several runs is trained."""

from pathlib import Path

import pytest

import sfl.training.setup
from sfl.config.load import from_text, override
from sfl.jobs.check import check_all
from sfl.jobs.job import Job
from sfl.training.images import load_images
from tests.conftest import TINY


def test_runs_that_differ_in_the_seed_alone_are_set_up_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = from_text(TINY, "tiny")
    changes = [[], ["train.seed=7"], ["train.seed=8"], ["data.batch_size=4"]]
    jobs = [Job(str(number), override(plain, change)) for number, change in enumerate(changes)]
    own, seen = sfl.training.setup.set_up, list[int]()

    def set_up(config: object, *rest: object, **more: object) -> object:
        seen.append(config.data.batch_size)  # type: ignore[attr-defined]
        return own(config, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(sfl.training.setup, "set_up", set_up)
    dataset = load_images(plain)
    needs = check_all(jobs, tmp_path, lambda config: dataset)
    assert seen == [plain.data.batch_size, 4]
    assert len(needs) == 4 and needs[0] == needs[1] == needs[2] != needs[3]


def test_what_is_free_is_asked_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Later, workers that start meanwhile would have taken some of it."""
    free = iter(range(10**12, 0, -(10**10)))
    monkeypatch.setattr("sfl.host_memory.available_bytes", lambda: next(free))
    plain = from_text(TINY, "tiny")
    jobs = [Job(str(lr), override(plain, [f"optimizer.lr={lr}"])) for lr in (0.1, 0.2)]
    needs = check_all(jobs, tmp_path, load_images)
    assert [need.free for need in needs] == [10**12] * 2
