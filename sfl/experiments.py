"""Which runs an experiment needs, which of them exist, and training those that are missing.

Nothing here computes on images; torch is imported when something is trained.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfl import runs
from sfl.config import Config, from_text, load, override
from sfl.display import say
from sfl.errors import PROGRAM, Exit, UserError
from sfl.runs import Run

if TYPE_CHECKING:
    from sfl.training.setup import Setup

# Settings that make no other experiment of a run: what may change when it is gone on with.
MAY_CHANGE = "data.root, data.mirror, train.device, train.keep, train.checkpoint_every"


@dataclass
class Experiment:
    """One model of a comparison: its config, its finished runs, the seeds still to be trained."""

    name: str
    config: Config
    finished: list[Run] = field(default_factory=list)
    missing: list[Config] = field(default_factory=list)


def run_name(name: str | Path, config: Config) -> str:
    """`<config>-s<seed>`; a config in a folder of ours carries the folder's name."""
    path = Path(name)
    stem = path.with_suffix("") if path.suffix in (".yaml", ".yml") else path
    parts = [part for part in stem.parts if part not in ("configs", "/", "..", ".")]
    kept = parts if not path.is_absolute() else parts[-1:]
    return f"{'-'.join(kept)}-s{config.train.seed}"


def train(config: Config, root: Path, name: str, *, exact: bool = False) -> dict[str, Any]:
    """Trains one run in a new directory below `root`; the result that it wrote.

    Where it fails before an epoch is done, no directory is left behind.
    """
    from sfl.training.setup import set_up

    if exact:
        runs.check_new(root, name)  # before minutes of reading images
    setup = set_up(config)  # refuses before a directory is made
    run = runs.create(root, name, exact=exact)
    try:
        return _fit(setup, run)
    except Exception:
        if not run.has_begun():
            runs.remove(run)
        raise


def resume(run: Run, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Goes on with an interrupted run from its last checkpoint; the result that it wrote."""
    old = from_text(run.config_text, str(run.path / runs.CONFIG))
    config = override(old, overrides)
    if config.identity() != old.identity() or config.train.seed != old.train.seed:
        raise UserError(
            f"--resume {run.name}: these settings would make it another experiment",
            f"only {MAY_CHANGE} may change",
        )
    return _go_on(run, config)


def _go_on(run: Run, config: Config) -> dict[str, Any]:
    from sfl.training.setup import set_up

    with runs.lock(run):  # before the images are read, which may take minutes
        _refuse_finished(run)
    return _fit(set_up(config), run)


def _refuse_finished(run: Run) -> None:
    if (run.path / runs.RESULT).exists():  # asked of the disk: another process may have written it
        hint = f"see it with: {PROGRAM} evaluate {run.path}"
        raise UserError(f"{run.path}: has finished", hint, Exit.RUN)


def _fit(setup: "Setup", run: Run) -> dict[str, Any]:
    from sfl.training.fit import fit

    with runs.lock(run):
        _refuse_finished(run)
        try:
            return fit(setup, run)
        except (KeyboardInterrupt, SystemExit):  # Ctrl-C; told to end
            data, again = setup.config.data, [PROGRAM, "train", "--resume", str(run.path)]
            if data.source != "shapes" and Path(data.root).is_absolute():
                again += ["--set", f"data.root={data.root}"]  # no run keeps an absolute path
            say(f"stopped; go on with: {shlex.join(again)}")
            raise


def plan(
    names: Sequence[str], overrides: Sequence[str], seeds: int | None, root: Path
) -> list[Experiment]:
    """What a comparison needs: per name its config, its finished runs and what is missing.

    seeds: how many, counted up from the config's own; None takes whatever runs match.
    """
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{twice} is named twice", "give each config once")
    there = [(run, _config_of(run)) for run in runs.list_runs(root)]
    experiments = []
    for name in names:
        config = _load_applicable(name, overrides)
        matching = [
            (run, found.train.seed)
            for run, found in there
            if found is not None and found.identity() == config.identity()
        ]
        first = config.train.seed
        wanted = range(first, first + (seeds or 1))
        experiment = Experiment(name, config)
        experiment.finished = _one_a_seed(matching, None if seeds is None else wanted)
        have = {seed for run, seed in matching if run in experiment.finished}
        if seeds is not None or not have:
            experiment.missing = [
                override(config, [f"train.seed={seed}"]) for seed in wanted if seed not in have
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
    _refuse_what_cannot_run([config for _, config in missing], root)
    say(f"to be trained first: {named}")
    for experiment, config in missing:
        run = _same(config, root)
        if run is None:
            result = train(config, root, run_name(experiment.name, config))
            run = Run(root / result["run"])
        elif run.status != "finished":  # else: another name for what was just trained
            _go_on(run, config)
        experiment.finished.append(Run(run.path))
        experiment.missing = [other for other in experiment.missing if other is not config]


def _refuse_what_cannot_run(configs: Sequence[Config], root: Path) -> None:
    """Raises what would stop one of the runs, so that it doesn't after hours of the others."""
    from sfl.training.device import pick_device
    from sfl.training.setup import describe_model, image_shape

    shapes: dict[str, tuple[tuple[int, int, int], int]] = {}
    for config in configs:
        _same(config, root)
        pick_device(config.train.device)
        data = config.data.model_dump_json()
        if data not in shapes:
            shapes[data] = image_shape(config)
        describe_model(config, *shapes[data])


def _same(config: Config, root: Path) -> Run | None:
    """The newest run of this very config; refused while another process trains it."""
    for run in reversed(runs.list_runs(root)):
        found = _config_of(run)
        if found is None or found.identity() != config.identity():
            continue
        if found.train.seed != config.train.seed:
            continue
        if run.status == "running":
            raise UserError(f"{run.path}: is being trained now", "wait for it", Exit.RUN)
        return run
    return None


def _one_a_seed(matching: list[tuple[Run, int]], wanted: range | None) -> list[Run]:
    """The finished runs, the newest for each seed, in order of the seeds."""
    newest = {seed: run for run, seed in matching if run.status == "finished"}
    return [newest[seed] for seed in sorted(newest) if wanted is None or seed in wanted]


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
