"""Which runs an experiment needs, which of them exist, and training those that are missing.

Nothing here computes on images; torch is imported when something is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfl import runs
from sfl.config import Config, from_text, load, override
from sfl.display import say
from sfl.errors import Exit, UserError
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
    """Trains one run in a new directory below `root`; the result that it wrote."""
    from sfl.training.setup import set_up

    setup = set_up(config)  # refuses before a directory is made
    return _fit(setup, runs.create(root, name, exact=exact))


def resume(run: Run, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Goes on with an interrupted run from its last checkpoint; the result that it wrote."""
    from sfl.training.setup import set_up

    if run.status == "finished":
        raise UserError(f"{run.path}: has finished", f"sfl evaluate {run.path}", Exit.RUN)
    old = from_text(run.config_text, str(run.path / runs.CONFIG))
    config = override(old, overrides)
    if config.identity() != old.identity() or config.train.seed != old.train.seed:
        raise UserError(
            f"--resume {run.name}: these settings would make it another experiment",
            f"only {MAY_CHANGE} may change",
        )
    return _fit(set_up(config), run)


def _fit(setup: "Setup", run: Run) -> dict[str, Any]:
    from sfl.training.fit import fit

    with runs.lock(run):
        try:
            return fit(setup, run)
        except KeyboardInterrupt:
            say(f"stopped; go on with: sfl train --resume {run.path}")
            raise


def plan(
    names: Sequence[str], overrides: Sequence[str], seeds: int | None, root: Path
) -> list[Experiment]:
    """What a comparison needs: per name its config, its finished runs and what is missing.

    seeds: how many, counted up from the config's own; None takes whatever runs match.
    """
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


def complete(experiments: Sequence[Experiment], root: Path) -> None:
    """Trains what is missing: goes on with interrupted runs, starts the others."""
    for experiment in experiments:
        for config in experiment.missing:
            name = run_name(experiment.name, config)
            begun = _begun(config, root)
            if begun is None:
                result = train(config, root, name)
            else:
                result = resume(begun, [f"data.root={config.data.root}"])
            experiment.finished.append(Run(root / result["run"]))
        experiment.missing = []


def _begun(config: Config, root: Path) -> Run | None:
    """An unfinished run of this very config; refused while another process trains it."""
    for run in runs.list_runs(root):
        found = _config_of(run)
        if found is None or found.identity() != config.identity():
            continue
        if found.train.seed != config.train.seed or run.status == "finished":
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
