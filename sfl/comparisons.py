"""Which runs a comparison needs, which of them exist, and training those that are missing.

Nothing here computes on images; torch is imported when something is trained.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sfl import runs
from sfl.config import Config, from_text, load, override
from sfl.display import say
from sfl.errors import Exit, UserError
from sfl.experiments import resume, run_name, train
from sfl.files import check_space
from sfl.rundir import Run

if TYPE_CHECKING:
    from sfl.data import Dataset


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
