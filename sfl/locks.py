"""Lock files: one process at a time, in a run directory or in another folder.

A lock ends with the process that holds it, however that ends (flock). Where all who write into a
folder hold its lock, whoever gets it removes what dead processes left half-written.

The package filelock isn't used: where a file system has no locks, the file itself becomes the lock,
and one that was there before is waited for without end. Here one line says so, and work goes on.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from sfl.files import UNSUPPORTED
from sfl.progress import say

POLL = 0.05  # seconds
# What a dead process may leave half-written: atomic_path's folders, and what earlier versions left.
# In a folder that other programs use, it may be theirs.
LEFT_OVER = (".*.tmp", ".tmp*")

_unlocked: set[int] = set()  # file systems without locks, of which that was said


@contextlib.contextmanager
def locked(
    path: Path, timeout: float | None = None, left_over: Iterable[str] = ()
) -> Iterator[None]:
    """Holds the lock file `path`, which is made if need be and stays.

    timeout: how many seconds to wait for another process; None: as long as it takes.
    left_over: patterns of what dead processes left beside it, which is removed.

    Raises TimeoutError, and OSError if the file can't be made.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    while True:
        try:
            descriptor, holds = _take(path, os.O_RDWR | os.O_CREAT)
            break
        except BlockingIOError:
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError from None
        time.sleep(POLL)
    try:
        if holds:
            _remove(path.parent, left_over)
        else:
            _say_unlocked(descriptor, path.parent)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file; False where there is none, or there are no locks."""
    try:  # shared, so that two processes that only look don't see each other
        os.close(_take(path, os.O_RDWR, fcntl.LOCK_SH)[0])
    except BlockingIOError:
        return True
    except OSError:  # no such file, or we may not write to it, so no process of ours holds it
        return False
    return False


@contextlib.contextmanager
def one_at_a_time(path: Path, left_over: Iterable[str] = ()) -> Iterator[None]:
    """Holds the lock file `path` as `locked` does, and removes it at the end.

    Waits if another process holds it; that process may then have done the work already. If the
    lock can't be made (a read-only folder), the body runs without one.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            try:
                held.enter_context(locked(path, 0, left_over))
            except TimeoutError:
                say(f"waiting for another process that is using {path.parent} ...")
                held.enter_context(locked(path, None, left_over))
            held.callback(path.unlink, missing_ok=True)
        yield


def remove_left_over(path: Path) -> None:
    """Removes what dead processes left beside the lock file `path`, unless it is held."""
    if any(left for pattern in LEFT_OVER for left in path.parent.glob(pattern)):
        with contextlib.suppress(OSError), locked(path, 0, LEFT_OVER):
            path.unlink()


def _take(path: Path, flags: int, kind: int = fcntl.LOCK_EX) -> tuple[int, bool]:
    """The opened file, and whether it is locked now: False where the file system has no locks.

    Raises BlockingIOError while another process holds it.
    """
    while True:
        descriptor, holds = os.open(path, flags, 0o666), True
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                os.close(descriptor)
                # Some file systems say "permission denied" of a lock that is held.
                raise (BlockingIOError() if error.errno == errno.EACCES else error) from None
            holds = False
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor, holds
        os.close(descriptor)  # it was removed by who held it before: the lock of nothing


def _remove(folder: Path, patterns: Iterable[str]) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _say_unlocked(descriptor: int, folder: Path) -> None:
    device = os.fstat(descriptor).st_dev
    if device not in _unlocked:
        _unlocked.add(device)
        say(f"{folder}: no file locks here: don't train one run twice at once")
