"""A run in a few values, as `sfl runs` lists it. Reads text files only; needs no torch."""

import time
from typing import Any

from sfl.errors import UserError
from sfl.runs.accuracy import best
from sfl.runs.directory import Run


def describe(run: Run) -> dict[str, Any]:
    """Status, progress, accuracy, age and size. Of a damaged run, the status says so."""
    unknown = dict.fromkeys(("failure", "epochs_done", "epochs", "accuracy", "accuracy_of"))
    described: dict[str, Any] = {"run": run.name, "status": run.status, **unknown}
    described |= {"age_seconds": round(time.time() - run.modified), "bytes": run.bytes}
    try:
        accuracy, images = best(run)
        return described | {
            "failure": (run.failure or "").strip() if described["status"] == "failed" else None,
            "epochs_done": len(run.metrics),
            "epochs": int(run.config["train"]["epochs"]),
            "accuracy": accuracy,
            "accuracy_of": images,
        }
    except (UserError, KeyError, TypeError, ValueError):
        return described | {"status": "damaged"}
