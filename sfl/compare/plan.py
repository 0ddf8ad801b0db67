"""Which runs a comparison takes, and which it lacks.

Nothing here computes on images; torch is imported when an unfinished run is tested.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sfl.config.load import find, from_tree, load, override
from sfl.config.schema import MAY_CHANGE, Config
from sfl.errors import PROGRAM, Exit, UserError
from sfl.progress import say
from sfl.runs import store
from sfl.runs.directory import BEST, Run

if TYPE_CHECKING:
    from sfl.compare.results import Group, RunResult
    from sfl.data.dataset import Dataset


@dataclass
class Experiment:
    """One model of a comparison: its config, a run of each seed, what is still to be trained.

    images: what has been read so far, by the settings of the data; all experiments share it.
    """

    name: str
    config: Config
    images: "dict[str, Dataset]"
    runs: dict[int, Run] = field(default_factory=dict)
    missing: list[Config] = field(default_factory=list)

    def dataset(self) -> "Dataset":
        """The images of this experiment; a comparison reads each data set once."""
        from sfl.training.setup import load_images

        key = self.config.data.model_dump_json()
        if key not in self.images:
            self.images[key] = load_images(self.config)
        return self.images[key]


@dataclass(frozen=True)
class _Named:
    """What a name on the command line means: a config, or a run of one."""

    name: str
    run: Run | None
    config: Config

    @property
    def key(self) -> str:
        """The same for all runs of an experiment, whatever their seed."""
        return json.dumps(self.config.identity(), sort_keys=True)


def plan(
    names: Sequence[str],
    overrides: Sequence[str],
    seeds: int | None,
    root: Path,
    *,
    training: bool = True,
    unfinished: bool = False,
) -> list[Experiment]:
    """What a comparison needs: per model its config, its runs and what is missing.

    names: configs, YAML files, run directories or names of runs, mixed; runs and configs that are
        the same experiment but for the seed are one model.
    seeds: how many runs of a config, counted up from its own; None takes whatever runs match.
    training: whether what is missing may be trained; without it no images are read.
    unfinished: whether unfinished runs count as they stand.
    """
    images = dict[str, "Dataset"]()
    named = [_resolve(name, overrides, root) for name in names]
    experiments = {one.key: Experiment("", one.config, images) for one in named}
    for one in named:
        if one.run is not None:
            _add(experiments[one.key], one.run, one.config.train.seed)
    all_runs: list[tuple[Run, Config]] | None = None
    for one in named:
        if one.run is None:
            experiment = experiments[one.key]
            if experiment.name:
                same = f"{one.name} is the same experiment as {experiment.name}"
                said = f"{one.name} is named twice" if one.name == experiment.name else same
                raise UserError(said, "give each experiment once")
            experiment.name, experiment.config = one.name, one.config
            all_runs = readable(root) if all_runs is None else all_runs
            _look_for(experiment, all_runs, seeds, training=training, unfinished=unfinished)
    for one in named:
        experiment = experiments[one.key]
        taken = {other.name for other in experiments.values()}
        if not experiment.name:
            experiment.name = _after_run(one, taken)
            if seeds is not None:
                say(f"{experiment.name}: --seeds passed over: it has the runs that were named")
    if len(experiments) < 2:
        raise UserError(f"compare needs two models or more, not {', '.join(names)} alone")
    return list(experiments.values())


def results(
    experiments: Sequence[Experiment], overrides: Sequence[str], *, unfinished: bool = False
) -> "list[Group]":
    """What the runs ended with, for a comparison; names those that have not finished.

    unfinished: takes those in, too: their best weights so far are tested now.
    """
    from sfl.compare.results import Group, read_result

    groups = []
    for experiment in experiments:
        found = []
        for _, run in sorted(experiment.runs.items()):
            if run.status == "finished":
                found.append(read_result(run))
                continue
            epochs = f"{len(run.metrics)} of {experiment.config.train.epochs} epochs"
            done = f"{run.path}: has not finished ({epochs})"
            if unfinished:
                say(f"{done}, tested as it stands")
                found.append(_tested(run, _may_change(overrides)))
            else:
                say(f"{done}, left out; --unfinished takes it in")
        if not found:
            hint = f"go on with it: {PROGRAM} train --resume RUN, or take it in: --unfinished"
            raise UserError(f"{experiment.name}: no run has finished", hint, Exit.RUN)
        groups.append(Group(experiment.name, experiment.config, found))
    return groups


def _tested(run: Run, overrides: Sequence[str]) -> "RunResult":
    """An unfinished run's best weights so far, on the test images."""
    from sfl.compare.results import RunResult, checked_result
    from sfl.training.testing import cost, test_weights

    if not run.metrics or not (run.path / BEST).exists():
        raise UserError(f"{run.path}: has no trained weights yet", "wait, or go on", Exit.RUN)
    tested = test_weights(run.path / BEST, overrides)
    # On which images it was trained, whatever lies there now.
    values = tested.values | cost(tested.setup, run.metrics) | {"data": run.provenance}
    answers, labels = tested.evaluation.predictions.numpy(), tested.evaluation.labels.numpy()
    return RunResult(run, checked_result(values, run), answers, labels)


def refuse_target(experiments: Sequence[Experiment]) -> None:
    """Raises UserError (exit 2) where no accuracy is logged by all that a target can be read off.

    Before anything is trained.
    """
    configs = [experiment.config for experiment in experiments]
    if all(c.data.validation for c in configs) or all(c.train.test_every for c in configs):
        return
    silent = next(
        e for e in experiments if not (e.config.data.validation and e.config.train.test_every)
    )
    raise UserError(
        f"--target: not all models log accuracies of one kind; {silent.name} has data.validation: "
        f"{silent.config.data.validation}, train.test_every: {silent.config.train.test_every}",
        "train all with data.validation=N or with train.test_every=1",
    )


# --- what a name means


def _resolve(name: str, overrides: Sequence[str], root: Path) -> _Named:
    """A config goes before a run of its name."""
    try:
        find(name)
    except UserError as error:
        run = store.search(root, name)
        if run is not None:
            return _Named(name, run, _as_run(run, overrides))
        if os.path.isdir(name):
            raise UserError(f"{name}: neither a run directory nor a config") from None
        raise UserError(error.message, f"{error.hint}, or a run in {root}") from None
    return _Named(name, None, _load_applicable(name, overrides))


def _as_run(run: Run, overrides: Sequence[str]) -> Config:
    """A run's config, with what says where its images are."""
    applied = _may_change(overrides)
    passed_over = " ".join(f"--set {given}" for given in overrides if given not in applied)
    if passed_over:
        say(f"{run.path}: {passed_over} passed over: a run has been trained as it is")
    return override(from_tree(run.config_tree), applied)


def _after_run(one: _Named, taken: set[str]) -> str:
    """A model without a config is called after a run of it, without the seed if that is free."""
    assert one.run is not None
    stem, _, seed = one.run.name.rpartition("-s")
    short = stem if stem and seed.split("-")[0].isdecimal() else one.run.name
    return next(name for name in (short, one.run.name, str(one.run.path)) if name not in taken)


def _load_applicable(name: str, overrides: Sequence[str]) -> Config:
    """A config with the overrides that it has a setting for; says which one it passes over."""
    storage = [given for given in overrides if _key(given) == "model.storage"]
    others = [o for o in overrides if o not in storage]
    config = load(name, others)
    if storage and config.model.layer == "conv":
        say(f"{name}: --set {storage[-1]} passed over: a conv layer has no storage")
        return config
    return load(name, overrides)


def _may_change(overrides: Sequence[str]) -> list[str]:
    return [given for given in overrides if _key(given) in MAY_CHANGE]


def _key(override: str) -> str:
    return override.split("=", 1)[0].strip()


# --- which runs there are


def readable(root: Path) -> list[tuple[Run, Config]]:
    """All runs whose config is one of this version's, the last written last."""
    found = []
    for run in store.list_runs(root):
        try:
            found.append((run, from_tree(run.config_tree)))
        except UserError:
            continue  # not ours, or of another version: nothing to compare with
    return found


def _add(experiment: Experiment, run: Run, seed: int) -> None:
    """A run that was named; of two of one seed, which are no two draws, one counts."""
    other = experiment.runs.get(seed, run)
    if other.path.resolve() != run.path.resolve():
        # A finished one before others, then the newer.
        less, run = sorted((other, run), key=lambda one: (one.status == "finished", one.modified))
        say(f"{less.path} left out: a run of the same seed as {run.path}")
    experiment.runs[seed] = run


def _look_for(
    experiment: Experiment,
    all_runs: Sequence[tuple[Run, Config]],
    seeds: int | None,
    *,
    training: bool,
    unfinished: bool,
) -> None:
    """Fills in the runs of a config that there are, and the seeds that have none."""
    first = experiment.config.train.seed
    wanted = range(first, first + (seeds or 1))
    newest = {config.train.seed: run for run, config in _of(experiment, all_runs, training)}
    for seed, run in newest.items():
        if seeds is None or seed in wanted:
            experiment.runs.setdefault(seed, run)
    have = {seed for seed, run in experiment.runs.items() if unfinished or run.status == "finished"}
    if seeds is not None or not have:
        lacking = [seed for seed in wanted if seed not in have]
        experiment.missing = [
            override(experiment.config, [f"train.seed={seed}"]) for seed in lacking
        ]


def _of(
    experiment: Experiment, all_runs: Sequence[tuple[Run, Config]], training: bool
) -> list[tuple[Run, Config]]:
    """The runs of an experiment, whatever their seed: the newest last, finished ones after others.

    A folder's name doesn't say which images it holds, so they are looked at; where nothing may be
    trained they need not be there, and a comparison of runs on different ones is refused later.
    """
    identity = experiment.config.identity()
    same = [(run, config) for run, config in all_runs if config.identity() == identity]
    same.sort(key=lambda found: found[0].status == "finished")  # stable: the newest stay last
    if not same or not training or experiment.config.data.source != "folder":
        return same
    images = experiment.dataset().provenance()
    return [(run, config) for run, config in same if run.provenance == images]
