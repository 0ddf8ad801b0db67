"""The atomic writer: all or nothing, and a line of text when it is nothing."""

import errno
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from sfl.errors import Exit, UserError
from sfl.files import atomic_path, check_space, write_error, write_text


def refuse(number: int) -> Callable[..., NoReturn]:
    """Stands for a system call; these tests may run as root, whom no file mode stops."""

    def call(*arguments: object, **keywords: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    return call


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_writes_text_as_utf8_and_replaces_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "first")
    write_text(path, "größer ×2\n")
    assert path.read_bytes() == "größer ×2\n".encode()
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [RuntimeError("half way"), KeyboardInterrupt()])
def test_a_failing_body_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, error: BaseException
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text("half of the new")
            raise error

    with pytest.raises(type(error)):
        write()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
        # A rename between file systems would be a copy.
        assert temporary.parent.parent == path.parent
    assert path.read_text() == "new"


def test_the_content_is_on_the_disk_before_the_name_points_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        calls.append(f"fsync {kind}")
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        calls.append("replace")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_text(tmp_path / "a.txt", "x")
    assert calls == ["fsync file", "replace", "fsync folder"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_mode_is_that_of_any_new_file(tmp_path: Path, umask: int) -> None:
    path, before = tmp_path / "a.bin", os.umask(umask)
    try:
        with atomic_path(path) as temporary:
            # As safetensors does: a file with a mode of its own.
            os.close(os.open(temporary, os.O_CREAT | os.O_WRONLY, 0o600))
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
        assert os.umask(umask) == umask  # looking at it didn't change it
    finally:
        os.umask(before)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_one_line_and_exit_6(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    monkeypatch.setattr(os, call, refuse(errno.ENOSPC))
    with pytest.raises(UserError) as caught:
        write_text(path, "new")
    assert caught.value.exit_code is Exit.RESOURCES
    assert str(caught.value).startswith(f"{path}: no space left on the disk (")
    assert "(3 bytes needed, " in str(caught.value)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_that_cannot_be_written_to_is_one_line_and_exit_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.mkdtemp", refuse(errno.EACCES))
    with pytest.raises(UserError) as caught:
        write_text(tmp_path / "a.txt", "new")
    assert caught.value.exit_code is Exit.RUN
    assert str(caught.value) == (
        f"{tmp_path / 'a.txt'}: can't be written: Permission denied "
        "(make the folder writable, or choose another one)"
    )


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be written: No such file or directory"):
        write_text(tmp_path / "none" / "a.txt", "new")


@pytest.mark.parametrize("call", ["fsync", "chmod"])
@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EPERM, errno.ENOSYS])
def test_a_write_does_without_what_the_file_system_does_not_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    monkeypatch.setattr(os, call, refuse(number))
    write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").read_text() == "x" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "chmod"])
@pytest.mark.parametrize("number", [errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_write_does_not_do_without_a_disk_that_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    monkeypatch.setattr(os, call, refuse(number))
    with pytest.raises(UserError):
        write_text(tmp_path / "a.txt", "x")
    assert names(tmp_path) == []


@pytest.mark.parametrize("answer", [lambda _: SimpleNamespace(free=0, total=0), refuse(errno.EIO)])
def test_a_file_system_that_does_not_say_its_size_may_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[..., Any]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", answer)
    check_space(tmp_path / "a.txt", 1)
    error = write_error(tmp_path / "a.txt", OSError(errno.ENOSPC, "full"), 3)
    assert "no space left on the disk (3 bytes needed) (" in str(error)


def test_a_full_disk_is_told_of_a_folder_that_could_not_even_be_made(tmp_path: Path) -> None:
    error = write_error(tmp_path / "none" / "none" / "run", OSError(errno.ENOSPC, "full"))
    assert error.exit_code is Exit.RESOURCES and "no space left" in str(error)
