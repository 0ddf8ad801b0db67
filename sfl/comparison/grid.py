"""A study: its cells become models of a comparison, after each has chosen what it tunes.

Two phases: the trials of all cells, then the runs of all cells with what was best.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sfl.comparison import schema
from sfl.comparison.compute import compare
from sfl.comparison.methods import tuning
from sfl.comparison.model import ComparedModel, grouped
from sfl.comparison.names import Named
from sfl.comparison.plan import (
    alike,
    images_reader,
    plan_named,
    refuse_unreadable,
    will_log,
)
from sfl.comparison.results import read_results
from sfl.comparison.run import with_failures
from sfl.comparison.schema import Comparison, Model
from sfl.comparison.train_missing import answered, lacking, train_missing
from sfl.config.grid import Cell, Grid, as_override
from sfl.config.load import override
from sfl.config.schema import Config
from sfl.errors import DIVERGED, Exit, UserError
from sfl.jobs.estimate import estimate
from sfl.jobs.job import ONE, AtOnce, Failure, Job, failed, told
from sfl.progress import say
from sfl.runs.directory import METRICS
from sfl.runs.store import check_name, run_name
from sfl.units import bytes_text, seconds_text


@dataclass(frozen=True)
class Trial:
    """What a cell tries, and the one run that tells how good it is."""

    cell: str
    values: Mapping[str, Any]
    model: ComparedModel

    @property
    def accuracy(self) -> float | None:
        """On the validation images, after the last epoch; None if it has diverged."""
        (run,) = self.model.runs.values()
        if run.has_diverged:
            return None
        if not run.metrics:
            raise run.damaged(METRICS)
        return float(run.metrics[-1]["validation_accuracy"])


def run_grid(
    grid: Grid, root: Path, *,
    training: bool = True, unfinished: bool = False, data_name: str | None = None,
    overrides: Sequence[str] = (), at_once: AtOnce = ONE,
) -> tuple[Comparison, list[ComparedModel]]:  # fmt: skip
    """Trains what the study lacks, and compares its cells with the first one.

    training: whether missing runs may be trained; if not, the study is told as far as it has come.
    unfinished: whether unfinished runs count as they are; overrides: where the images are, for
    those. at_once: how many are trained.

    What failed is in the comparison, without the cells that have no other run; if that leaves
    nothing to compare with the first cell, it is raised.
    Raises UserError as `plan_trials`, `train_missing` and `read_results` do, and (exit 4) where
    nothing may be trained and there is nothing to compare.
    """
    trials = plan_trials(grid, root, training=training)
    train = partial(train_missing, root=root, at_once=at_once)
    failures = []
    if training and any(trial.model.missing for trial in trials):
        failures = train(_tried(trials), may_diverge=True, later=_to_come(grid, trials, root))
        trials = plan_trials(grid, root)
    failures += told(_hopeless(trials))
    models = plan_cells(grid, choose(trials), root, training=training, unfinished=unfinished)
    first = grid.cells[0].name
    if failures and first not in (model.name for model in models):
        raise failed(failures)  # now, not when the others are trained
    to_come = None
    if training:
        failures += train(models)
    else:
        to_come = lacking([*_tried(trials), *models], root)
    if why_not := failed(failures) if failures else to_come:
        models = answered(models, first, why_not, unfinished=unfinished)
    if to_come:
        say(to_come.message)
    read_results(models, overrides, unfinished=unfinished)
    if len(grid.settings.axes) == 1:  # of two, the order of the cells is the axes'
        models = grouped(models)
    variants = {cell.name: cell.variants for cell in grid.cells}
    comparison = compare(
        models, data_name=data_name, variants=[variants[model.name] for model in models]
    )
    comparison = with_failures(comparison, failures)
    tune, seed = grid.settings.tune, grid.cells[0].config.train.seed
    update = {
        "grid": describe(grid, comparison.models, trials),
        "methods": [*comparison.methods, *([tuning(tune, seed)] if tune else [])],
    }
    return comparison.model_copy(update=update), models


def missing(grid: Grid, root: Path, *, known: bool = False) -> list[Job]:
    """What the study lacks: trials, and runs of cells. Those of a cell with trials to come are the
    same whatever it will choose, but for the values chosen, of which they have the first.

    known: leave out what depends on trials to come.
    """
    trials = plan_trials(grid, root)
    jobs = [job for trial in trials for job in trial.model.missing]
    if not jobs or not known:
        jobs += [job for model in _to_come(grid, trials, root) for job in model.missing]
    # Where trials are as long as runs, one of them is the cell's first run.
    each = dict[str, Job]()
    for job in sorted(jobs, key=lambda job: job.config.train.seed):  # as they will be trained
        each.setdefault(f"{job.config.train.seed} {job.config.identity()}", job)
    return list(each.values())


def _to_come(grid: Grid, trials: Sequence[Trial], root: Path) -> list[ComparedModel]:
    """All cells; those with trials to come have the first values that they will try."""
    waiting = {trial.cell: trial.values for trial in reversed(trials) if trial.model.missing}
    return plan_cells(grid, {**choose(trials), **waiting}, root)


def say_plan(grid: Grid, jobs: Sequence[Job], root: Path) -> None:
    """Says what a study lacks, and what training it takes. Raises UserError for jobs that can't be
    trained here, or not be compared.
    """
    cells, seeds = len(grid.cells), grid.settings.seeds
    say(f"{grid.name}: {cells} cells, {seeds} run{'s' * (seeds > 1)} each")
    if not jobs:
        say("all runs are there")
        return
    seconds, size = estimate(jobs, root, alike(images_reader(grid.images_read)))
    say(
        f"to be trained: {len(jobs)} run{'s' * (len(jobs) > 1)}, about "
        f"{seconds_text(seconds)} one after the other, {bytes_text(size)} on the disk "
        "(which: --list)"
    )


def plan_trials(grid: Grid, root: Path, *, training: bool = True) -> list[Trial]:
    """The trials of all cells, with the runs that there are; none without tuning.

    Raises UserError (exit 2) for a setting that doesn't exist, and for cells without validation
    images.
    """
    tune = grid.settings.tune
    if tune is None:
        return []
    asked = [(cell, values) for cell in grid.cells for values in _combinations(tune.values)]
    named = [_trial(grid, cell, values, tune.epochs) for cell, values in asked]
    # Cells that differ in their epochs alone have their trials in common.
    each = dict[str, Named]()
    for one in named:
        each.setdefault(one.experiment, one)
    planned = plan_named(
        list(each.values()), 1, root, training=training, images_read=grid.images_read
    )
    refuse_unreadable(planned, root)
    by_experiment = dict(zip(each, planned, strict=True))
    models = [by_experiment[one.experiment] for one in named]
    for (cell, _), model in zip(asked, models, strict=True):
        if "validation_accuracy" not in will_log(model):
            said = f"tune: {cell.name} has no validation images to choose by"
            raise UserError(said, "hold some out: set: {data.validation: 5000}")
        model.missing = [job for job in model.missing if not (job.run and job.run.has_diverged)]
    return [
        Trial(cell.name, values, model) for (cell, values), model in zip(asked, models, strict=True)
    ]


def _tried(trials: Sequence[Trial]) -> list[ComparedModel]:
    return list({id(trial.model): trial.model for trial in trials}.values())


def _combinations(tried: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    for values in itertools.product(*tried.values()):
        yield dict(zip(tried, values, strict=True))


def _trial(grid: Grid, cell: Cell, values: Mapping[str, Any], epochs: int) -> Named:
    ending = "-".join(f"{key.rpartition('.')[2]}={value}" for key, value in values.items())
    given = [*_overrides(values), f"train.epochs={epochs}"]
    sources = [*(grid.tuned_at[key] for key in values), "tune: epochs"]
    return _named(f"{cell.name}-{ending}", override(cell.config, given, sources))


def _named(name: str, config: Config) -> Named:
    """Raises UserError (exit 2) where the runs' names would be no names."""
    check_name(run_name(name, config), "run")
    return Named(name, config)


def _overrides(values: Mapping[str, Any]) -> list[str]:
    return [as_override(key, value) for key, value in values.items()]


def choose(trials: Sequence[Trial]) -> dict[str, Mapping[str, Any]]:
    """By cell: the values of its best trial, of equal ones the first. None of a cell with trials to
    come, or of which each has diverged.
    """
    best: dict[str, Mapping[str, Any]] = {}
    for cell, tried in _complete(trials).items():
        found = [(trial.accuracy, trial.values) for trial in tried]
        ranked = [(accuracy, values) for accuracy, values in found if accuracy is not None]
        if ranked:
            best[cell] = max(ranked, key=lambda one: one[0])[1]
    return best


def _complete(trials: Sequence[Trial]) -> dict[str, list[Trial]]:
    """By cell, of those that have no trial to come."""
    cells: dict[str, list[Trial]] = {}
    for trial in trials:
        cells.setdefault(trial.cell, []).append(trial)
    return {cell: each for cell, each in cells.items() if not any(t.model.missing for t in each)}


def _hopeless(trials: Sequence[Trial]) -> list[Failure]:
    """The cells of which each trial has diverged."""
    chosen = choose(trials)
    said = f"{DIVERGED} with each of the values tried"
    error = UserError(said, "give tune: others", Exit.DIVERGED)
    return [Failure(cell, error) for cell in _complete(trials) if cell not in chosen]


def plan_cells(
    grid: Grid, chosen: Mapping[str, Mapping[str, Any]], root: Path, *,
    training: bool = True, unfinished: bool = False,
) -> list[ComparedModel]:  # fmt: skip
    """The cells as models, with what each has chosen; those that have nothing to choose, or did."""
    named = [
        _named(cell.name, override(cell.config, _overrides(chosen.get(cell.name, {}))))
        for cell in grid.cells
        if grid.settings.tune is None or cell.name in chosen
    ]
    seeds = grid.settings.seeds
    models = plan_named(
        named, seeds, root,
        training=training, unfinished=unfinished, images_read=grid.images_read,
    )  # fmt: skip
    refuse_unreadable(models, root)
    return models


def describe(grid: Grid, models: Sequence[Model], trials: Sequence[Trial]) -> schema.Grid:
    """The study's axes and cells for its JSON. models: of the cells that have one."""
    accuracies = {model.name: model.accuracy for model in models}
    by_name = {cell.name: cell for cell in grid.cells}
    there = [by_name[model.name] for model in models]
    accuracy = {frozenset(cell.variants.items()): accuracies[cell.name] for cell in there}
    axes = {axis: list(variants) for axis, variants in grid.settings.axes.items()}
    chosen = choose(trials)

    def gap(cell: Cell, axis: str) -> float | None:
        of = {**cell.variants, axis: axes[axis][0]}
        there = accuracy.get(frozenset(of.items()))
        own = accuracy[frozenset(cell.variants.items())]
        return None if there is None else own - there

    def tried(cell: Cell) -> list[schema.Trial]:
        return [
            schema.Trial(values=dict(trial.values), run=run.name, accuracy=trial.accuracy)
            for trial in trials
            if trial.cell == cell.name
            for run in trial.model.runs.values()
        ]

    cells = [
        schema.Cell(
            model=cell.name,
            variants=dict(cell.variants),
            gaps={axis: gap(cell, axis) for axis in axes},
            trials=tried(cell),
            chosen=dict(chosen.get(cell.name, {})),
        )
        for cell in there
    ]
    return schema.Grid(name=grid.name, axes=axes, cells=cells)
