"""A run directory: make it exclusively, lock it, find it, list it, read it.

Reads and writes text files only, so that listing runs needs no torch. What a run directory holds
is described in docs/run-directory.md. Knows nothing of training.
"""

import json
import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml
from filelock import FileLock, Timeout

from sfl.errors import Exit, UserError
from sfl.files import write_error, write_text

Status = Literal["running", "finished", "interrupted"]

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
        try:
            return (self.path / CONFIG).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{self.path / CONFIG}: {error}", exit_code=Exit.RUN) from None

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.yaml as plain values."""
        try:
            values = yaml.safe_load(self.config_text)
        except yaml.YAMLError:
            values = None
        if not isinstance(values, dict):
            raise UserError(f"{self.path / CONFIG}: damaged", exit_code=Exit.RUN)
        return values

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """One object an epoch; [] before the first."""
        path = self.path / METRICS
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        except ValueError:
            raise UserError(f"{path}: damaged", exit_code=Exit.RUN) from None

    @cached_property
    def result(self) -> dict[str, Any] | None:
        """result.json; None before the run has finished."""
        path = self.path / RESULT
        if not path.exists():
            return None
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            values = None
        if not isinstance(values, dict):
            raise UserError(f"{path}: damaged", exit_code=Exit.RUN)
        return values

    @property
    def status(self) -> Status:
        """running: a process holds its lock; finished: it has a result; else interrupted."""
        if self.is_locked():
            return "running"
        return "finished" if (self.path / RESULT).exists() else "interrupted"

    @property
    def modified(self) -> float:
        """When something was last written, in seconds since 1970."""
        return max((file.stat().st_mtime for file in self.path.iterdir()), default=0.0)

    @property
    def bytes(self) -> int:
        """Size of all its files."""
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    @property
    def best_accuracy(self) -> float | None:
        """Highest validation accuracy so far, else the final or highest logged test accuracy."""
        for key in ("validation_accuracy", "test_accuracy"):
            logged = [line[key] for line in self.metrics if key in line]
            if key == "test_accuracy" and self.result is not None:
                return float(self.result["accuracy"])
            if logged:
                return float(max(logged))
        return None

    def describe(self) -> dict[str, Any]:
        """The run in short, as `sfl runs` lists it."""
        return {
            "run": self.name,
            "status": self.status,
            "epochs_done": len(self.metrics),
            "epochs": self.config.get("train", {}).get("epochs"),
            "accuracy": self.best_accuracy,
            "age_seconds": round(time.time() - self.modified),
            "bytes": self.bytes,
        }

    def is_locked(self) -> bool:
        """Whether a process is training this run."""
        path = self.path / LOCK
        if not path.exists():
            return False
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            return True
        lock.release()
        return False

    def write_metrics(self, metrics: list[dict[str, Any]]) -> None:
        """Replaces metrics.jsonl."""
        write_text(self.path / METRICS, "".join(json.dumps(line) + "\n" for line in metrics))

    def write_json(self, name: str, values: dict[str, Any]) -> None:
        """Replaces a JSON file of the run."""
        write_text(self.path / name, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


def create(root: Path, name: str, *, exact: bool = False) -> Run:
    """A new, empty run directory: `name`, or `name-2`, `name-3`… where it is taken.

    exact: a name given by hand; one that exists is refused (exit 4).
    """
    if not name or name in (".", "..") or Path(name).name != name:
        raise UserError(f"--name {name}: a run's name can't contain a path")
    for attempt in range(1, 1_000_000):
        path = root / (name if attempt == 1 else f"{name}-{attempt}")
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            return Run(path)
        except FileExistsError:
            if not root.is_dir():
                raise UserError(f"{root} is not a folder", exit_code=Exit.RUN) from None
            if exact:
                hint = f"choose another, or go on with it: sfl train --resume {path}"
                raise UserError(f"{path}: a run of this name exists", hint, Exit.RUN) from None
        except OSError as error:
            raise write_error(path, error) from None
    raise AssertionError("a million runs of one name")


def lock(run: Run) -> FileLock:
    """Takes the run for this process until released, or its end; refused (exit 4) if it's taken."""
    taken = FileLock(run.path / LOCK)
    try:
        taken.acquire(timeout=0)
    except Timeout:
        raise UserError(f"{run.path}: another process is training it", "", Exit.RUN) from None
    except OSError as error:
        raise write_error(run.path / LOCK, error) from None
    return taken


def list_runs(root: Path) -> list[Run]:
    """All run directories, oldest first."""
    if not root.is_dir():
        return []
    runs = [Run(path) for path in root.iterdir() if (path / CONFIG).is_file()]
    return sorted(runs, key=lambda run: (run.path.stat().st_ctime, run.name))


def find(root: Path, name: str) -> Run:
    """The run of that name below `root`, or at that path. Raises UserError (exit 4)."""
    for path in (root / name, Path(name)):
        if (path / CONFIG).is_file():
            return Run(path)
    names = [run.name for run in list_runs(root)]
    hint = f"there are {', '.join(names[-8:])}" if names else "there are none yet"
    raise UserError(f"{name}: no such run in {root}", hint, Exit.RUN)


def newest_finished(root: Path) -> Run:
    """Raises UserError (exit 4) where no run has finished."""
    finished = [run for run in list_runs(root) if (run.path / RESULT).exists()]
    if not finished:
        raise UserError(
            f"{root}: no finished run",
            "train one: sfl train --config configs/quickstart.yaml",
            Exit.RUN,
        )
    return max(finished, key=lambda run: (run.path / RESULT).stat().st_mtime)


def remove(run: Run) -> None:
    """Deletes a run directory; refused (exit 4) while it is being trained."""
    if run.is_locked():
        raise UserError(f"{run.path}: is being trained", "stop it first", Exit.RUN)
    shutil.rmtree(run.path)
