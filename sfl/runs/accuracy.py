"""By which accuracy runs are judged: on validation images if all have it, else on test images.

Knows no models and no comparison.
"""

from collections.abc import Collection
from typing import Any, Literal

from sfl.config.schema import Config
from sfl.runs.directory import Run

Images = Literal["validation", "test"]


def judged_on(*logged: Collection[str]) -> Images | None:
    """The images whose accuracy all runs have; None where neither kind is in all of them.

    logged: for each run the names of what it logs.
    """
    kinds: tuple[Images, ...] = ("validation", "test")
    shared = (kind for kind in kinds if all(f"{kind}_accuracy" in each for each in logged))
    return next(shared, None)


def logged(metrics: list[dict[str, Any]]) -> set[str]:
    """The names of what a run has logged, in some epoch."""
    return set().union(*metrics)


def will_be_logged(config: Config) -> set[str]:
    """Which accuracies a run of this config logs, beside that of training."""
    asked = {"validation": config.data.validation, "test": config.train.test_every}
    return {f"{images}_accuracy" for images, wanted in asked.items() if wanted}


def best(run: Run) -> tuple[float, Images] | tuple[None, None]:
    """The highest accuracy so far, and on which images.

    A finished run without validation images has its final test accuracy: the accuracies that it
    logged before chose nothing.
    """
    images = judged_on(logged(run.metrics))
    if images != "validation" and run.result is not None:
        return run.result.accuracy, "test"
    if images is None:
        return None, None
    name = f"{images}_accuracy"
    return max(line[name] for line in run.metrics if name in line), images
