"""Seconds of several functions, measured in turn, so that a drifting machine drifts for all."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

MAX_SECONDS = 20.0  # of one function, in all: what is slow is repeated less often


@dataclass(frozen=True)
class Timing:
    """Median, smallest and largest of n seconds."""

    median: float
    smallest: float
    largest: float
    n: int


def interleaved(
    functions: Mapping[str, Callable[[], float]], repetitions: int
) -> dict[str, Timing]:
    """Calls each once to warm up, then all in turn, again and again.

    A function tells the seconds that it took; `timed` makes such a one of any other.
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
    """A function that calls this one twice and tells the seconds that the second call took.

    The first finds in the caches what others left there.
    """

    def seconds() -> float:
        function()
        start = time.perf_counter()
        function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return seconds
