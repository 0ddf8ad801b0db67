"""Locks of files: one holder, no dead one, and what is done where there are no locks."""

import contextlib
import errno
import fcntl
import os
from pathlib import Path

import pytest

from sfl import locks
from sfl.errors import UserError
from sfl.files import atomic_path
from sfl.locks import is_held, locked, one_at_a_time, remove_left_over


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / ".lock"


def test_whoever_opens_the_file_anew_finds_it_held(path: Path) -> None:
    """As another process does; that a dead one's lock is free, runs/test_store.py shows."""
    with locked(path):
        assert is_held(path)
        with pytest.raises(TimeoutError), locked(path, 0):
            pass
    assert path.exists() and not is_held(path)


def test_a_lock_that_was_removed_meanwhile_is_made_anew(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        real(descriptor, operation)
        path.unlink()  # as one_at_a_time does in the process that held it

    monkeypatch.setattr(fcntl, "flock", flock)
    with locked(path, 0):
        assert path.exists() and is_held(path)


def test_those_who_only_look_do_not_see_each_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that nobody trains would be "running" for one of two studies in one folder."""
    path.touch()
    real, seen = os.close, list[bool]()

    def close(descriptor: int) -> None:  # while the first still has it
        monkeypatch.setattr(os, "close", real)
        seen.append(is_held(path))
        real(descriptor)

    monkeypatch.setattr(os, "close", close)
    assert not is_held(path) and seen == [False]


def test_looking_makes_no_file(path: Path) -> None:
    assert not is_held(path) and not path.exists()


def test_what_is_left_over_is_removed_by_who_gets_the_lock(path: Path) -> None:
    (path.parent / "kept.tmp").touch()
    (path.parent / ".tmpAbC").touch()  # as safetensors names it, in runs of earlier versions
    with contextlib.suppress(UserError), atomic_path(path.parent / "a.txt") as temporary:
        temporary.touch()
        with locked(path):
            remove_left_over(path)
            assert temporary.exists()
        remove_left_over(path)
        assert [there.name for there in path.parent.iterdir()] == ["kept.tmp"]


# --- where there are no locks


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(locks, "_unlocked", set())


def test_without_locks_one_line_says_so(
    path: Path, no_locks: None, capsys: pytest.CaptureFixture[str]
) -> None:
    path.touch()  # of an earlier process: it holds nothing
    left = path.parent / ".tmpAbC"
    left.touch()
    (path.parent / "folder").mkdir()
    with locked(path, 0), one_at_a_time(path.parent / "folder" / ".lock"):
        assert not is_held(path)
    remove_left_over(path)
    assert left.exists()  # perhaps a living process writes it
    line = f"{path.parent}: no file locks here: don't train one run twice at once\n"
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_other_errors_are_errors(path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(OSError, match=os.strerror(number)), locked(path, 0):
        pass
