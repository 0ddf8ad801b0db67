"""The one atomic file writer: a reader sees the old file or the new one, never half of one.

Knows nothing of what is written.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sfl.errors import Exit, UserError


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Gives a temporary path in the folder of `path`; on leaving, it becomes `path`.

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
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes a text file (UTF-8) atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_error(path: Path, error: OSError) -> UserError:
    """An operating system's refusal to write `path`, as a line for the user."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        there = next(folder for folder in path.absolute().parents if folder.exists())
        free = shutil.disk_usage(there).free
        return UserError(
            f"{path}: no space left on the disk ({free / 1e6:.0f} MB free)",
            "free some, or choose another folder",
            Exit.RESOURCES,
        )
    return UserError(
        f"{path}: can't be written: {error.strerror or error}",
        "make the folder writable, or choose another one",
        Exit.RUN,
    )


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
