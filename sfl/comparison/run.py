"""A whole comparison of models that are named: what `sfl compare` and `sfl.compare` do."""

from collections.abc import Sequence
from pathlib import Path

from sfl.comparison.compute import compare
from sfl.comparison.model import ComparedModel
from sfl.comparison.plan import plan, refuse_target
from sfl.comparison.results import read_results
from sfl.comparison.schema import Comparison
from sfl.comparison.train_missing import train_missing
from sfl.jobs.job import ONE, AtOnce


def run_comparison(
    names: Sequence[str], overrides: Sequence[str], seeds: int | None, root: Path, *,
    target: float | None = None, training: bool = True, unfinished: bool = False,
    data_name: str | None = None, at_once: AtOnce = ONE,
) -> tuple[Comparison, list[ComparedModel]]:  # fmt: skip
    """Trains the runs that the models lack, and compares the models with the first one.

    names, seeds, training, unfinished: see `plan`. target, data_name: see `compute.compare`.
    at_once: how many are trained. Raises UserError as
    `plan`, `refuse_target`, `train_missing`, `read_results` and `compute.compare` do.
    """
    models = plan(names, overrides, seeds, root, training=training, unfinished=unfinished)
    if target is not None:
        refuse_target(models)
    train_missing(models, root, training=training, at_once=at_once)
    read_results(models, overrides, unfinished=unfinished)
    return compare(models, target, data_name), models
