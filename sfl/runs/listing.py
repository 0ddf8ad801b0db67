"""A run in a few values, as `sfl runs` lists it, and by which accuracy runs are judged.

Reads text files only; needs no torch. Knows no models and no comparison.
"""

import time
from collections.abc import Collection
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Literal

from sfl.errors import UserError
from sfl.runs.directory import Run

if TYPE_CHECKING:
    from sfl.config.schema import Config

Images = Literal["validation", "test"]


def judged_on(*logged: Collection[str]) -> Images | None:
    """The images whose accuracy all runs have; None where neither kind is in all of them.

    logged: for each run the names of what it logs.
    """
    kinds: tuple[Images, ...] = ("validation", "test")
    shared = (kind for kind in kinds if all(f"{kind}_accuracy" in each for each in logged))
    return next(shared, None)


def will_be_logged(config: "Config") -> set[str]:
    """Which accuracies a run of this config logs, beside that of training."""
    asked = {"validation": config.data.validation, "test": config.train.test_every}
    return {f"{images}_accuracy" for images, wanted in asked.items() if wanted}


def best(run: Run) -> tuple[float, Images] | tuple[None, None]:
    """The highest accuracy so far, and on which images.

    A finished run without validation images has its final test accuracy: the accuracies that it
    logged before chose nothing.
    """
    images = judged_on(run.logged)
    if images != "validation" and run.result is not None:
        return run.result.accuracy, "test"
    if images is None:
        return None, None
    name = f"{images}_accuracy"
    return max(line[name] for line in run.metrics if name in line), images


def describe(run: Run) -> dict[str, Any]:
    """Status, progress, accuracy, age and size. Of a damaged run, the status says so."""
    unknown = dict.fromkeys(
        ("failure", "epochs_done", "epochs", "accuracy", "accuracy_of", "model", "images")
    )
    described: dict[str, Any] = {"run": run.name, "status": run.status, **unknown}
    described |= {"age_seconds": max(0, round(time.time() - run.modified)), "bytes": run.bytes}
    try:
        accuracy, images = best(run)
        return described | {
            "failure": (run.failure or "").strip() if described["status"] == "failed" else None,
            "epochs_done": len(run.metrics),
            "epochs": int(run.config["train"]["epochs"]),
            "accuracy": accuracy,
            "accuracy_of": images,
            "model": f"{run.config['model']['name']}, {run.config['model']['layer']}",
            "images": _images(run.config["data"]),
        }
    except (UserError, KeyError, TypeError, ValueError):
        return described | {"status": "damaged"}


def _images(data: dict[str, Any]) -> str:
    """The source, and the last part of the folder where that is known: "folder flowers"."""
    root = str(data.get("root", "")) if data["source"] == "folder" else ""
    return f"{data['source']} {PurePath(root).name}".strip()
