"""Training one experiment into a run directory: a new one, or one that was stopped."""

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sfl.config.schema import Config
from sfl.data.dataset import Dataset
from sfl.errors import PROGRAM
from sfl.learning.world import World
from sfl.progress import say
from sfl.runs import store
from sfl.runs.directory import CONFIG, RESULT, Run, lock
from sfl.runs.store import data_root_option
from sfl.training.device import pick_device
from sfl.training.distributed import open_world
from sfl.training.fit import fit
from sfl.training.resume import check_resumable
from sfl.training.setup import Setup, set_up


def train(
    config: Config, root: Path, name: str, *, exact: bool = False, dataset: Dataset | None = None
) -> dict[str, Any]:
    """Trains one run in a new directory below `root`; returns the result that it wrote.

    exact: whether another name may not be taken where this one exists (see runs.store.create).
    dataset: the config's images, where they have been read already. Where training fails before an
    epoch is done, no directory is left behind.
    """
    with open_world(pick_device(config.train.device)) as world:
        # Before minutes of reading images.
        world.from_first(lambda: _check_place(root, name, exact=exact))
        setup = set_up(config, dataset, world=world)  # refuses before a directory is made
        run = Run(Path(world.from_first(lambda: str(store.create(root, name, exact=exact).path))))
        try:
            with _locked(run, world):
                return _fit(setup, run)
        except BaseException as error:
            # A signal leaves a run that says what it is; a failure one that has learnt something.
            failed = isinstance(error, Exception)
            kept = run.has_begun() if failed else (run.path / CONFIG).exists()
            if world.is_first and not kept:
                store.remove(run)
            raise


def resume(run: Run, config: Config, dataset: Dataset | None = None) -> dict[str, Any]:
    """Goes on with an interrupted run from its last checkpoint; returns the result that it wrote.

    config: what `config_to_resume` gave. Raises UserError (exit 4) where it can't go on.
    """
    # Locked and checked before the images are read or fetched, which may take minutes.
    with open_world(pick_device(config.train.device)) as world, _locked(run, world):
        precision = check_resumable(run, config)
        return _fit(set_up(config, dataset, precision=precision, world=world), run)


def _check_place(root: Path, name: str, *, exact: bool) -> str:
    store.check_root(root)
    if exact:
        store.check_new(root, name)
    return name


@contextlib.contextmanager
def _locked(run: Run, world: World) -> Iterator[None]:
    """Rank 0 holds the run's lock for all workers."""
    with contextlib.ExitStack() as held:
        world.from_first(lambda: str(held.enter_context(lock(run))))
        yield


def _fit(setup: Setup, run: Run) -> dict[str, Any]:
    try:
        return fit(setup, run)
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C; told to end
        again = [PROGRAM, "train", "--resume", str(run.path), *data_root_option(setup.config)]
        if (run.path / RESULT).exists():
            say(f"stopped; {run.path} has finished")
        elif (run.path / CONFIG).exists():  # else it is an empty directory, which goes
            say(f"stopped; go on with: {shlex.join(again)}")
        raise
