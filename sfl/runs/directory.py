"""One run directory: the names of its files, reading them, writing the small ones, its lock.

Reads and writes text files only, so that listing runs needs no torch. docs/run-directory.md
describes the files. Knows nothing of training, nor of other runs.
"""

import contextlib
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from sfl import locks
from sfl.config.yamlfile import YamlTree, parse
from sfl.errors import DIVERGED, Exit, UserError
from sfl.files import atomic_path, write_error, write_text
from sfl.runs.records import Environment, Epoch, Provenance, Record, Result
from sfl.shell import command

R = TypeVar("R", bound=Record)

Status = Literal["running", "finished", "interrupted", "failed", "damaged"]

CONFIG, METRICS, RESULT = "config.yaml", "metrics.jsonl", "result.json"
UNSAVED, COPIES = "metrics.unsaved.jsonl", "copies.json"
ENVIRONMENT, PREDICTIONS, LABELS = "environment.json", "predictions.npy", "labels.npy"
LAST, BEST, FAILURE, LOCK = "last.safetensors", "best.safetensors", "failure.txt", ".lock"


@dataclass(frozen=True)
class Run:
    """One run directory. A file is read when its property is used."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    @cached_property
    def config_text(self) -> str:
        """The text of config.yaml; "" if there is none."""
        return self._read(CONFIG) or ""

    @cached_property
    def config_tree(self) -> YamlTree:
        """config.yaml as values with their lines. Raises UserError (exit 4)."""
        try:
            return parse(self.config_text, str(self.path / CONFIG))
        except UserError as error:
            raise UserError(str(error), exit_code=Exit.RUN) from None

    @property
    def config(self) -> dict[str, Any]:
        """config.yaml as plain values. Raises UserError (exit 4)."""
        return dict(self.config_tree.values)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines, each checked as an `Epoch`, as plain values; [] before the first epoch.

        Plain, because curves and tables ask for columns by name, and because a checkpoint and
        `load_run(...).metrics` hold the same. Raises UserError (exit 4).
        """
        found = []
        for number, line in enumerate((self._read(METRICS) or "").splitlines(), 1):
            found.append(self._object(METRICS, line))
            Epoch.check(found[-1], f"{self.path / METRICS}: line {number}")
        return found

    @property
    def logged(self) -> set[str]:
        """The names of what it has logged, in some epoch."""
        return set().union(*self.metrics)

    @cached_property
    def result(self) -> Result | None:
        """result.json; None before the run has finished. Raises UserError (exit 4)."""
        return self.record(RESULT, Result)

    @property
    def environment(self) -> Environment | None:
        """environment.json; None before training has begun. Raises UserError (exit 4)."""
        return self.record(ENVIRONMENT, Environment)

    @property
    def provenance(self) -> Provenance | None:
        """On which images it is trained; None if the run doesn't say."""
        if self.result is not None:
            return self.result.data
        return self.environment.data if self.environment else None

    def record(self, name: str, kind: type[R]) -> R | None:
        """A JSON file as a record of a kind; None without the file. Raises UserError (exit 4)."""
        text = self._read(name)
        return None if text is None else kind.check(self._object(name, text), str(self.path / name))

    def _read(self, name: str) -> str | None:
        """A file's text; None if there is no file. Raises UserError (exit 4)."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not a text file"
            raise UserError(f"{self.path / name}: can't be read: {reason}", "", Exit.RUN) from None

    def _object(self, name: str, text: str) -> dict[str, Any]:
        """The JSON object in a text. name: the file it is from. Raises UserError (exit 4)."""
        values = None
        with contextlib.suppress(ValueError, RecursionError):
            values = json.loads(text)
        if not isinstance(values, dict):
            raise self.damaged(name)
        return values

    def damaged(self, name: str) -> UserError:
        """The error for a file with the wrong content."""
        said, hint = f"{self.path / name}: damaged", "put it back, or delete the run"
        return UserError(said, hint, Exit.RUN, command("runs", "rm", self.path))

    @property
    def status(self) -> Status:
        """running: locked; finished: has result.json; failed: has failure.txt; else interrupted."""
        if self.is_locked():
            return "running"
        if (self.path / RESULT).exists():
            return "finished"
        return "failed" if (self.path / FAILURE).exists() else "interrupted"

    @property
    def failure(self) -> str | None:
        """Why training failed, in one line; None if it did not fail."""
        return self._read(FAILURE)

    @property
    def has_diverged(self) -> bool:
        """Whether training ended in numbers that are not finite; the same settings would again."""
        return self.status == "failed" and (self.failure or "").startswith(DIVERGED)

    @property
    def modified(self) -> float:
        """When training last wrote a file, in seconds since 1970; not `sfl evaluate`."""
        files = (path for path in self.path.glob("*") if path.name != COPIES)
        return max((found.st_mtime for found in self._stats(files)), default=0.0)

    @property
    def bytes(self) -> int:
        """Size of all its files, including those in its folders."""
        return sum(found.st_size for found in self._stats(self.path.rglob("*")))

    @property
    def checkpoint_bytes(self) -> int:
        there = (self.path / name for name in (LAST, BEST))
        return sum(found.st_size for found in self._stats(there))

    @staticmethod
    def _stats(paths: Iterator[Path]) -> list[os.stat_result]:
        """Of those paths that are files. Ignores files that a running run deletes meanwhile."""
        stats = []
        with contextlib.suppress(FileNotFoundError):
            for path in paths:
                with contextlib.suppress(FileNotFoundError):
                    found = path.stat()
                    if stat.S_ISREG(found.st_mode):
                        stats.append(found)
        return stats

    @property
    def has_weights(self) -> bool:
        """Whether there are weights to test; while an epoch is saved, before its metrics: not."""
        return bool(self.metrics) and (self.path / BEST).exists()

    def has_begun(self) -> bool:
        """Whether training has written metrics or a checkpoint."""
        checkpoints = ((self.path / name).exists() for name in (LAST, BEST))
        return bool(self._read(METRICS)) or any(checkpoints)

    def is_locked(self) -> bool:
        """Whether a process is training this run."""
        return locks.is_held(self.path / LOCK)

    def write_metrics(self, metrics: list[dict[str, Any]]) -> None:
        write_text(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in metrics))

    def keep_unsaved_metrics(self, saved: int) -> int:
        """How many epochs stand in metrics.jsonl; if more than `saved`, keeps a copy of the file.

        saved: the epochs that a checkpoint has. The others are trained again, and written anew.
        """
        there = b""  # bytes: of a damaged file, too
        with contextlib.suppress(OSError):
            there = (self.path / METRICS).read_bytes()
        trained = there.count(b"\n")
        if trained > saved:
            with atomic_path(self.path / UNSAVED) as temporary:
                temporary.write_bytes(there)
        return trained

    def write_failure(self, error: Exception) -> None:
        """Writes into failure.txt why training failed. Ignores it if that can't be written.

        Of an error that is no UserError only the type is written: its message may contain paths,
        or names of hosts and users.
        """
        line = str(error) if isinstance(error, UserError) else type(error).__name__
        for path in (self.path.absolute(), self.path):
            line = line.replace(str(path), self.name)
        with contextlib.suppress(UserError):
            write_text(self.path / FAILURE, f"{line.partition(chr(10))[0]}\n")

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Replaces a JSON file of the run."""
        write_text(self.path / name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def lock(run: Run) -> Iterator[None]:
    """Locks the run for this process. Raises UserError (exit 4) if another process has locked it.

    The lock file is deleted when the run has finished.
    """
    path = run.path / LOCK
    with contextlib.ExitStack() as held:
        try:  # for a second, because asking for the status locks a run for a moment
            held.enter_context(locks.locked(path, 1, locks.LEFT_OVER))
        except TimeoutError:
            said = f"{run.path}: another process is training it"
            raise UserError(said, "wait, or stop that one", Exit.RUN) from None
        except OSError as error:
            raise write_error(path, error) from None
        try:
            yield
        finally:
            if (run.path / RESULT).exists():
                path.unlink(missing_ok=True)
