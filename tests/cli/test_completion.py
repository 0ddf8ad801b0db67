"""What a shell offers at Tab: configs, runs, settings and their values."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sfl.config.load import named_configs
from tests.conftest import call_sfl as sfl
from tests.conftest import make_run

Offer = Callable[..., list[str]]


@pytest.fixture
def offered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """What fish is told for a line, in a folder with two runs and a config."""
    monkeypatch.chdir(tmp_path)
    for folder in ("checkpoints", "other"):
        make_run(tmp_path / folder / f"of-{folder}-s0")
    (tmp_path / "mine.yaml").write_text("")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "its.yml").write_text("")

    def ask(line: str) -> list[str]:
        monkeypatch.setenv("_SFL_COMPLETE", "complete_fish")
        monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
        monkeypatch.setenv("_TYPER_COMPLETE_ARGS", line)
        done = sfl()
        assert (done.returncode, done.stderr) == (0, "")
        return [offer for offer in done.stdout.split("\n") if offer]

    return ask


def test_configs_are_offered(offered: Offer) -> None:
    assert set(offered("sfl train --config ")) == {*named_configs(), "mine.yaml"}
    assert offered("sfl data --config sub/") == ["sub/its.yml"]
    assert offered("sfl train --config no/where/") == []


@pytest.mark.parametrize(
    "command", ["evaluate", "plot", "runs rm", "train --resume", "compare conv", "show"]
)
def test_runs_are_offered(
    command: str, offered: Offer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert offered(f"sfl {command} of") == ["of-checkpoints-s0"]
    monkeypatch.setenv("SFL_RUNS", "other")
    assert offered(f"sfl {command} of") == ["of-other-s0"]
    first, *rest = command.split()
    resume = "--resume " * ("--resume" in rest)
    middle = " ".join(word for word in rest if word != "--resume")
    assert offered(f"sfl {first} {middle} --runs checkpoints {resume}of") == ["of-checkpoints-s0"]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SFL_RUNS", "~/other")
    assert offered(f"sfl {command} of") == ["of-other-s0"]
    (tmp_path / "file").touch()
    monkeypatch.setenv("SFL_RUNS", "file")
    assert offered(f"sfl {command} of") == []


def test_configs_and_runs_are_offered_to_compare(offered: Offer) -> None:
    assert {"conv", "mine.yaml", "of-checkpoints-s0"} <= set(offered("sfl compare conv "))


def test_settings_are_offered_with_their_sentence(offered: Offer) -> None:
    found = dict(line.split("\t") for line in offered("sfl train --set "))
    assert found["train.epochs="] == "Number of passes over the training images."
    assert {"model.name=", "data.augment.flip=", "data.root="} <= found.keys()


@pytest.mark.parametrize(
    ("typed", "values"),
    [
        ("train.schedule=", ["constant", "cosine", "onecycle"]),
        ("train.schedule=co", ["constant", "cosine"]),
        ("model.layer=", ["conv", "spatial"]),
        ("data.augment.flip=", ["true", "false", "random", "alternate"]),
        ("train.epochs=", []),
        ("nothing=", []),
    ],
)
def test_values_are_offered(
    typed: str, values: list[str], offered: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = typed.split("=")[0]
    said = [line.split("\t")[0] for line in offered(f"sfl train --set {typed}")]
    assert said == [f"{name}={value}" for value in values]


@pytest.mark.parametrize(
    ("words", "offers"),
    [
        (["train", "--set", "train.sched"], ["train.schedule="]),
        (["train", "--set", "train.schedule", "="], ["constant", "cosine", "onecycle"]),
        (["train", "--set", "train.schedule", "=", "on"], ["onecycle"]),
        (["train", "--set", "=", "train.schedule", "=", "on"], ["onecycle"]),
        (["train", "--set", "a.b", "=", "1", "--config", "quick"], ["quickstart"]),
        (["show", "--set", "a.b", "=", "1", "quick"], ["quickstart"]),
    ],
)
def test_bash_splits_words_at_equals_signs(
    words: list[str], offers: list[str], offered: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_SFL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(["sfl", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    done = sfl()
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, offers, "")


def test_a_shell_that_asks_waits_for_no_torch(tmp_path: Path) -> None:
    make_run(tmp_path / "checkpoints" / "a-s0")
    code = (
        "import sys, sfl.cli.main\n"
        "try:\n    sfl.cli.main.main()\n"
        "finally:\n    assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    )
    asked = {"_SFL_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "sfl compare a --set train.k"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert '"train.keep="' in done.stdout
