"""Atomic writing: a reader sees the old file or the new one, never half of one.

Also checks of folders and disk space. Knows nothing of the files' content.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from sfl.errors import Exit, UserError

TEMPORARY = ".sfl.tmp"  # how the name of a folder with a file that is being written ends
# What file systems answer to calls that they don't have (SMB, FUSE, exFAT and others): a write does
# without its extras there. A full disk, a lost permission or a broken device is not among them.
UNSUPPORTED = {
    *(errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM, errno.ENOSYS, errno.ENOTTY),
    errno.ENOLCK,
}


@contextlib.contextmanager
def atomic_path(path: Path, needed: int | None = None) -> Iterator[Path]:
    """Yields the path of a file to be written; at the end, that file is renamed to `path`.

    needed: the size in bytes, if known; only used in the message about a full disk.

    It lies in a new folder beside `path`, so that all that a killed writer leaves, also under names
    of its own, is in one place; `sfl.locks` removes that. The content is on the disk (fsync) before
    the file is renamed, and the new name is on the disk before this returns, where the file system
    can do that. If the body raises, `path` is unchanged and the temporary file is removed.

    Raises UserError (exit 6) if the disk is full, (exit 4) if the folder can't be written to.
    """
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=TEMPORARY))
        temporary = folder / path.name
        yield temporary
        # safetensors writes a file with mode 0600.
        _if_supported(lambda: os.chmod(temporary, 0o666 & ~_umask()))
        _if_supported(lambda: _fsync(temporary))
        os.replace(temporary, path)
        _if_supported(lambda: _fsync(path.parent))
    except OSError as error:
        raise write_error(path, error, needed) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file (UTF-8) atomically."""
    content = text.encode()
    with atomic_path(path, len(content)) as temporary:
        temporary.write_bytes(content)


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
    free = _free_bytes(path)
    if free is not None and needed > free:
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
    free = _free_bytes(path)
    known = [] if needed is None else [f"{needed:,} bytes needed"]
    known += [] if free is None else [f"{free:,} free"]
    return UserError(
        f"{path}: no space left on the disk" + (f" ({', '.join(known)})" if known else ""),
        "free some space, or choose another folder",
        Exit.RESOURCES,
    )


def _free_bytes(path: Path) -> int | None:
    """None where the file system doesn't say it, or says that it has no bytes at all."""
    existing = next(folder for folder in (path, *path.absolute().parents) if folder.is_dir())
    try:
        usage = shutil.disk_usage(existing)
    except OSError:
        return None
    return usage.free if usage.total else None


def _if_supported(call: Callable[[], None]) -> None:
    """Calls it; a file system without that call is no error."""
    try:
        call()
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise


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
