"""What a run directory doesn't say, and whom no command calls."""

import getpass
import os
import platform
import shutil
import socket
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import TINY
from tests.conftest import call_sfl as sfl

HERE = str(Path(__file__).parent.parent)
HOST, USER = "host-of-nobodys-business", "user-of-nobodys-business"


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder whose name is nobody's business, as are host and user."""
    for module, name in ((socket, "gethostname"), (platform, "node"), (socket, "getfqdn")):
        monkeypatch.setattr(module, name, lambda *_: HOST)
    monkeypatch.setattr(getpass, "getuser", lambda: USER)
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    monkeypatch.setenv("HOSTNAME", HOST)
    folder = tmp_path / "folder-of-nobodys-business"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Addresses that anything in this process tried to reach."""
    called: list[object] = []

    def refuse(_: object, address: object, *rest: object) -> None:
        called.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket.socket, "connect_ex", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **_: refuse(None, given))
    return called


def test_a_run_directory_names_no_host_no_user_and_no_absolute_path(
    secret: Path, calls: list[object]
) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            path = secret / "images" / split / name / "1.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (32, 32)).save(path)
    config = secret / "tiny.yaml"
    config.write_text(TINY)
    images = ("--set", "data.source=folder", "--set", f"data.root={secret / 'images'}")
    runs = ("--runs", secret / "runs")
    assert sfl("train", "--config", config, *runs, *images).returncode == 0
    more = ("--set", "train.epochs=2", "--set", "train.tensorboard=true", *images[2:])
    assert sfl("train", "--resume", "tiny-s0", *runs, *more).returncode == 0
    files = [path for path in (secret / "runs" / "tiny-s0").rglob("*") if path.is_file()]
    assert len(files) == 9
    # A real host's name may be a word that stands there anyway; `localhost` is no secret.
    real = [name for name in (os.uname().nodename,) if len(name) > 8 and name != "localhost"]
    for path in files:
        content = path.read_bytes()
        for word in (HOST, USER, "nobodys-business", str(Path.home()), HERE, *real):
            assert word == "/" or word.encode() not in content, (path.name, word)
            assert word not in path.name
    assert calls == []


def test_no_command_but_a_download_calls_anyone(
    secret: Path, trained: Path, calls: list[object]
) -> None:
    shutil.copytree(trained, secret / "checkpoints" / "tiny-s0")
    (secret / "tiny.yaml").write_text(TINY)
    given = ("--set", "data.source=shapes", "--set", "data.shapes.train=64")
    for command in (
        ("train", "--config", "tiny.yaml"),
        ("evaluate", "tiny-s0"),
        ("compare", "tiny.yaml", "conv", "--no-train"),
        ("show", "spatial"),
        ("runs",),
        ("data", *given),
    ):
        done = sfl(*command)
        assert done.returncode in (0, 4), done.stderr
    assert calls == []
    done = sfl("data", "--set", "data.mirror=http://example.invalid/")
    assert done.returncode == 3 and len(calls) == 1 and "example.invalid" in str(calls[0])
