"""What a model's runs found on copies of the test images, as means over the runs.

Runs that were tested in another way than the first tested one (other views, another number of
pixels, other corruptions) are left out; how many were taken is said.
"""

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, TypeVar

from sfl.comparison import schema
from sfl.comparison.model import ComparedModel
from sfl.runs.directory import COPIES
from sfl.runs.records import Copies

T = TypeVar("T")


def of_copies(model: ComparedModel) -> dict[str, Any]:
    """The fields views, shifts and corrupted of a model. Raises UserError for a damaged file."""
    kept = [one.run.record(COPIES, Copies) for one in model.results]
    there = [each for each in kept if each is not None]
    views = _alike([each.views for each in there], lambda one: (one.count, one.fill))
    shifts = _alike([each.shifts for each in there], lambda one: (one.pixels, one.fill))
    corrupted = _alike([each.corrupted for each in there], lambda one: list(one.error))
    found: dict[str, Any] = {}
    if views:
        accuracy = fmean(one.accuracy for one in views)
        found["views"] = schema.Views(count=views[0].count, runs=len(views), accuracy=accuracy)
    if shifts:
        found["shifts"] = schema.Shifts(
            pixels=shifts[0].pixels,
            fill=shifts[0].fill,
            runs=len(shifts),
            accuracy=[_means(rows) for rows in zip(*(s.accuracy for s in shifts), strict=True)],
            mean=fmean(one.mean for one in shifts),
        )
    if corrupted:
        found["corrupted"] = schema.Corrupted(
            runs=len(corrupted),
            error={name: _means([c.error[name] for c in corrupted]) for name in corrupted[0].error},
            mean_error=fmean(one.mean_error for one in corrupted),
            in_the_mean=corrupted[0].in_the_mean,
        )
    return found


def _alike(found: Sequence[T | None], way: Callable[[T], object]) -> list[T]:
    there = [one for one in found if one is not None]
    return [one for one in there if way(one) == way(there[0])]


def _means(rows: Sequence[Sequence[float]]) -> list[float]:
    """Of lists of one length, place by place."""
    return [fmean(values) for values in zip(*rows, strict=True)]
