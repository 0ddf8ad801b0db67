"""How the cost of a layer grows with the batch, its channels and its positions."""

from collections.abc import Callable
from typing import Any

from sfl.bench.layers import Layer, call_ours
from sfl.bench.timing import interleaved, timed

BATCH, CHANNELS, SIDE, OUT_CHANNELS = (
    64,
    32,
    16,
    32,
)  # the layer of which one size at a time is varied

AXES: dict[str, tuple[int, ...]] = {
    "batch": (16, 32, 64, 128, 256),
    "channels in": (8, 16, 32, 64, 128),
    "positions": (6, 10, 16, 24, 34),  # side of the input; a kernel of 3 has (side - 2)² positions
}


def measure(repetitions: int) -> list[dict[str, Any]]:
    """For each axis: its values, and the median seconds of forward + backward for each value."""
    found = []
    for axis, values in AXES.items():
        calls: dict[str, Callable[[], float]] = {}
        for value in values:
            batch = value if axis == "batch" else BATCH
            channels = value if axis == "channels in" else CHANNELS
            side = value if axis == "positions" else SIDE
            layer = Layer((channels, side, side), OUT_CHANNELS, 3)
            size = (side - 2) ** 2 if axis == "positions" else value
            calls[str(size)] = timed(call_ours(layer, batch))
        timings = interleaved(calls, repetitions)
        seconds = [timing.median for timing in timings.values()]
        found.append({"axis": axis, "values": [int(size) for size in timings], "seconds": seconds})
    return found
