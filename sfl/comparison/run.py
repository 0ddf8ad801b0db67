"""A whole comparison of models that are named: what `sfl compare` and `sfl.compare` do."""

from collections.abc import Sequence
from pathlib import Path

from sfl.comparison.compute import compare
from sfl.comparison.model import ComparedModel, grouped
from sfl.comparison.plan import plan, refuse_target
from sfl.comparison.results import read_results
from sfl.comparison.schema import Comparison, Failed
from sfl.comparison.train_missing import answered, lacking, train_missing
from sfl.jobs.job import ONE, AtOnce, Failure, failed


def run_comparison(
    names: Sequence[str], overrides: Sequence[str], seeds: int | None, root: Path, *,
    target: float | None = None, training: bool = True, unfinished: bool = False,
    data_name: str | None = None, at_once: AtOnce = ONE,
) -> tuple[Comparison, list[ComparedModel]]:  # fmt: skip
    """Trains the runs that the models lack, and compares the models with the first one.

    names, seeds, training, unfinished: see `plan`. target, data_name: see `compute.compare`.
    at_once: how many are trained. What failed is in the comparison, without the models that have no
    other run; if that leaves nothing to compare, it is raised.

    Raises UserError as `plan`, `refuse_target`, `train_missing`, `read_results` and
    `compute.compare` do, and (exit 4) for what is missing and may not be trained.
    """
    models = plan(names, overrides, seeds, root, training=training, unfinished=unfinished)
    if target is not None:
        refuse_target(models)
    if not training and (error := lacking(models, root)):
        raise error
    failures = train_missing(models, root, at_once=at_once)
    if failures:
        models = answered(models, models[0].name, failed(failures), unfinished=unfinished)
    read_results(models, overrides, unfinished=unfinished)
    models = grouped(models)
    return with_failures(compare(models, target, data_name), failures), models


def with_failures(comparison: Comparison, failures: Sequence[Failure]) -> Comparison:
    """A comparison that also tells of them."""
    found = [
        Failed(run=one.name, reason=str(one.error), exit_code=one.error.exit_code)
        for one in failures
    ]
    remarks = [f"{one.run} failed, and is not counted: {one.reason}" for one in found]
    update = {"failed": found, "remarks": [*comparison.remarks, *remarks]}
    return comparison.model_copy(update=update)
