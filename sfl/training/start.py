"""Training one experiment into a run directory: a new one, or one that was stopped.

Nothing here computes on images; torch is imported when something is trained.
"""

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfl.config.load import from_tree, override
from sfl.config.schema import MAY_CHANGE, Config
from sfl.errors import PROGRAM, Exit, UserError
from sfl.progress import say
from sfl.runs import store
from sfl.runs.directory import CONFIG, LAST, RESULT, Run, lock
from sfl.runs.store import data_root_option

if TYPE_CHECKING:
    from sfl.data.dataset import Dataset
    from sfl.learning.world import World
    from sfl.training.setup import Setup


def train(
    config: Config,
    root: Path,
    name: str,
    *,
    exact: bool = False,
    dataset: "Dataset | None" = None,
) -> dict[str, Any]:
    """Trains one run in a new directory below `root`; the result that it wrote.

    dataset: the config's images, where they have been read already. Where training fails before an
    epoch is done, no directory is left behind.
    """
    from sfl.training.device import pick_device
    from sfl.training.distributed import open_world
    from sfl.training.setup import set_up

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


def config_to_resume(run: Run, overrides: Sequence[str] = ()) -> Config:
    """An interrupted run's config with these settings. Raises UserError for another experiment."""
    old = from_tree(run.config_tree)
    config = override(old, overrides)
    if not config.continues(old):
        raise UserError(
            f"--resume {run.name}: these settings would make it another experiment",
            f"only {', '.join(MAY_CHANGE)} may change; train.epochs upward, with schedule constant",
        )
    return config


def resume(run: Run, config: Config, dataset: "Dataset | None" = None) -> dict[str, Any]:
    """Goes on with an interrupted run from its last checkpoint; the result that it wrote."""
    from sfl.training.checkpoint import read_checkpoint
    from sfl.training.device import pick_device
    from sfl.training.distributed import open_world
    from sfl.training.fit import refuse_other_settings
    from sfl.training.setup import set_up

    # Locked before the images are read, which may take minutes.
    with open_world(pick_device(config.train.device)) as world, _locked(run, world):
        _refuse_finished(run, config)
        if (run.path / LAST).exists():  # before images are fetched that it never asked for
            checkpoint = read_checkpoint(run.path / LAST, with_tensors=False)
            refuse_other_settings(config, checkpoint)
        # `auto` may mean another precision on this machine.
        precision = run.environment.precision if run.environment else None
        setup = set_up(config, dataset, precision=precision, world=world)
        return _fit(setup, run)


def _check_place(root: Path, name: str, *, exact: bool) -> str:
    store.check_root(root)
    if exact:
        store.check_new(root, name)
    return name


@contextlib.contextmanager
def _locked(run: Run, world: "World") -> Iterator[None]:
    """Of several workers the first holds the run for all."""
    with contextlib.ExitStack() as held:
        world.from_first(lambda: str(held.enter_context(lock(run))))
        yield


def _refuse_finished(run: Run, config: Config) -> None:
    """A finished run goes on only with more epochs, from its last checkpoint."""
    if run.result is None:
        return
    if config.train.epochs <= run.result.epochs:
        hint = f"see it with: {PROGRAM} evaluate {run.path}; more epochs: --set train.epochs=N"
        raise UserError(f"{run.path}: has finished", hint, Exit.RUN)
    if not (run.path / LAST).exists():
        hint = "train.keep: weights dropped it when the run had finished"
        raise UserError(f"{run.path}: has no {LAST} to go on from", hint, Exit.RUN)


def _fit(setup: "Setup", run: Run) -> dict[str, Any]:
    from sfl.training.fit import fit

    try:
        return fit(setup, run)
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C; told to end
        again = [PROGRAM, "train", "--resume", str(run.path), *data_root_option(setup.config)]
        if (run.path / RESULT).exists():
            say(f"stopped; {run.path} has finished")
        elif (run.path / CONFIG).exists():  # else it is an empty directory, which goes
            say(f"stopped; go on with: {shlex.join(again)}")
        raise
