"""Makes or updates the repository's .venv. scripts/setup-env calls it when the stamp differs.

Standard library only, because nothing is installed yet. All it says goes to standard error, a
failure as one line: exit 2 a setting, 3 the package index, 6 the disk.
"""

import contextlib
import errno
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
STAMP = VENV / "stamp"
LOG = ROOT / ".venv.log"  # beside .venv, because it must outlive a .venv that failed
LOCK = ROOT / ".venv.lock"
# Linux gets torch with CUDA: 6.2 GB, and what pip has downloaded lies beside it until pip ends.
NEEDED_GB = 9.0 if sys.platform == "linux" else 2.0


class Failure(Exception):
    """One line for the user, and the exit code."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code


def main() -> int:
    # So that a set-up that is told to end takes pip with it, as Ctrl-C does.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        with locked() as lock:
            if not is_current():  # the one that we may have waited for has done it
                set_up(lock)
    except Failure as failure:
        say(f"error: {failure}")
        return failure.code
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        say(f"error: {disk_is_full()}" if full else f"error: can't set up {VENV}: {error}")
        return 6
    except KeyboardInterrupt:
        say("interrupted; the next call sets up .venv anew")
        return 130
    return 0


@contextlib.contextmanager
def locked() -> Iterator[int]:
    """Holds the lock. The kernel lets go of it when the last process that has it open ends."""
    with LOCK.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another set-up of .venv …")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def wanted() -> bytes:
    """What the stamp holds when .venv is current; scripts/setup-env compares with the same."""
    return os.fsencode(ROOT) + b"\n" + (ROOT / "pyproject.toml").read_bytes()


def is_complete() -> bool:
    """Whether a set-up once ended well, in this folder, with this version of Python."""
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return (
        STAMP.is_file()
        and STAMP.read_bytes().startswith(os.fsencode(ROOT) + b"\n")
        and os.access(VENV / "bin" / "python", os.X_OK)
        and (VENV / "lib" / version).is_dir()
    )


def is_current() -> bool:
    return is_complete() and STAMP.read_bytes() == wanted()


def set_up(lock: int) -> None:
    content = wanted()  # read first: whoever edits pyproject.toml meanwhile gets another set-up
    if is_complete():
        update(lock)
    else:
        make(lock)
    temporary = STAMP.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(STAMP)


def update(lock: int) -> None:
    say("updating .venv (pyproject.toml has changed) …")
    before = STAMP.read_bytes()
    STAMP.unlink()  # interrupted from here on, it is made anew
    try:
        install(lock)
    except Failure:
        STAMP.write_bytes(before)  # pip takes back what it could not finish: what was, still works
        raise


def make(lock: int) -> None:
    shutil.rmtree(VENV, ignore_errors=True)  # before space is measured
    check_space()
    size = "6 GB" if sys.platform == "linux" else "1 GB"
    say(f"setting up .venv (once, about {size}, a few minutes) …")
    # The real path of the interpreter: when that version of Python is removed the link dangles,
    # which is noticed; /usr/bin/python3 would silently become another version.
    python = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    try:
        run(lock, [python, "-I", "-m", "venv", "--clear", str(VENV)])
        install(lock)
    except BaseException:
        shutil.rmtree(VENV, ignore_errors=True)
        raise


def check_space() -> None:
    setting = os.environ.get("SFL_VENV_GB", str(NEEDED_GB))
    try:
        needed = float(setting)
    except ValueError:
        raise Failure(f"SFL_VENV_GB={setting} is no number of gigabytes", 2) from None
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < needed:
        raise Failure(
            f"not enough disk: setting up .venv takes {needed:g} GB while it runs, and {ROOT} has "
            f"{free:.1f} GB free; free some, or say with SFL_VENV_GB=… how much is enough",
            6,
        )


def install(lock: int) -> None:
    # pip unpacks gigabytes: into the disk that was measured, not into a /tmp that may be memory.
    temporary = VENV / "tmp"
    temporary.mkdir(exist_ok=True)
    run(lock, [*pip(), "install", "--editable", ".[dev]"], {"TMPDIR": str(temporary)})
    shutil.rmtree(temporary, ignore_errors=True)


def pip() -> list[str]:
    # -I: what PYTHONPATH offers would count as installed.
    options = ["--disable-pip-version-check", "--no-input"]
    return [str(VENV / "bin" / "python"), "-I", "-m", "pip", *options]


def run(lock: int, command: list[str], environment: dict[str, str] | None = None) -> None:
    """Runs one step, its output into the log. Raises Failure with the reason in one line."""
    output = []
    with (
        LOG.open("wb", buffering=0) as log,
        subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[lock],  # if only we are killed, the lock is held until pip has ended too
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                output.append(line.decode(errors="replace"))
                log.write(line)
        except BaseException:
            process.terminate()
            raise
    if process.returncode != 0:
        raise explain("".join(output))


def explain(output: str) -> Failure:
    """The reason of a failed step, from what it printed."""
    if re.search(r"No space left|Disk quota exceeded", output):
        return Failure(disk_is_full(), 6)
    if re.search(r"Retrying|ConnectionPool|Could not fetch URL|HTTP error|timed out", output):
        reason = "the package index can't be reached; check the network, the proxy and pip's index"
    else:
        errors = re.findall(r"ERROR: (.*)", output) or output.split("\n")[-2:-1]
        reason = f"the packages can't be installed: {errors[-1] if errors else 'no reason given'}"
    return Failure(f"{reason} (pip's own words: {LOG})", 3)


def disk_is_full() -> str:
    return f"no space left on the disk while setting up {VENV}; free some and call again"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
