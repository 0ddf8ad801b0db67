"""A run in short: what `sfl runs` lists. Reads text files; needs no torch."""

import time
from typing import Any

from sfl.errors import UserError
from sfl.runs.directory import Run


def describe(run: Run) -> dict[str, Any]:
    """Status, progress, accuracy, age and size; a damaged run must not hide the others."""
    described = {
        "run": run.name,
        "status": run.status,
        "failure": None,
        "epochs_done": None,
        "epochs": None,
        "accuracy": None,
        "accuracy_of": None,
        "age_seconds": round(time.time() - run.modified),
        "bytes": run.bytes,
    }
    try:
        accuracy, images = best_accuracy(run)
        return described | {
            "failure": (run.failure or "").strip() if described["status"] == "failed" else None,
            "epochs_done": len(run.metrics),
            "epochs": int(run.config["train"]["epochs"]),
            "accuracy": accuracy,
            "accuracy_of": images,
        }
    except (UserError, KeyError, TypeError, ValueError):
        return described | {"status": "damaged"}


def best_accuracy(run: Run) -> tuple[float, str] | tuple[None, None]:
    """The highest so far and of which images: "validation" where there are any, else "test".

    Of a finished run without validation images it is the final one: what it logged on the way
    chose nothing.
    """
    for images in ("validation", "test"):
        key = f"{images}_accuracy"
        logged = [float(line[key]) for line in run.metrics if key in line]
        if images == "test" and run.result is not None:
            logged = [float(run.result["accuracy"])]
        if logged:
            return max(logged), images
    return None, None
