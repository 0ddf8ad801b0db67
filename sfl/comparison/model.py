"""A model of a comparison: planned from its config, then filled with runs, then with their results.

Plain values: knows neither how runs are found nor how they are trained. What a comparison says of
a model to the outside is `Model` in sfl/comparison/schema.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from sfl.config.schema import Config
from sfl.jobs.job import Job
from sfl.runs.directory import Run
from sfl.runs.labels import label
from sfl.runs.records import Count, Machine, Positive, Result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sfl.data.dataset import Dataset


class ComparableResult(Result):
    """A result.json with the fields that a comparison needs; a few of docs/results lack them."""

    training_flops_per_image: Count
    train_images: Positive
    peak_memory_bytes: Count | None


@dataclass(frozen=True, eq=False)
class RunResult:
    """A run, its result, and its answers to the N test images: predictions, labels (N,) int."""

    run: Run
    result: ComparableResult
    predictions: "NDArray[np.int64]"
    labels: "NDArray[np.int64]"

    @property
    def seed(self) -> int:
        return int(self.run.config["train"]["seed"])

    @property
    def machines(self) -> list[Machine]:
        """On which it was begun and resumed; none where it doesn't say."""
        environment = self.run.environment
        return [environment, *environment.resumed] if environment else []

    @cached_property
    def correct(self) -> "NDArray[np.bool_]":
        """(N,), whether each image was classified correctly."""
        found: NDArray[np.bool_] = self.predictions == self.labels
        return found


@dataclass
class ComparedModel:
    """One column of a comparison.

    runs: by seed. missing: what is still to be trained. results: of the runs that count, in the
    order of the seeds. images_read: data sets by the settings of the data, shared by all models.
    """

    name: str
    config: Config
    runs: dict[int, Run] = field(default_factory=dict)
    missing: list[Job] = field(default_factory=list)
    results: Sequence[RunResult] = ()
    images_read: "dict[str, Dataset]" = field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """The names of the classes, as its results list them."""
        return list(self.results[0].result.per_class)


def label_of(model: ComparedModel) -> str | None:
    """What it is; None where its runs, of the first versions, have no audit."""
    result = model.results[-1].result  # of earlier versions without a label
    return result.label or (label(model.config, result.audit.sharing) if result.audit else None)


def grouped(models: Sequence[ComparedModel]) -> list[ComparedModel]:
    """The models, which have their results, with those of one label beside each other."""
    labels = list(dict.fromkeys(map(label_of, models)))
    return sorted(models, key=lambda model: labels.index(label_of(model)))
