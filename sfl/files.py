"""Atomic writing: a reader sees the old file or the new one, never half of one.

Also file locks, and checks of folders and disk space. Knows nothing of the files' content.
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
    """Yields a temporary path in the folder of `path`; at the end, the file is renamed to `path`.

    needed: the size in bytes, if known; only used in the message about a full disk.

    The content is on the disk (fsync) before the file is renamed, and the new name is on the disk
    before this returns. If the body raises, `path` is unchanged and the temporary file is removed.

    Raises UserError (exit 6) if the disk is full, (exit 4) if the folder can't be written to.
    """
    temporary: Path | None = None
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        # mkstemp creates files with mode 0600, and so do writers that replace the temporary file.
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
    """Holds the lock file `path`, and removes it at the end.

    Waits if another process holds it; that process may then have done the work already. If the
    lock can't be made (a read-only folder), the body runs without one.
    """
    lock = FileLock(path)
    with contextlib.suppress(OSError):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"waiting for another process that is using {path.parent} ...")
            lock.acquire()
    try:
        yield
    finally:
        if lock.is_locked:
            path.unlink(missing_ok=True)
            lock.release()


def check_folder(folder: Path, option: str) -> None:
    """Raises UserError (exit 4) if `folder` can't be written to, or can't be created.

    option: the command-line option that chooses another folder.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: not a folder", f"choose another with {option}", Exit.RUN)
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise write_error(existing, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


def check_space(path: Path, needed: int) -> None:
    """Raises UserError (exit 6) if the disk of `path` has fewer than `needed` bytes free."""
    if needed > _free_bytes(path):
        raise _disk_full(path, needed)


def write_error(path: Path, error: OSError, needed: int | None = None) -> UserError:
    """The UserError for an OSError that was raised while writing `path`.

    needed: the size in bytes of what was written, if known.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(path, needed)
    gone = error.errno == errno.ENOENT
    hint = "its folder was removed" if gone else "make the folder writable, or choose another one"
    return UserError(f"{path}: can't be written: {error.strerror or error}", hint, Exit.RUN)


def _disk_full(path: Path, needed: int | None) -> UserError:
    wanted = "" if needed is None else f"{needed:,} bytes needed, "
    return UserError(
        f"{path}: no space left on the disk ({wanted}{_free_bytes(path):,} free)",
        "free some space, or choose another folder",
        Exit.RESOURCES,
    )


def _free_bytes(path: Path) -> int:
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    return shutil.disk_usage(existing).free


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
