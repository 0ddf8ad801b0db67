"""Which runs a comparison needs, which of them exist, and training those that are missing.

Nothing here computes on images; torch is imported when something is trained or tested.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sfl import runs
from sfl.config import Config, find, from_tree, load, override
from sfl.display import say
from sfl.errors import PROGRAM, Exit, UserError
from sfl.experiments import resume, run_name, train
from sfl.files import check_space
from sfl.rundir import BEST, Run
from sfl.settings import MAY_CHANGE

if TYPE_CHECKING:
    from sfl.analysis.compare import Group
    from sfl.analysis.results import RunResult
    from sfl.data import Dataset

Found = tuple[Run, Config]


@dataclass
class Experiment:
    """One model of a comparison: its config, its finished runs, the seeds still to be trained.

    unfinished: runs of it that have not finished and are not to be trained on.
    images: what has been read so far, by the settings of the data; all experiments share it.
    """

    name: str
    config: Config
    images: "dict[str, Dataset]"
    finished: list[Run] = field(default_factory=list)
    unfinished: list[Run] = field(default_factory=list)
    missing: list[Config] = field(default_factory=list)

    def dataset(self) -> "Dataset":
        """The images of this experiment; a comparison reads each data set once."""
        from sfl.training.setup import load_images

        key = self.config.data.model_dump_json()
        if key not in self.images:
            self.images[key] = load_images(self.config)
        return self.images[key]

    def add(self, run: Run) -> None:
        """Puts a run where it belongs, unless it is there."""
        place = self.finished if run.status == "finished" else self.unfinished
        if all(run.path.resolve() != other.path.resolve() for other in place):
            place.append(run)


def plan(
    names: Sequence[str],
    overrides: Sequence[str],
    seeds: int | None,
    root: Path,
    *,
    training: bool = True,
    unfinished: bool = False,
) -> list[Experiment]:
    """What a comparison needs: per model its config, its finished runs and what is missing.

    names: configs, YAML files, run directories or names of runs, mixed; runs and configs that are
        the same experiment but for the seed are one model.
    seeds: how many runs of a config, counted up from its own; None takes whatever runs match.
    training: whether what is missing may be trained; without it no images are read.
    unfinished: whether unfinished runs count as they stand.
    """
    images = dict[str, "Dataset"]()
    there = [(run, config) for run in runs.list_runs(root) if (config := _config_of(run))]
    experiments, by_config = dict[str, Experiment](), dict[str, str]()
    for name in names:
        run = _named_run(name, root)
        config = _load_applicable(name, overrides) if run is None else _as_run(run, overrides)
        key = json.dumps(config.identity(), sort_keys=True)
        if run is None and key in by_config:
            same = f"{name} is the same experiment as {by_config[key]}"
            said = f"{name} is named twice" if name == by_config[key] else same
            raise UserError(said, "give each experiment once")
        if key not in experiments:
            experiments[key] = Experiment(_without_seed(name, run), config, images)
        experiment = experiments[key]
        if run is not None:
            experiment.add(run)
            continue
        by_config[key] = experiment.name = name
        experiment.config = config
        _look_for(experiment, there, seeds, training=training, unfinished=unfinished)
    found = list(experiments.values())
    if len(found) < 2:
        raise UserError(f"compare needs two models or more, not {', '.join(names)} alone")
    return found


def results(
    experiments: Sequence[Experiment], overrides: Sequence[str], *, unfinished: bool = False
) -> "list[Group]":
    """What the runs ended with, for a comparison; names those that have not finished.

    unfinished: takes those in, too: their best weights so far are tested now.
    """
    from sfl.analysis.compare import Group
    from sfl.analysis.results import read_result

    groups = []
    for experiment in experiments:
        found = [read_result(run) for run in experiment.finished]
        for run in experiment.unfinished:
            epochs = f"{len(run.metrics)} of {experiment.config.train.epochs} epochs"
            done = f"{run.path}: has not finished ({epochs})"
            if unfinished:
                say(f"{done}, tested as it stands")
                found.append(_tested(run, overrides))
            else:
                say(f"{done}, left out; --unfinished takes it in")
        if not found:
            hint = f"go on with it: {PROGRAM} train --resume RUN, or take it in: --unfinished"
            raise UserError(f"{experiment.name}: no run has finished", hint, Exit.RUN)
        found.sort(key=lambda one: int(one.run.config["train"]["seed"]))
        groups.append(Group(experiment.name, experiment.config, found))
    return groups


def _tested(run: Run, overrides: Sequence[str]) -> "RunResult":
    """An unfinished run's best weights so far, on the test images."""
    from sfl.analysis.results import RunResult, checked_result
    from sfl.training.result import cost, test_weights

    if not (run.path / BEST).exists():
        raise UserError(f"{run.path}: has no trained weights yet", "wait, or go on", Exit.RUN)
    tested = test_weights(run.path / BEST, _may_change(overrides))
    values = tested.values | cost(tested.setup, run.metrics)
    answers, labels = tested.evaluation.predictions.numpy(), tested.evaluation.labels.numpy()
    return RunResult(run, checked_result(values, run), answers, labels)


def _named_run(name: str, root: Path) -> Run | None:
    """The run of that name or at that path; None: it is a config's, which goes first."""
    try:
        find(name)
    except UserError:
        run = runs.search(root, name)
        if run is None and os.path.isdir(name):
            raise UserError(f"{name}: not a run directory", "see its files", Exit.RUN) from None
        return run
    return None


def _without_seed(name: str, run: Run | None) -> str:
    """What a model is called: after its config, or its first run without the seed."""
    if run is None:
        return name
    stem, _, seed = run.name.rpartition("-s")
    return stem if stem and seed.split("-")[0].isdecimal() else run.name


def _as_run(run: Run, overrides: Sequence[str]) -> Config:
    """A run's config, with what says where its images are."""
    config = from_tree(run.config_tree)
    passed_over = [o for o in overrides if o not in _may_change(overrides)]
    if passed_over:
        say(f"{run.path}: --set {passed_over[0]} passed over: a run has been trained as it is")
    return override(config, _may_change(overrides))


def _may_change(overrides: Sequence[str]) -> list[str]:
    return [o for o in overrides if o.split("=", 1)[0].strip() in MAY_CHANGE]


def _look_for(
    experiment: Experiment,
    there: Sequence[Found],
    seeds: int | None,
    *,
    training: bool,
    unfinished: bool,
) -> None:
    """Fills in the runs of a config that there are, and the seeds that have none."""
    first = experiment.config.train.seed
    wanted = range(first, first + (seeds or 1))
    newest = {config.train.seed: run for run, config in _of(experiment, there, training=training)}
    counted = [s for s in sorted(newest) if unfinished or newest[s].status == "finished"]
    have = [seed for seed in counted if seeds is None or seed in wanted]
    if seeds is not None or not have:
        experiment.missing = [
            override(experiment.config, [f"train.seed={seed}"])
            for seed in wanted
            if seed not in have
        ]
    to_train = [config.train.seed for config in experiment.missing] if training else []
    for seed in sorted(newest):
        if seed in have or (seeds is None and seed not in to_train):
            experiment.add(newest[seed])


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
        else:
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
    all_runs = [(run, found) for run in runs.list_runs(root) if (found := _config_of(run))]
    seed = config.train.seed
    of_it = _of(experiment, all_runs, training=True)
    there = [run for run, found in of_it if found.train.seed == seed]
    if there and there[-1].status == "running":
        raise UserError(f"{there[-1].path}: is being trained now", "wait for it", Exit.RUN)
    return there[-1] if there else None


def _of(experiment: Experiment, there: Sequence[Found], *, training: bool) -> list[Found]:
    """The runs of an experiment, whatever their seed; the newest last, finished ones after others.

    A folder's name doesn't say which images it holds, so they are looked at; where nothing may be
    trained they need not be there, and a comparison of runs on different ones is refused later.
    """
    identity = experiment.config.identity()
    same = [(run, config) for run, config in there if config.identity() == identity]
    same.sort(key=lambda found: found[0].status == "finished")  # stable: the newest stay last
    if not same or not training or experiment.config.data.source != "folder":
        return same
    images = experiment.dataset().provenance()
    return [(run, config) for run, config in same if run.provenance == images]


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
        return from_tree(run.config_tree)
    except UserError:
        return None  # not ours, or of another version: nothing to compare with
