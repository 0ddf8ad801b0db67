"""Which runs an experiment needs, which of them exist, and training those that are missing.

Nothing here computes on images; torch is imported when something is trained.
"""

import contextlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfl import runs
from sfl.config import Config, from_text, load, override
from sfl.display import say
from sfl.errors import PROGRAM, Exit, UserError
from sfl.files import check_space
from sfl.runs import Run
from sfl.settings import MAY_CHANGE

if TYPE_CHECKING:
    from sfl.data import Dataset
    from sfl.training.distributed import World
    from sfl.training.setup import Setup


@dataclass
class Experiment:
    """One model of a comparison: its config, its finished runs, the seeds still to be trained.

    images: what has been read so far, by the settings of the data; all experiments share it.
    """

    name: str
    config: Config
    images: "dict[str, Dataset]"
    finished: list[Run] = field(default_factory=list)
    missing: list[Config] = field(default_factory=list)

    def dataset(self) -> "Dataset":
        """The images of this experiment; a comparison reads each data set once."""
        from sfl.training.setup import load_images

        key = self.config.data.model_dump_json()
        if key not in self.images:
            self.images[key] = load_images(self.config)
        return self.images[key]


def run_name(name: str | Path, config: Config) -> str:
    """`<config>-s<seed>`; a config in a folder of ours carries the folder's name."""
    path = Path(name)
    stem = path.with_suffix("") if path.suffix in (".yaml", ".yml") else path
    folders = [part for part in stem.parts[:-1] if part not in ("configs", "..")]
    kept = [stem.name] if path.is_absolute() else [*folders, stem.name]
    return f"{'-'.join(kept)}-s{config.train.seed}"


def data_root_option(config: Config) -> list[str]:
    """What a later command on this run needs besides its name: no run keeps an absolute path."""
    data = config.data
    elsewhere = data.source != "shapes" and Path(data.root).is_absolute()
    return ["--set", f"data.root={data.root}"] if elsewhere else []


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
        run = Run(Path(world.from_first(lambda: str(runs.create(root, name, exact=exact).path))))
        try:
            with _locked(run, world):
                return _fit(setup, run)
        except BaseException as error:
            # A signal leaves a run that says what it is; a failure one that has learnt something.
            failed = isinstance(error, Exception)
            kept = run.has_begun() if failed else (run.path / runs.CONFIG).exists()
            if world.is_first and not kept:
                runs.remove(run)
            raise


def config_to_resume(run: Run, overrides: Sequence[str] = ()) -> Config:
    """An interrupted run's config with these settings. Raises UserError for another experiment."""
    old = from_text(run.config_text, str(run.path / runs.CONFIG))
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
        if (run.path / runs.LAST).exists():  # before images are fetched that it never asked for
            checkpoint = read_checkpoint(run.path / runs.LAST, with_tensors=False)
            refuse_other_settings(config, checkpoint)
        # `auto` may mean another precision on this machine.
        precision = (run.environment or {}).get("precision")
        if precision not in (None, "float32", "bfloat16"):
            raise run.damaged(runs.ENVIRONMENT)
        setup = set_up(config, dataset, precision=precision, world=world)
        return _fit(setup, run)


def _check_place(root: Path, name: str, *, exact: bool) -> str:
    runs.check_root(root)
    if exact:
        runs.check_new(root, name)
    return name


@contextlib.contextmanager
def _locked(run: Run, world: "World") -> Iterator[None]:
    """Of several workers the first holds the run for all."""
    with contextlib.ExitStack() as held:
        world.from_first(lambda: str(held.enter_context(runs.lock(run))))
        yield


def _refuse_finished(run: Run, config: Config) -> None:
    """A finished run goes on only with more epochs, from its last checkpoint."""
    if run.result is None:
        return
    done = run.result.get("epochs")
    if type(done) is not int:
        raise run.damaged(runs.RESULT)
    if config.train.epochs <= done:
        hint = f"see it with: {PROGRAM} evaluate {run.path}; more epochs: --set train.epochs=N"
        raise UserError(f"{run.path}: has finished", hint, Exit.RUN)
    if not (run.path / runs.LAST).exists():
        hint = "train.keep: weights dropped it when the run had finished"
        raise UserError(f"{run.path}: has no {runs.LAST} to go on from", hint, Exit.RUN)


def _fit(setup: "Setup", run: Run) -> dict[str, Any]:
    from sfl.training.fit import fit

    try:
        return fit(setup, run)
    except (KeyboardInterrupt, SystemExit):  # Ctrl-C; told to end
        again = [PROGRAM, "train", "--resume", str(run.path), *data_root_option(setup.config)]
        if (run.path / runs.RESULT).exists():
            say(f"stopped; {run.path} has finished")
        elif (run.path / runs.CONFIG).exists():  # else it is an empty directory, which goes
            say(f"stopped; go on with: {shlex.join(again)}")
        raise


def plan(
    names: Sequence[str],
    overrides: Sequence[str],
    seeds: int | None,
    root: Path,
    *,
    training: bool = True,
) -> list[Experiment]:
    """What a comparison needs: per name its config, its finished runs and what is missing.

    seeds: how many, counted up from the config's own; None takes whatever runs match.
    training: whether what is missing may be trained; without it no images are read.
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{twice} is named twice", "give each config once")
    experiments, images = [], dict[str, "Dataset"]()
    for name in names:
        experiment = Experiment(name, _load_applicable(name, overrides), images)
        there = _runs_of(experiment, root, training=training)
        first = experiment.config.train.seed
        wanted = range(first, first + (seeds or 1))
        newest = {seed: run for run, seed in there if run.status == "finished"}
        have = [seed for seed in sorted(newest) if seeds is None or seed in wanted]
        experiment.finished = [newest[seed] for seed in have]
        if seeds is not None or not have:
            experiment.missing = [
                override(experiment.config, [f"train.seed={seed}"])
                for seed in wanted
                if seed not in have
            ]
        experiments.append(experiment)
    return experiments


def complete(experiments: Sequence[Experiment], root: Path, *, training: bool = True) -> None:
    """Trains what is missing, saying so first: goes on with interrupted runs, starts the others.

    All that can be refused is refused before the first is trained. Without `training` anything
    missing is refused (exit 4).
    """
    missing = [(e, config) for e in experiments for config in e.missing]
    if not missing:
        return
    named = ", ".join(run_name(experiment.name, config) for experiment, config in missing)
    if not training:
        raise UserError(
            f"{root}: no finished run of {named} with these settings",
            "without --no-train they are trained",
            Exit.RUN,
        )
    say(f"to be trained first: {named}")
    _refuse_what_cannot_run(missing, root)
    for experiment, config in missing:
        say(f"training {run_name(experiment.name, config)}")
        run, images = _newest(experiment, config, root), experiment.dataset()
        if run is None:
            result = train(config, root, run_name(experiment.name, config), dataset=images)
            run = Run(root / result["run"])
        elif run.status != "finished":  # else: another name for what was just trained
            resume(run, config, images)
        experiment.finished.append(Run(run.path))
        experiment.missing = [other for other in experiment.missing if other is not config]


def _refuse_what_cannot_run(missing: Sequence[tuple[Experiment, Config]], root: Path) -> None:
    """Raises what would stop one of the runs, so that it doesn't after hours of the others."""
    from sfl.training.memory import disk_bytes
    from sfl.training.setup import set_up

    runs.check_root(root)
    needed = kept = 0  # at most at one time; by the runs before
    for experiment, config in missing:
        run = _newest(experiment, config, root)
        setup = set_up(config, experiment.dataset())
        stays, most = disk_bytes(setup.summary, config.optimizer, config.train.keep)
        there = run.checkpoint_bytes if run else 0
        needed, kept = max(needed, kept + most - there), kept + stays - there
    check_space(root, needed)


def _newest(experiment: Experiment, config: Config, root: Path) -> Run | None:
    """The newest run of this seed; refused while another process trains it."""
    there = [run for run, seed in _runs_of(experiment, root) if seed == config.train.seed]
    if there and there[-1].status == "running":
        raise UserError(f"{there[-1].path}: is being trained now", "wait for it", Exit.RUN)
    return there[-1] if there else None


def _runs_of(experiment: Experiment, root: Path, *, training: bool = True) -> list[tuple[Run, int]]:
    """The runs of an experiment, whatever their seed, with their seeds; the last written last.

    A folder's name doesn't say which images it holds, so they are looked at; where nothing may be
    trained they need not be there, and a comparison of runs on different ones is refused later.
    """
    by_config = [
        (run, found.train.seed)
        for run in runs.list_runs(root)
        if (found := _config_of(run)) and found.identity() == experiment.config.identity()
    ]
    if not by_config or not training or experiment.config.data.source != "folder":
        return by_config
    images = experiment.dataset().provenance()
    return [(run, seed) for run, seed in by_config if run.provenance == images]


def _load_applicable(name: str, overrides: Sequence[str]) -> Config:
    """A config with the overrides that it has a setting for; says which one it passes over."""
    storage = [o for o in overrides if o.split("=", 1)[0].strip() == "model.storage"]
    others = [o for o in overrides if o not in storage]
    config = load(name, others)
    if storage and config.model.layer == "conv":
        say(f"{name}: --set {storage[-1]} passed over: a conv layer has no storage")
        return config
    return load(name, overrides)


def _config_of(run: Run) -> Config | None:
    try:
        return from_text(run.config_text, run.name)
    except UserError:
        return None  # not ours, or of another version: nothing to compare with
