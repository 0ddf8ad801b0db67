"""All run directories in a folder: making one, finding and listing them, deleting one.

Knows nothing of training.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sfl.config.messages import did_you_mean
from sfl.errors import Exit, UserError
from sfl.files import TEMPORARY, check_folder, write_error
from sfl.runs.directory import BEST, CONFIG, ENVIRONMENT, LOCK, RESULT, Run, lock
from sfl.shell import command, home
from sfl.units import few

if TYPE_CHECKING:
    from sfl.config.schema import Config

FIRST_RUN = command("train", "--config", "configs/quickstart.yaml")


def create(root: Path, name: str, *, exact: bool = False) -> Run:
    """Makes an empty run directory: `name`, or `name-2`, `name-3`… if that exists.

    exact: if True, takes an existing one that is blank, see `check_new`; else UserError (exit 4).
    """
    for path in places(root, name):
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir()
            return Run(path)
        except FileExistsError:
            check_folder(root, "--runs")
            if exact:
                check_new(root, name)
                return Run(path)
        except OSError as error:
            raise write_error(path, error) from None
    raise AssertionError("a million runs of one name")


def places(root: Path, name: str) -> Iterator[Path]:
    """Where a run of that name may be, the first choice first: name, name-2, name-3…"""
    yield root / name
    yield from (root / f"{name}-{number}" for number in range(2, 1_000_000))


def check_name(name: str, given_by: str = "--name") -> None:
    """Raises UserError (exit 2) for a name that is not allowed."""
    odd = not name.isprintable() or name.startswith((".", "-")) or len(os.fsencode(name)) > 200
    if not name or odd or Path(name).name != name:
        raise UserError(f"{given_by} {name[:80]!r}: expected a name, not a path; up to 200 letters")


def check_new(root: Path, name: str) -> None:
    """Raises UserError (exit 4) for a name that is taken.

    A folder of that name is not in the way if it is blank, see `is_blank`.
    """
    if os.path.lexists(path := root / name) and not is_blank(path):
        raise taken(path)


def is_blank(path: Path) -> bool:
    """Whether a folder is empty, or holds only what a process left that was killed before it wrote
    config.yaml; False while a process trains there."""
    if not path.is_dir() or Run(path).is_locked():
        return False
    return all(there.name == LOCK or there.name.endswith(TEMPORARY) for there in path.iterdir())


def taken(path: Path) -> UserError:
    """The error for a name that exists."""
    said, hint, then = "a run of this name exists", "choose another name", ""
    if Run(path).is_locked():
        said = "a run of this name is being trained"
    elif not _is_run(path):
        said = "exists, and is not a run"
    elif Run(path).status == "finished":
        hint, then = "choose another, or delete it", command("runs", "rm", path)
    else:
        hint, then = "choose another, or go on with it", command("train", "--resume", path)
    return UserError(f"{path}: {said}", hint, Exit.RUN, then)


def list_runs(root: Path) -> list[Run]:
    """All run directories in `root`, oldest first. Raises UserError (exit 4): can't be read."""
    try:
        paths = list(root.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{root}: can't be read: {error.strerror}", "", Exit.RUN) from None
    return sorted(map(Run, filter(_is_run, paths)), key=lambda run: (run.modified, run.name))


def default_root() -> Path:
    """Where runs are if nothing else is said: SFL_RUNS of the environment, else `checkpoints`."""
    return home(os.environ.get("SFL_RUNS") or "checkpoints")


def search(root: Path, name: str) -> Run | None:
    """The run of that name in `root`, or at that path; None if there is no such run."""
    return next((Run(path) for path in (root / name, Path(name)) if _is_run(path)), None)


def find(root: Path, name: str) -> Run:
    """As `search`, but raises UserError (exit 4) if there is no such run."""
    if run := search(root, name):
        return run
    names = [run.name for run in reversed(list_runs(root))]
    hint = f"there are {few(names)}" if names else "there are none yet"
    said = f"{name}: no such run in {root}{did_you_mean(name, names)}"
    raise UserError(said, hint, Exit.RUN)


def find_weights(root: Path, name: str | None) -> Path:
    """The path of a run's trained weights. Raises UserError (exit 4) if there are none.

    name: a run, or a file of weights; None: the newest finished run.
    """
    if name is not None and os.path.isfile(name):
        return Path(name)
    run = newest_finished(root) if name is None else find(root, name)
    if not (run.path / BEST).exists():
        hint, then = {
            "running": ("wait for its first checkpoint", ""),
            "interrupted": ("go on with it", command("train", "--resume", run.path)),
        }.get(run.status, (f"{BEST} was not kept", ""))
        raise UserError(f"{run.path}: has no trained weights", hint, Exit.RUN, then)
    return run.path / BEST


def _is_run(path: Path) -> bool:
    """A config.yaml alone is no run: other programs have such files, and we delete runs."""
    there = [name for name in (CONFIG, ENVIRONMENT, LOCK) if os.path.isfile(path / name)]
    return CONFIG in there and len(there) > 1


def newest_finished(root: Path) -> Run:
    """The run whose result is the newest. Raises UserError (exit 4) if no run has finished."""
    finished = [run for run in list_runs(root) if (run.path / RESULT).exists()]
    if not finished:
        raise UserError(f"{root}: no finished run", "train one", Exit.RUN, FIRST_RUN)
    return max(finished, key=lambda run: (run.path / RESULT).stat().st_mtime)


def remove(run: Run) -> None:
    """Deletes a run directory. Raises UserError (exit 4) while it is being trained."""
    try:
        with lock(run):
            shutil.rmtree(run.path)
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.strerror else error
        raise UserError(f"{run.path}: can't be deleted: {reason}", "", Exit.RUN) from None


def run_name(name: str | Path, config: "Config") -> str:
    """notebook/spatial, seed 0 → notebook-spatial-s0. Of an absolute path only the last part."""
    path = Path(name)
    stem = path.with_suffix("") if path.suffix in (".yaml", ".yml") else path
    folders = [part for part in stem.parts[:-1] if part not in ("configs", "..")]
    kept = [stem.name] if path.is_absolute() else [*folders, stem.name]
    return f"{'-'.join(kept)}-s{config.train.seed}"


def data_root_option(config: "Config") -> list[str]:
    """`--set data.root=…` if a later command on this run needs it: runs keep no absolute path."""
    data = config.data
    elsewhere = data.source != "shapes" and Path(data.root).is_absolute()
    return ["--set", f"data.root={data.root}"] if elsewhere else []
