"""What a run is said to be made with, and what is never said."""

import getpass
import json
import platform
import re
import socket
import subprocess
from pathlib import Path

import pytest
import torch

from sfl.runs.records import Commit
from sfl.training import environment as environments
from sfl.training.environment import device_name, environment

CPU = torch.device("cpu")


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one commit, from which this code seems to run."""
    module = tmp_path / "repository" / "sfl" / "training" / "environment.py"
    module.parent.mkdir(parents=True)
    module.touch()
    root = tmp_path / "repository"
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "first")
    monkeypatch.setattr(environments, "__file__", str(module))
    return root


def test_versions_device_and_precision() -> None:
    found = environment(CPU, "bfloat16").to_dict()
    assert set(found) == {
        "sfl", "python", "packages", "system", "device", "workers", "threads", "precision",
        "local_precision", "engine", "git",
    }  # fmt: skip
    assert found["python"] == platform.python_version()
    assert torch.__version__.startswith(found["packages"]["torch"])
    assert found["precision"] == "bfloat16"
    assert found["threads"] == torch.get_num_threads()
    assert found["engine"] in ("compiled", "reference")


def test_no_host_no_user_no_path() -> None:
    text = json.dumps(environment(CPU, "float32").to_dict())
    words = set(re.findall(r"[\w.-]+", text))
    assert socket.gethostname() not in words
    assert getpass.getuser() not in words
    assert not re.search(r'"[^"]*(?<![\w.)])/\w', text), "an absolute path"
    assert str(Path.home()) not in text


def test_the_commit_and_whether_it_is_clean(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    assert environment(CPU, "float32").git == Commit(commit=commit, clean=True)
    (checkout / "notes.txt").touch()
    assert environment(CPU, "float32").git == Commit(commit=commit, clean=True), "only the code"
    (checkout / "sfl" / "new.py").touch()
    assert environment(CPU, "float32").git == Commit(commit=commit, clean=False)


def test_installed_code_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environments, "__file__", str(tmp_path / "a" / "b" / "environment.py"))
    assert environment(CPU, "float32").git is None


@pytest.mark.parametrize("failure", [OSError(), subprocess.TimeoutExpired("git", 10)])
def test_no_git_to_ask(checkout: Path, monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def refuse(*arguments: object, **keywords: object) -> None:
        raise failure

    monkeypatch.setattr(subprocess, "run", refuse)
    assert environment(CPU, "float32").git is None


def test_a_repository_without_commits_has_none(checkout: Path) -> None:
    git(checkout, "update-ref", "-d", "HEAD")
    assert environment(CPU, "float32").git is None


def test_devices_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert device_name(CPU).endswith(torch.backends.cpu.get_cpu_capability())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    assert device_name(torch.device("cuda")) == "NVIDIA H200"
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert device_name(torch.device("mps")) == "arm (MPS)"


def test_a_processor_that_does_not_say_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(platform, "processor", lambda: "")
    assert device_name(CPU).startswith(platform.machine())
