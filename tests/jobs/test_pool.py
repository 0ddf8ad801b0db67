"""Which jobs are trained, in which order, and what others train. Training has a stand-in."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from sfl.config.load import load
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.jobs import pool
from sfl.jobs.job import Failure, Job, Outcome, failed, told
from sfl.runs.directory import Run, lock
from tests.conftest import ENVIRONMENT
from tests.stand_ins import Images, configs, fails, images, planted, trained

Trained = list[tuple[str, Config]]
Meanwhile = Callable[[Callable[[], None]], None]


def run_all(jobs: list[Job], root: Path) -> list[Outcome]:
    from sfl.training.images import load_images

    return pool.run_all(jobs, root, load_images)


def job(config: str, *overrides: str, name: str = "") -> Job:
    return Job(name or f"{config}-s0", load(config, overrides))


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """What happens while it waits, each time one more thing; it never waits in vain."""
    things = list[Callable[[], None]]()
    monkeypatch.setattr(pool, "LOOK", 0)
    monkeypatch.setattr("sfl.jobs.pool.time.sleep", lambda _: things.pop(0)())
    return things.append


def test_what_another_process_trains_is_waited_for_after_the_others(
    configs: Path, runs_dir: Path, trained: Trained, meanwhile: Meanwhile,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    busy = planted(runs_dir / "one-s0", "one")
    result = (busy.path / "result.json").read_text()
    (busy.path / "result.json").unlink()
    with ExitStack() as held:
        held.enter_context(lock(busy))

        def finish() -> None:
            (busy.path / "result.json").write_text(result)
            held.close()

        meanwhile(lambda: None)  # one look too early
        meanwhile(finish)
        found = run_all([job("one"), job("two")], runs_dir)
    assert [name for name, _ in trained] == ["two-s0"]
    assert found == [Run(busy.path), Run(runs_dir / "two-s0")]
    assert capsys.readouterr().err.count("waiting for one-s0: being trained by another") == 1


def test_what_another_process_stops_training_is_gone_on_with(
    configs: Path, runs_dir: Path, trained: Trained, meanwhile: Meanwhile
) -> None:
    busy = planted(runs_dir / "one-s0", "one", finished=False)
    with ExitStack() as held:
        held.enter_context(lock(busy))
        meanwhile(held.close)
        run_all([job("one")], runs_dir)
    assert [name for name, _ in trained] == ["one-s0"]


def test_another_experiment_has_its_name_as_soon_as_it_has_begun(
    configs: Path, runs_dir: Path, trained: Trained, meanwhile: Meanwhile
) -> None:
    """Between its directory and its config.yaml nobody knows what it will be."""
    begun = runs_dir / "one-s0"
    begun.mkdir(parents=True)
    with lock(Run(begun)):
        other = planted(runs_dir / "other", "one", "train.epochs=9", finished=False)

        def say_what_it_is() -> None:
            shutil.copytree(other.path, begun, dirs_exist_ok=True)

        meanwhile(say_what_it_is)
        run_all([job("one")], runs_dir)
    assert [name for name, _ in trained] == ["one-s0-2"]


def test_a_seed_or_other_images_are_another_run(
    configs: Path, runs_dir: Path, trained: Trained, images: Images
) -> None:
    planted(runs_dir / "one-s0", "one", "train.seed=1")
    folder = ("data.source=folder", "data.root=here")
    there = planted(runs_dir / "one-s0-2", "one", *folder, finished=False)
    data = {"source": "folder", "train": "there", "test": "t"}
    there.write_json("environment.json", ENVIRONMENT | {"data": data})
    run_all([job("one", *folder)], runs_dir)
    assert [name for name, _ in trained] == ["one-s0-3"]


def test_a_run_of_another_version_or_a_folder_of_other_things_stays(
    configs: Path, runs_dir: Path, trained: Trained
) -> None:
    run = planted(runs_dir / "one-s0", "one")
    (run.path / "config.yaml").write_text(run.config_text + "future: 1\n")
    (runs_dir / "one-s0-2").mkdir()
    (runs_dir / "one-s0-2" / "notes.txt").touch()
    run_all([job("one")], runs_dir)
    assert [name for name, _ in trained] == ["one-s0-3"]


def test_what_is_finished_when_its_turn_comes_is_not_trained_again(
    configs: Path, runs_dir: Path, trained: Trained
) -> None:
    """Also where two jobs are the same run."""
    found = run_all([job("one"), job("one")], runs_dir)
    assert [name for name, _ in trained] == ["one-s0"]
    assert found == [Run(runs_dir / "one-s0")] * 2


@pytest.mark.parametrize("finished", [True, False])
def test_one_that_was_begun_by_another_at_the_same_moment_is_trained_once(
    configs: Path, runs_dir: Path, trained: Trained, monkeypatch: pytest.MonkeyPatch, finished: bool
) -> None:
    """The other has made the directory, trained and finished, or stopped and saved, between our
    look and our lock.
    """
    from sfl.runs import store

    create = store.create

    def too_late(root: Path, name: str, *, exact: bool = False) -> Run:
        made = create(root, name, exact=exact)
        there = planted(root / "fast", "one", finished=finished)
        shutil.copytree(there.path, made.path, dirs_exist_ok=True)
        return made

    monkeypatch.setattr(store, "create", too_late)
    assert run_all([job("one")], runs_dir) == [Run(runs_dir / "one-s0")]
    assert [name for name, _ in trained] == ([] if finished else ["one-s0"])


def test_failures_are_told_with_reason_and_exit_code(
    configs: Path, runs_dir: Path, fails: Callable[..., None], trained: Trained,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    fails("one-s0", UserError("loss is NaN", "lower it", Exit.DIVERGED))
    fails("two-s0", bug := RuntimeError("oh"))
    jobs = [job("one"), job("two"), job("one", "train.seed=1", name="one-s1")]
    found = run_all(jobs, runs_dir)
    assert [name for name, _ in trained] == ["one-s1"]
    assert found[2] == Run(runs_dir / "one-s1")
    assert isinstance(found[1], Failure) and found[1].error.__cause__ is bug  # for --debug
    capsys.readouterr()
    failures = told(found)
    assert failures == found[:2] and told(found[2:]) == []
    error = failed(failures)
    assert str(error) == "2 runs failed: one-s0, two-s0 (the same command tries them again)"
    assert error.exit_code is Exit.DIVERGED
    alone = failed(failures[:1])
    assert str(alone).startswith("1 run failed: one-s0 (a run that diverged will do so again: give")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "one-s0: failed (exit code 5): loss is NaN (lower it)"
    assert second.startswith("two-s0: failed (exit code 1): a bug of sfl: RuntimeError: oh")


def test_a_signal_stops_them_all(
    configs: Path, runs_dir: Path, fails: Callable[..., None], trained: Trained
) -> None:
    fails("one-s0", KeyboardInterrupt())  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        run_all([job("one"), job("two")], runs_dir)
    assert trained == []
