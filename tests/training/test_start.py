"""Training into a run directory, going on with one, what is refused before. Nothing is trained."""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from sfl.config.load import load
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.runs import store
from sfl.runs.directory import Run, lock
from sfl.runs.store import run_name
from sfl.training import start
from sfl.training.resume import config_to_resume
from tests.stand_ins import MadeRun, configs, images, made, stand_in, trained


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ("spatial", "spatial-s3"),
        ("configs/spatial.yaml", "spatial-s3"),
        ("notebook/spatial", "notebook-spatial-s3"),
        ("configs/notebook/spatial.yaml", "notebook-spatial-s3"),
        ("/home/me/tries/mine.yml", "mine-s3"),
        ("../mine.yaml", "mine-s3"),
        ("checkpoints/a-s0/config.yaml", "checkpoints-a-s0-config-s3"),
        ("configs.yaml", "configs-s3"),
    ],
)
def test_a_run_is_called_after_its_config_and_seed(config: str, name: str) -> None:
    assert run_name(config, load("spatial", ["train.seed=3"])) == name


def test_training_makes_a_directory_of_its_own(
    configs: Path, runs_dir: Path, trained: list[tuple[str, Config]]
) -> None:
    for _ in range(2):
        start.train(load("one"), runs_dir, "one-s0")
    assert [name for name, _ in trained] == ["one-s0", "one-s0-2"]


def test_a_name_that_exists_is_refused_before_images_are_read(
    configs: Path, runs_dir: Path, made_run: MadeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_up(config: Config) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr("sfl.training.start.set_up", set_up)
    made(made_run, runs_dir / "mine", "one")
    with pytest.raises(UserError, match="a run of this name exists"):
        start.train(load("one"), runs_dir, "mine", exact=True)


@pytest.mark.parametrize(
    ("error", "written", "stays"),
    [
        (UserError("no"), [], False),
        (MemoryError(), [], False),
        (UserError("diverged"), [{"epoch": 1}], True),
        (KeyboardInterrupt(), [], True),
    ],
)
def test_a_run_that_failed_before_its_first_epoch_leaves_nothing(
    configs: Path,
    runs_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    written: list[dict[str, Any]],
    stays: bool,
) -> None:
    def fit(setup: Any, run: Run) -> None:
        (run.path / "config.yaml").write_text(setup.config.to_yaml())
        run.write_metrics(written)
        raise error

    monkeypatch.setattr("sfl.training.start.fit", fit)
    monkeypatch.setattr("sfl.training.start.set_up", lambda c, *_, **__: stand_in(c))
    with pytest.raises(type(error)):
        start.train(load("one"), runs_dir, "a")
    assert (runs_dir / "a").exists() is stays


def test_a_directory_that_cannot_be_removed_does_not_hide_why_it_failed(
    configs: Path, runs_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(error: Exception) -> Any:
        def fail(*_: object) -> None:
            raise error

        return fail

    monkeypatch.setattr("sfl.training.start.fit", failing(MemoryError()))
    monkeypatch.setattr("sfl.training.start.set_up", lambda c, *_, **__: stand_in(c))
    monkeypatch.setattr(store, "remove", failing(UserError("can't be deleted")))
    with pytest.raises(MemoryError):
        start.train(load("one"), runs_dir, "a", exact=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(Exit.TERMINATED)])
@pytest.mark.parametrize(
    ("root", "ending"), [("here", ""), ("/my images", " --set 'data.root=/my images'")]
)
@pytest.mark.parametrize("begun", [True, False])
def test_what_was_stopped_says_how_to_go_on(
    configs: Path,
    runs_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    root: str,
    ending: str,
    begun: bool,
) -> None:
    def fit(setup: Any, run: Run) -> None:
        if begun:
            (run.path / "config.yaml").write_text("")
        raise error

    monkeypatch.setattr("sfl.training.start.fit", fit)
    monkeypatch.setattr("sfl.training.start.set_up", lambda c, *_, **__: stand_in(c))
    config = load("one", ["data.source=folder", f"data.root={root}"])
    with pytest.raises(type(error)):
        start.train(config, runs_dir, "a")
    err = capsys.readouterr().err
    again = f"stopped; resume with: sfl train --resume {runs_dir / 'a'}{ending}\n"
    assert err == (again if begun else "")
    assert (runs_dir / "a").exists() is begun


def test_resume_keeps_the_experiment(
    configs: Path, runs_dir: Path, made_run: MadeRun, trained: list[tuple[str, Config]]
) -> None:
    run = made(made_run, runs_dir / "a", "one", "train.seed=4", finished=False)
    for override in ("train.epochs=1", "train.seed=5", "optimizer.lr=1"):
        with pytest.raises(UserError) as caught:
            config_to_resume(run, [override])
        assert str(caught.value) == (
            "--resume a: these settings would make it another experiment "
            "(only data.root, data.mirror, data.skip_broken, train.device, train.keep, "
            "train.checkpoint_every, train.tensorboard, train.threads, train.graph may change; "
            "with schedule constant, train.epochs may be increased)"
        )
    assert trained == []
    changed = ["train.device=auto", "train.checkpoint_every=2"]
    start.resume(run, config_to_resume(run, changed))
    ((name, config),) = trained
    assert (name, config.train.seed, config.train.checkpoint_every) == ("a", 4, 2)


def test_training_has_the_threads_that_were_asked_for(
    configs: Path, runs_dir: Path, made_run: MadeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sfl.training.start.set_up", lambda c, *_, **__: stand_in(c))
    found = []

    def noting(*_: object) -> dict[str, object]:
        found.append(torch.get_num_threads())
        return {}

    monkeypatch.setattr("sfl.training.start.fit", noting)
    before = torch.get_num_threads()
    run = made(made_run, runs_dir / "a", "one", finished=False)
    for number in (before + 1, before + 2):
        start.train(load("one", [f"train.threads={number}"]), runs_dir, "b")
        start.resume(run, config_to_resume(run, [f"train.threads={number + 2}"]))
    start.train(load("one"), runs_dir, "c")
    assert found == [before + 1, before + 3, before + 2, before + 4, before]


def test_resuming_says_that_the_folder_of_the_images_is_not_known(
    configs: Path, runs_dir: Path, made_run: MadeRun, trained: list[tuple[str, Config]]
) -> None:
    config = load("one", ["data.source=folder", "data.root=/images"])
    run = Run(made_run(runs_dir / "a"))
    (run.path / "config.yaml").write_text(config.to_yaml(share=True))
    (run.path / "result.json").unlink()
    for overrides in ([], ["train.device=cpu"]):
        with pytest.raises(UserError, match="an absolute path, which is not saved") as error:
            start.resume(run, config_to_resume(run, overrides))
    assert error.value.exit_code is Exit.DATA
    assert error.value.hint == "give their folder: --set data.root=DIR"
    assert trained == []
    start.resume(run, config_to_resume(run, ["data.root=/there"]))
    ((_, config),) = trained
    assert config.data.root == "/there"


def test_resume_of_a_finished_run_is_refused(
    configs: Path, runs_dir: Path, made_run: MadeRun, trained: list[tuple[str, Config]]
) -> None:
    run = Run(made_run(runs_dir / "a", load("one").to_yaml(), epochs=2))
    with pytest.raises(UserError) as caught:
        start.resume(run, load("one"))
    assert str(caught.value) == (
        f"{run.path}: has finished (more epochs: --set train.epochs=N; see it with: "
        f"sfl evaluate {run.path})"
    )
    assert caught.value.exit_code is Exit.RUN
    assert trained == []


def test_a_run_keeps_the_precision_in_which_it_began(
    configs: Path,
    runs_dir: Path,
    made_run: MadeRun,
    trained: list[tuple[str, Config]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = []

    def set_up(config: Config, dataset: object, *, precision: str, **rest: object) -> Any:
        given.append(precision)
        return stand_in(config)

    monkeypatch.setattr("sfl.training.start.set_up", set_up)
    text = load("one").to_yaml()
    run = Run(made_run(runs_dir / "a", text, environment={"precision": "bfloat16"}))
    (run.path / "result.json").unlink()
    start.resume(run, config_to_resume(run))
    assert given == ["bfloat16"]


def test_a_running_run_is_refused_before_images_are_read(
    configs: Path, runs_dir: Path, made_run: MadeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def set_up(config: Config) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr("sfl.training.start.set_up", set_up)
    run = made(made_run, runs_dir / "a", "one", finished=False)
    with lock(run), pytest.raises(UserError, match="another process is training it"):
        start.resume(run, load("one"))


def test_sigterm_unwinds_as_an_exit() -> None:
    """`_fit` relies on it: SIGTERM must reach it as SystemExit, not end the process at once."""
    from sfl.cli.exits import _on_sigterm

    with pytest.raises(SystemExit) as caught:
        _on_sigterm(signal.SIGTERM, None)
    assert caught.value.code == 143
