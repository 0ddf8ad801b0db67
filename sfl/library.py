"""What the commands do, from Python: `sfl.train`, `sfl.evaluate`, `sfl.compare`, `sfl.grid`.

Each takes what its command takes and returns, as an object, what its command prints with --json.
Progress and messages go to standard error, or below a notebook's cell, as those of the command do.
Errors are UserErrors: their text is the command's line, their `exit_code` its exit code.

Settings of the config are keyword arguments, nested or dotted: `train={"epochs": 3}`,
`**{"optimizer.lr": 1e-3}`. In messages they are called `--set`.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from sfl.comparison.schema import Comparison
from sfl.config.grid import as_override
from sfl.config.load import flat, load
from sfl.config.schema import Config
from sfl.errors import Exit, UserError
from sfl.returned import Compared, Evaluated, TrainedRun
from sfl.shell import home

Place = str | os.PathLike[str]  # what `train` returns is one, too
Jobs = int | Literal["auto"]


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C, or a stopped cell, ends in Python's own way; the program would exit."""
    try:
        yield
    except SystemExit as ending:
        if ending.code == Exit.INTERRUPTED:
            raise KeyboardInterrupt from None
        raise


@_interruptible()
def train(
    config: Place | None = None,
    *,
    seed: int | None = None,
    name: str | None = None,
    resume: Place | None = None,
    runs: Place | None = None,
    **settings: Any,
) -> TrainedRun:
    """Trains a network, saves it and tests it, as `sfl train` does.

    config: a YAML file, or a name: "spatial". resume: in its place, a run to go on with.
    seed: the same as `train={"seed": …}`. name: of the run; must be new.
    runs: folder of run directories; None: SFL_RUNS of the environment, else "checkpoints".
    settings: over those of the config, see `sfl.library`.

    Raises UserError for a wrong setting (exit 2), images (3), a run that exists (4), a loss that is
    not finite (5), memory or disk (6). Ctrl-C, or a stopped cell, saves the run and raises
    KeyboardInterrupt.
    """
    resumed = None if resume is None else _path(resume, "resume")
    given = None if config is None else _path(config, "config")
    _, start = prepare(given, as_overrides(settings), _runs(runs), seed, name, resumed)
    return start()


def prepare(
    config: str | None,
    overrides: Sequence[str],
    root: Path,
    seed: int | str | None = None,
    name: str | None = None,
    resume: str | None = None,
) -> tuple[Config, Callable[[], TrainedRun]]:
    """The settings of the run that is asked for, and what trains it. Arguments as in `train`.

    overrides: `a.b=v`. Needs no torch for a new run.
    """
    from sfl.runs.store import check_name, find, run_name

    if resume is not None and config is None:
        if seed is not None or name is not None:
            raise UserError("--resume can be used with --set only", "the rest is the run's own")
        run = find(root, resume)
        from sfl.training.resume import config_to_resume

        return _resuming(run.path, config_to_resume(run, overrides))
    if config is None or resume is not None:
        raise UserError("train needs --config FILE or --resume RUN, one of the two", "see --help")
    if name is not None:
        check_name(name)
    seeded = [] if seed is None else [f"train.seed={seed}"]
    settings = load(config, [*overrides, *seeded])
    named = run_name(config, settings) if name is None else name

    def start() -> TrainedRun:
        from sfl.training import start as training

        result = training.train(settings, root, named, exact=name is not None)
        return _trained(result, root / result["run"], settings)

    return settings, start


def _resuming(path: Path, settings: Config) -> tuple[Config, Callable[[], TrainedRun]]:
    def start() -> TrainedRun:
        from sfl.runs.directory import Run
        from sfl.training import start as training

        return _trained(training.resume(Run(path), settings), path, settings)

    return settings, start


def _trained(result: dict[str, Any], path: Path, config: Config) -> TrainedRun:
    return TrainedRun.check({**result, "path": path, "config": config}, str(path))


@_interruptible()
def evaluate(
    run: Place | None = None,
    *,
    views: int | None = None,
    shifts: int | None = None,
    corrupted: Place | None = None,
    runs: Place | None = None,
    **settings: Any,
) -> Evaluated:
    """Tests trained weights on the test images, as `sfl evaluate` does.

    run: what `train` returned, a run's name or directory, or a file of weights; None: the newest
        finished run. runs, settings: as in `train`; settings such as data={"root": …}.
    views: 2, 18 or 50: also averaged over so many views. shifts: also moved by up to so many
        pixels. corrupted: also on the images of this folder, such as CIFAR-10-C.

    Raises UserError for weights that can't be read (exit 4) and for other images than those of the
    training (exit 3).
    """
    name = None if run is None else _path(run, "run")
    folder = None if corrupted is None else home(corrupted)
    return evaluate_run(name, as_overrides(settings), _runs(runs), views, shifts, folder)


def evaluate_run(
    run: str | None,
    overrides: Sequence[str],
    root: Path,
    views: int | None = None,
    shifts: int | None = None,
    corrupted: Path | None = None,
) -> Evaluated:
    """As `evaluate`; overrides: `a.b=v`."""
    from sfl.progress import say
    from sfl.runs.store import find_weights

    path = find_weights(root, run)  # before torch is imported, which takes a second
    from sfl.training.copies import Asked
    from sfl.training.testing import test_weights

    say(f"evaluating {path}")
    asked = Asked(views, shifts, corrupted)
    tested = test_weights(path, overrides, need_train=False, asked=asked)
    values = {"file": str(path), **tested.values, "answers": list(tested.rows())}
    return Evaluated.check(values, str(path))


@_interruptible()
def compare(
    *models: Place,
    seeds: int | None = None,
    target: float | None = None,
    no_train: bool = False,
    unfinished: bool = False,
    jobs: Jobs = 1,
    jobs_per_gpu: int = 1,
    engine: str = "processes",
    out: Place | None = None,
    data_name: str | None = None,
    runs: Place | None = None,
    **settings: Any,
) -> Compared:
    """Compares models with the first one, as `sfl compare` does. Trains missing runs.

    models: two or more: configs, names or directories of runs, what `train` returned, mixed.
    seeds: runs of each config: its seed and those after it. target: an accuracy, a fraction: also
    what it took to reach it. no_train: only runs that there are. unfinished: also unfinished ones.
    jobs, jobs_per_gpu, engine: runs at once. out: a folder for a report. data_name: of the images.
    runs, settings: as in `train`.

    Runs that failed are in `failed` of what is returned. Raises UserError as `train` does, where
    failures leave nothing to compare, and for models that can't be compared (exit 2, 3 or 4).
    """
    from sfl.comparison.run import run_comparison

    _expect(target is None or 0 <= target <= 1, f"target={target}: expected 0 to 1, as in 0.5")
    asked = _asked(seeds, no_train, unfinished, jobs, jobs_per_gpu, engine, out, data_name)
    names = [_path(model, "model") for model in models]
    found = run_comparison(
        names,
        as_overrides(settings),
        seeds,
        _runs(runs),
        target=target,
        **asked,
    )
    return _compared(*found, out)


@_interruptible()
def grid(
    file: Place,
    *,
    seeds: int | None = None,
    no_train: bool = False,
    unfinished: bool = False,
    jobs: Jobs = 1,
    jobs_per_gpu: int = 1,
    engine: str = "processes",
    out: Place | None = None,
    data_name: str | None = None,
    runs: Place | None = None,
    **settings: Any,
) -> Compared:
    """Trains and compares every combination of a study, as `sfl grid` does.

    file: a YAML file, or a name: "grids/small". seeds: instead of the file's. The rest: as in
    `compare`; settings are of all cells. Raises UserError as `compare` does.
    """
    from sfl.comparison.grid import missing, run_grid, say_plan
    from sfl.config.grid import load_grid

    overrides, root = as_overrides(settings), _runs(runs)
    asked = _asked(seeds, no_train, unfinished, jobs, jobs_per_gpu, engine, out, data_name)
    study = load_grid(_path(file, "file"), overrides, seeds)
    if not no_train:
        say_plan(study, missing(study, root), root)
    return _compared(*run_grid(study, root, overrides=overrides, **asked), out)


def _path(given: Place, what: str) -> str:
    try:
        return os.fspath(given)
    except TypeError:
        kind = type(given).__name__
        raise UserError(f"{what}: expected a name or a path, not a {kind}") from None


def _asked(
    seeds: int | None, no_train: bool, unfinished: bool, jobs: Jobs, jobs_per_gpu: int, engine: str,
    out: Place | None, data_name: str | None,
) -> dict[str, Any]:  # fmt: skip
    """What `run_comparison` and `run_grid` are told alike. Raises UserError, also for `seeds`."""
    from sfl.files import check_folder
    from sfl.jobs.job import at_once

    for name, count in (("seeds", seeds), ("jobs_per_gpu", jobs_per_gpu)):
        fits = (count is None and name == "seeds") or (isinstance(count, Integral) and count > 0)
        _expect(fits, f"{name}={count}: expected a number from 1")
    if out is not None:
        check_folder(home(out), "out")  # before hours of training
    return {
        "training": not no_train,
        "unfinished": unfinished,
        "data_name": data_name,
        "at_once": at_once(str(jobs), jobs_per_gpu, engine),
    }


def _compared(comparison: Comparison, models: Any, out: Place | None) -> Compared:
    if out is not None:
        from sfl.comparison import report

        report.write(comparison, models, home(out))
    return Compared(**dict(comparison))


def as_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings, nested or dotted, as `a.b=v`."""
    return [as_override(key, _plain(value)) for key, value in flat(settings).items()]


def _plain(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value.tolist() if hasattr(value, "tolist") else value  # numpy's


def _runs(given: Place | None) -> Path:
    from sfl.runs.store import default_root

    return default_root() if given is None else home(given)


def _expect(holds: bool, said: str) -> None:
    if not holds:
        raise UserError(said)
