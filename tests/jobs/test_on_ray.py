"""Runs on a Ray cluster: a real one of this machine."""

import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from sfl.errors import Exit, UserError
from sfl.jobs import on_ray
from sfl.jobs.job import AtOnce, Failure, state
from sfl.jobs.pool import run_all
from sfl.runs.directory import BEST, LAST, METRICS, Run
from sfl.training.images import load_images
from tests.jobs.test_side_by_side import job
from tests.training.tiny import metrics, same, tensors

RAY = AtOnce(engine="ray")


def test_without_ray_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install ray") as caught:
        on_ray.connect([job("a")], RAY)
    assert caught.value.exit_code is Exit.USAGE


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_killed_worker_is_tried_again_and_all_is_as_without_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    jobs = [job("a", "train.epochs=30"), job("bad", "optimizer.lr=1e30"), job("b", "train.seed=1")]
    killed = list[int]()

    def kill_once() -> None:  # when a is in the middle
        while not (tmp_path / "ray" / "a" / METRICS).exists():
            time.sleep(0.05)
        killed.append(subprocess.run(["pkill", "-KILL", "-f", "ray::_train"]).returncode)

    ray.init(num_cpus=2, log_to_driver=False)
    try:
        killer = threading.Thread(target=kill_once)
        killer.start()
        first, failed, second = run_all(jobs, tmp_path / "ray", load_images, RAY)
        killer.join()
    finally:
        ray.shutdown()
    assert killed == [0]
    assert isinstance(failed, Failure) and failed.error.exit_code is Exit.DIVERGED
    alone = run_all([jobs[0], jobs[2]], tmp_path / "alone", load_images)
    for one, other in zip((first, second), alone, strict=True):
        assert isinstance(one, Run) and isinstance(other, Run)
        assert metrics(one) == metrics(other) and same(tensors(one), tensors(other))
        assert (one.path / BEST).read_bytes() == (other.path / BEST).read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_run_that_is_stopped_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setenv("PYTHONPATH", os.getcwd())
    one, path = job("a", "train.epochs=100000"), tmp_path / "a"
    ray.init(num_cpus=1, log_to_driver=False)
    try:
        (trainer,) = on_ray.connect([one], RAY)
        trainer.train(one.config, path, resumes=False)
        while not ((path / METRICS).exists() and (path / METRICS).stat().st_size):  # an epoch
            assert not trainer.ended
            time.sleep(0.05)
        trainer.stop()
        trainer.wait()
    finally:
        ray.shutdown()
    assert state(path) == "interrupted"
    assert Run(path).metrics and (path / LAST).exists()


@pytest.mark.filterwarnings("default")
def test_a_cluster_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray", reason="ray is not installed")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match="RAY_ADDRESS") as caught:
        on_ray.connect([job("a")], RAY)
    assert caught.value.exit_code is Exit.RESOURCES
