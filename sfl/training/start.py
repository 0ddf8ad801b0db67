"""Trains a new run, or resumes an interrupted one, in its run directory."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sfl.config.schema import Config
from sfl.data.dataset import Dataset
from sfl.errors import UserError
from sfl.files import check_folder
from sfl.learning.world import World
from sfl.progress import say
from sfl.runs import store
from sfl.runs.directory import CONFIG, RESULT, Run, lock
from sfl.runs.store import data_root_option
from sfl.shell import command
from sfl.training.device import pick_device, threads
from sfl.training.distributed import open_world
from sfl.training.fit import fit
from sfl.training.resume import check_resumable
from sfl.training.setup import Setup, set_up


def train(
    config: Config, root: Path, name: str, *, exact: bool = False, dataset: Dataset | None = None
) -> dict[str, Any]:
    """Trains a run in a new directory in `root`; returns its result.

    exact: if the name exists, raise UserError instead of taking another (see runs.store.create).
        Of several processes that train one name at once, one does; the others raise.
    dataset: the config's images, if they have been read already.
    If training fails before the first epoch is done, and not because it diverges, the directory is
    removed.
    """
    device = pick_device(config.train.device)
    with threads(config.train.threads), open_world(device) as world:
        # Checked before the images are read or fetched, which may take minutes.
        world.from_first(lambda: _check_place(root, name, exact=exact))
        # Raises errors before a directory is made.
        setup = set_up(config, dataset, world=world, runs=root)
        run = Run(Path(world.from_first(lambda: str(store.create(root, name, exact=exact).path))))
        try:
            with _locked(run, world):
                world.from_first(lambda: _check_not_begun(run))
                return _fit(setup, run)
        except BaseException as error:
            # Kept: a stopped run that has its config; a failed one that has finished an epoch or
            # has diverged, which says something of its settings.
            failed = isinstance(error, Exception)
            begun = run.has_begun() or run.has_diverged
            kept = begun if failed else (run.path / CONFIG).exists()
            if world.is_first and not kept:
                with contextlib.suppress(UserError):  # the first error is the one to be told
                    store.remove(run)
            raise


def resume(run: Run, config: Config, dataset: Dataset | None = None) -> dict[str, Any]:
    """Resumes an interrupted run from its last checkpoint; returns its result.

    config: from `config_to_resume`. Raises UserError (exit 4) if the run can't be resumed.
    """
    device = pick_device(config.train.device)
    # Locked and checked before the images are read or fetched, which may take minutes.
    with threads(config.train.threads), open_world(device) as world, _locked(run, world):
        precision = check_resumable(run, config)
        runs = run.path.parent
        setup = set_up(config, dataset, precision=precision, world=world, runs=runs)
        return _fit(setup, run)


def train_at(path: Path, config: Config, dataset: Dataset, *, resumes: bool) -> dict[str, Any]:
    """Trains the run of that directory, new or interrupted; see `train` and `resume`."""
    if resumes:
        return resume(Run(path), config, dataset)
    return train(config, path.parent, path.name, exact=True, dataset=dataset)


def _check_place(root: Path, name: str, *, exact: bool) -> str:
    check_folder(root, "--runs")
    if exact:
        store.check_new(root, name)
    return name


def _check_not_begun(run: Run) -> str:
    """By another process, between the making of the directory and its lock."""
    if (run.path / CONFIG).exists():
        raise store.taken(run.path)
    return run.name


@contextlib.contextmanager
def _locked(run: Run, world: World) -> Iterator[None]:
    """Rank 0 holds the run's lock for all ranks."""
    with contextlib.ExitStack() as held:
        world.from_first(lambda: str(held.enter_context(lock(run))))
        yield


def _fit(setup: Setup, run: Run) -> dict[str, Any]:
    try:
        return fit(setup, run)
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C or SIGTERM
        if (run.path / RESULT).exists():
            say(f"stopped; {run.path} has finished")
        elif (run.path / CONFIG).exists():  # else the directory is empty and will be removed
            again = command("train", "--resume", run.path, *data_root_option(setup.config))
            say("stopped; resume with:", again)
        raise
