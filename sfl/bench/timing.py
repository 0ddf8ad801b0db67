"""Times several functions in turn, so that a change in the machine's speed affects all alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

MAX_SECONDS = 20.0  # for one function in total: slow functions are repeated less often


@dataclass(frozen=True)
class Timing:
    """Median, smallest and largest of n times in seconds."""

    median: float
    smallest: float
    largest: float
    n: int


def interleaved(
    functions: Mapping[str, Callable[[], float]], repetitions: int
) -> dict[str, Timing]:
    """Calls each function once to warm up, then all of them in turn, `repetitions` times.

    Each function must return the seconds that it took; `timed` makes one from any function.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    slow: set[str] = set()
    for name, function in functions.items():
        if function() * repetitions > MAX_SECONDS:
            slow.add(name)
    for repetition in range(repetitions):
        for name, function in functions.items():
            if name not in slow or sum(seconds[name]) < MAX_SECONDS or repetition < 3:
                seconds[name].append(function())
    return {
        name: Timing(statistics.median(found), min(found), max(found), len(found))
        for name, found in seconds.items()
    }


def timed(function: Callable[[], object]) -> Callable[[], float]:
    """A function that calls `function` twice and returns the seconds of the second call.

    The first call fills the caches, which hold other functions' data.
    """

    def seconds() -> float:
        function()
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return seconds
