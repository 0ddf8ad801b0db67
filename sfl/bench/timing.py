"""Times several functions in turn, so that a change in the machine's speed affects all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch

from sfl.learning.cuda_graph import WARM_UP, Graphed
from sfl.progress import say

Name = TypeVar("Name", str, int)
Made = TypeVar("Made")
CALLS = 10  # in a CUDA graph
MAX_SECONDS = 20.0  # that one function returned in total: slow ones are repeated less often


@dataclass(frozen=True)
class Timing:
    """Median, smallest and largest of n times in seconds."""

    median: float
    smallest: float
    largest: float
    n: int


def added(timings: list[Timing]) -> dict[str, float]:
    """The sums of the medians, the smallest and the largest seconds, as plain values."""
    return {
        "seconds": sum(timing.median for timing in timings),
        "smallest": sum(timing.smallest for timing in timings),
        "largest": sum(timing.largest for timing in timings),
        "n": min(timing.n for timing in timings),
    }


def interleaved(
    functions: Mapping[Name, Callable[[], float]], repetitions: int
) -> dict[Name, Timing]:
    """Calls each function once to warm up, then all of them in turn, `repetitions` times.

    Each function must return the seconds that it took; `timed` makes one from any function. One
    that fails when it is called first is left out, in a line.
    """
    first = {name: attempted(name, call) for name, call in functions.items()}
    seconds: dict[Name, list[float]] = {
        name: [] for name, took in first.items() if took is not None
    }
    slow = {name for name, took in first.items() if took and took * repetitions > MAX_SECONDS}
    for repetition in range(repetitions):
        for name in seconds:
            function = functions[name]
            if name not in slow or sum(seconds[name]) < MAX_SECONDS or repetition < 3:
                seconds[name].append(function())
    return {
        name: Timing(statistics.median(found), min(found), max(found), len(found))
        for name, found in seconds.items()
    }


def attempted(name: object, make: Callable[[], Made]) -> Made | None:
    """What `make` gives; None if it fails, which a line says: the rest is worth measuring."""
    try:
        return make()
    except Exception as error:  # PyTorch's, its compiler's, the driver's
        said = " ".join(str(error).split()) or "no reason"
        say(f"{name} is left out: {type(error).__name__}: {said[:200]}")
        return None


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """A function that calls `function` twice and returns the seconds of the second call.

    The first call fills the caches, which hold other functions' data.
    """

    def seconds() -> float:
        function()
        wait()
        start = time.perf_counter()
        function()
        wait()
        return time.perf_counter() - start

    return seconds


def clock(function: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """What times `function` on that device: see `timed` and `recorded`."""
    return recorded(function) if device.type == "cuda" else timed(function)


def recorded(function: Callable[[], object]) -> Callable[[], float]:
    """As `timed`, on a CUDA device: the seconds of one call, a tenth of a CUDA graph of ten.

    A training step is such a graph. Launched one by one, small layers take the host longer than the
    device.
    """

    def ten_calls(nothing: torch.Tensor) -> tuple[()]:
        for _ in range(CALLS):
            function()
        return ()

    graph, nothing = Graphed(ten_calls, _refused), torch.zeros((), device="cuda")
    for _ in range(WARM_UP):
        graph(nothing)
    seconds = timed(lambda: graph(nothing))
    return lambda: seconds() / CALLS


def _refused(error: RuntimeError) -> None:
    raise error


def wait() -> None:
    """Until a GPU has done all that it was given."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()
