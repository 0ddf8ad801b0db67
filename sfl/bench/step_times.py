"""Seconds and peak memory of whole training steps, each network's in turn."""

from typing import Any

from sfl.bench.steps import BATCH, NOTEBOOK, OURS
from sfl.bench.timing import Timing, interleaved
from sfl.bench.worker import Worker
from sfl.progress import track


def measure(repetitions: int) -> list[dict[str, Any]]:
    """One entry a network of the notebook: seconds and peak memory, ours and the notebook's."""
    found = []
    for network in track(NOTEBOOK, "Measuring steps", len(NOTEBOOK)):
        names = [f"{network}, notebook", *(name for name in OURS if name.startswith(network))]
        workers = {name: Worker(name) for name in names}
        timings = interleaved({n: w.seconds for n, w in workers.items()}, repetitions)
        steps = {name: _described(timings[name], workers[name].peak_bytes()) for name in names}
        found.append({"network": network, "batch": BATCH, "steps": steps})
    return found


def _described(timing: Timing, peak_bytes: int) -> dict[str, float]:
    return {
        "seconds": timing.median,
        "smallest": timing.smallest,
        "largest": timing.largest,
        "n": timing.n,
        "peak_bytes": peak_bytes,
    }
