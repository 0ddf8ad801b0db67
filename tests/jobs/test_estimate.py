"""How long runs take, from a few steps."""

from pathlib import Path

import pytest

from sfl.config.load import from_text, override
from sfl.config.schema import Config
from sfl.jobs import estimate
from sfl.jobs.job import Job
from sfl.training.images import load_images
from tests.conftest import TINY


def test_each_network_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = from_text(TINY, "tiny")
    changes = [
        [], ["optimizer.lr=0.5"], ["train.seed=7"], ["train.epochs=4"],  # as fast as one another
        ["train.precision=bfloat16"], ["optimizer.clip_norm=1"], ["data.batch_size=4"],
    ]  # fmt: skip
    jobs = [Job(str(number), override(plain, change)) for number, change in enumerate(changes)]
    measured = list[Config]()

    def images_per_second(setup: object, seconds: float) -> float:
        measured.append(setup.config)  # type: ignore[attr-defined]
        return len(setup.train) / 2  # type: ignore[attr-defined]

    monkeypatch.setattr(estimate, "images_per_second", images_per_second)
    dataset = load_images(plain)
    seconds, _ = estimate.estimate(jobs, tmp_path, lambda config: dataset)
    assert measured == [jobs[number].config for number in (0, 4, 5, 6)]
    assert seconds == 2 * (6 * 1 + 4)
