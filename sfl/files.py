"""The one atomic file writer: a reader sees the old file or the new one, never half of one.

And work on files that one process does for all. Knows nothing of what is written.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from sfl.errors import Exit, UserError
from sfl.progress import say


@contextlib.contextmanager
def atomic_path(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Gives a temporary path in the folder of `path`; on leaving, it becomes `path`.

    needed: how many bytes it will have, if that is known; only told where they don't fit.

    The content is on the disk (fsync) before the name points to it, and the name is on the
    disk before this returns. If the body raises, `path` is as it was and nothing is left over.

    Raises UserError (exit 6) on a full disk, (exit 4) where the folder can't be written to.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        # mkstemp makes 0600, and so do writers that put a file of their own in its place.
        os.chmod(temporary, 0o666 & ~_umask())
        _fsync(temporary)
        os.replace(temporary, path)
        _fsync(path.parent)
    except OSError as error:
        raise write_error(path, error, needed) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file (UTF-8) atomically."""
    content = text.encode()
    with atomic_path(path, len(content)) as temporary:
        temporary.write_bytes(content)


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Holds the lock file `path`, which goes again, for work that others may find done then.

    Waits for the process that holds it; where no lock can be had, each does the work.
    """
    lock = FileLock(path)
    with contextlib.suppress(OSError):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another process that works on {path.parent} ...")
            lock.acquire()
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)
            lock.release()


def check_folder(folder: Path, option: str) -> None:
    """Raises UserError (exit 4) where `folder`, made or not, can't be written to.

    option: with which another one can be chosen.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: not a folder", f"choose another with {option}", Exit.RUN)
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise write_error(there, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def check_space(path: Path, needed: int) -> None:
    """Raises UserError (exit 6) where so many bytes can't be written to `path`, or below it."""
    if needed > _free_bytes(path):
        raise _disk_full(path, needed)


def write_error(path: Path, error: OSError, needed: int | None = None) -> UserError:
    """An operating system's refusal to write `path`, as a line for the user.

    needed: how many bytes it would have had, if that is known.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(path, needed)
    gone = error.errno == errno.ENOENT
    hint = "its folder is gone" if gone else "make the folder writable, or choose another one"
    return UserError(f"{path}: can't be written: {error.strerror or error}", hint, Exit.RUN)


def _disk_full(path: Path, needed: int | None) -> UserError:
    wanted = "" if needed is None else f"{needed:,} bytes needed, "
    return UserError(
        f"{path}: no space left on the disk ({wanted}{_free_bytes(path):,} free)",
        "free some, or choose another folder",
        Exit.RESOURCES,
    )


def _free_bytes(path: Path) -> int:
    there = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(there).free


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
