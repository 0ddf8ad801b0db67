"""A run directory: make it exclusively, lock it, find it, list it, read it.

Reads and writes text files only, so that listing runs needs no torch. What a run directory holds
is described in docs/run-directory.md. Knows nothing of training.
"""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from sfl.errors import PROGRAM, Exit, UserError
from sfl.files import write_error, write_text
from sfl.yamlfile import parse

Status = Literal["running", "finished", "interrupted", "damaged"]

CONFIG, METRICS, RESULT = "config.yaml", "metrics.jsonl", "result.json"
ENVIRONMENT, PREDICTIONS = "environment.json", "predictions.npy"
LAST, BEST = "last.safetensors", "best.safetensors"
LOCK = ".lock"


@dataclass(frozen=True)
class Run:
    """One run directory; its files are read when asked for."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def config_text(self) -> str:
        """config.yaml as it stands."""
        return self._read(CONFIG) or ""

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml as plain values. Raises UserError (exit 4)."""
        try:
            return dict(parse(self.config_text, str(self.path / CONFIG)).values)
        except UserError as error:
            raise UserError(str(error), exit_code=Exit.RUN) from None

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One object an epoch; [] before the first."""
        return [self._object(METRICS, line) for line in (self._read(METRICS) or "").splitlines()]

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """result.json; None before the run has finished."""
        return self._json(RESULT)

    @property
    def environment(self) -> dict[str, Any] | None:
        """environment.json; None before training has begun."""
        return self._json(ENVIRONMENT)

    @property
    def provenance(self) -> dict[str, str] | None:
        """Source and fingerprints of the images that it is trained on; None: it doesn't say."""
        return (self.result or self.environment or {}).get("data")

    def _json(self, name: str) -> dict[str, Any] | None:
        text = self._read(name)
        return None if text is None else self._object(name, text)

    def _read(self, name: str) -> str | None:
        """A file's text; None where there is none. Raises UserError (exit 4)."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise UserError(f"{self.path / name}: can't be read: {reason}", "", Exit.RUN) from None

    def _object(self, name: str, text: str) -> dict[str, Any]:
        """A JSON object of one of its files. Raises UserError (exit 4)."""
        try:
            values = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            values = None
        if not isinstance(values, dict):
            raise self.damaged(name)
        return values

    def damaged(self, name: str) -> UserError:
        """What to raise for one of its files that doesn't say what it should."""
        hint = f"put it back, or delete the run: {PROGRAM} runs rm {self.name}"
        return UserError(f"{self.path / name}: damaged", hint, Exit.RUN)

    @property
    def status(self) -> Status:
        """running: a process holds its lock; finished: it has a result; else interrupted."""
        if self.is_locked():
            return "running"
        return "finished" if (self.path / RESULT).exists() else "interrupted"

    @property
    def modified(self) -> float:
        """When something was last written, in seconds since 1970."""
        return max((stat.st_mtime for stat in self._stats()), default=0.0)

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(stat.st_size for stat in self._stats())

    @property
    def checkpoint_bytes(self) -> int:
        """Size of its checkpoints."""
        there = [self.path / name for name in (LAST, BEST) if (self.path / name).exists()]
        return sum(path.stat().st_size for path in there)

    def _stats(self) -> list[os.stat_result]:
        """Of every file; a running run's temporary ones may go while we look."""
        stats = []
        with contextlib.suppress(FileNotFoundError):
            for file in self.path.iterdir():
                with contextlib.suppress(FileNotFoundError):
                    stats.append(file.stat())
        return stats

    def has_begun(self) -> bool:
        """Whether there is anything in it that training has made."""
        return bool(self.metrics) or (self.path / LAST).exists() or (self.path / BEST).exists()

    def is_locked(self) -> bool:
        """Whether a process is training this run."""
        path = self.path / LOCK
        if not path.exists():
            return False
        try:
            with FileLock(path, timeout=0):
                return False
        except Timeout:
            return True
        except OSError:  # a folder that we may not write to: nobody trains there as us
            return False

    def write_metrics(self, metrics: list[dict[str, Any]]) -> None:
        """Replaces metrics.jsonl."""
        write_text(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in metrics))

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Replaces a JSON file of the run."""
        write_text(self.path / name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def create(root: Path, name: str, *, exact: bool = False) -> Run:
    """A new, empty run directory: `name`, or `name-2`, `name-3`… where it is taken.

    exact: a name given by hand; one that exists is refused (exit 4).
    """
    for attempt in range(1, 1_000_000):
        path = root / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            return Run(path)
        except FileExistsError:
            check_root(root)
            if exact:
                check_new(root, name)
        except OSError as error:
            raise write_error(path, error) from None
    raise AssertionError("a million runs of one name")


def check_new(root: Path, name: str) -> None:
    """Raises UserError for a name given by hand that is taken (exit 4) or none (exit 2)."""
    odd = not name.isprintable() or name.startswith((".", "-")) or len(os.fsencode(name)) > 200
    if not name or odd or Path(name).name != name:
        raise UserError(f"--name {name[:80]!r}: expected a name, not a path; up to 200 letters")
    path = root / name
    if path.exists():
        hint = f"choose another, or go on with it: {PROGRAM} train --resume {path}"
        raise UserError(f"{path}: a run of this name exists", hint, Exit.RUN)


def check_root(root: Path) -> None:
    """Raises UserError (exit 4) where no run can be made below `root`, before minutes of work."""
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: not a folder", "choose another with --runs", Exit.RUN)
    there = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        raise write_error(there, PermissionError(errno.EACCES, os.strerror(errno.EACCES)))


@contextlib.contextmanager
def lock(run: Run) -> Iterator[None]:
    """Holds the run for this process; refused (exit 4) while another one holds it.

    The lock's file goes when the run has finished: nobody will train it any more.
    """
    taken = FileLock(run.path / LOCK)
    try:
        taken.acquire(timeout=1)  # a reader that asks for the status holds it for a moment
    except Timeout:
        raise UserError(
            f"{run.path}: another process is training it", "wait, or stop that one", Exit.RUN
        ) from None
    except OSError as error:
        raise write_error(run.path / LOCK, error) from None
    try:
        for pattern in (".*.tmp", ".tmp*"):  # of a process that was killed while it wrote: ours,
            for left_over in run.path.glob(pattern):  # and safetensors'
                left_over.unlink(missing_ok=True)
        yield
    finally:
        if (run.path / RESULT).exists():
            (run.path / LOCK).unlink(missing_ok=True)
        taken.release()


def list_runs(root: Path) -> list[Run]:
    """All run directories, the last written last. Raises UserError (exit 4): can't be read."""
    try:
        paths = list(root.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{root}: can't be read: {error.strerror}", "", Exit.RUN) from None
    runs = [Run(path) for path in paths if _is_run(path)]
    return sorted(runs, key=lambda run: (run.modified, run.name))


def search(root: Path, name: str) -> Run | None:
    """The run of that name below `root`, or at that path; None where there is no such run."""
    return next((Run(path) for path in (root / name, Path(name)) if _is_run(path)), None)


def find(root: Path, name: str) -> Run:
    """As `search`, but raises UserError (exit 4) where there is no such run."""
    if run := search(root, name):
        return run
    names = [run.name for run in list_runs(root)]
    hint = f"there are {', '.join(names[-8:])}" if names else "there are none yet"
    raise UserError(f"{name}: no such run in {root}", hint, Exit.RUN)


def find_weights(root: Path, name: str | None) -> Path:
    """The trained weights of a run, or the file itself; without a name, of the newest finished run.

    Raises UserError (exit 4).
    """
    if name is not None and os.path.isfile(name):
        return Path(name)
    run = newest_finished(root) if name is None else find(root, name)
    if not (run.path / BEST).exists():
        hint = {
            "running": "wait for its first checkpoint",
            "interrupted": f"go on with it: {PROGRAM} train --resume {run.path}",
        }.get(run.status, f"{BEST} was not kept")
        raise UserError(f"{run.path}: has no trained weights", hint, Exit.RUN)
    return run.path / BEST


def _is_run(path: Path) -> bool:
    """A config.yaml alone doesn't make one: other programs have such files, and we delete runs."""
    there = [name for name in (CONFIG, ENVIRONMENT, LOCK) if os.path.isfile(path / name)]
    return CONFIG in there and len(there) > 1


def newest_finished(root: Path) -> Run:
    """Raises UserError (exit 4) where no run has finished."""
    finished = [run for run in list_runs(root) if (run.path / RESULT).exists()]
    if not finished:
        hint = f"train one: {PROGRAM} train --config configs/quickstart.yaml"
        raise UserError(f"{root}: no finished run", hint, Exit.RUN)
    return max(finished, key=lambda run: (run.path / RESULT).stat().st_mtime)


def remove(run: Run) -> None:
    """Deletes a run directory; refused (exit 4) while it is being trained."""
    try:
        with lock(run):
            shutil.rmtree(run.path)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.strerror else error
        raise UserError(f"{run.path}: can't be deleted: {reason}", "", Exit.RUN) from None
