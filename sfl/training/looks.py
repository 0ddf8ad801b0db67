"""When training looks at what it has done so far, and whether it must stop."""

import time

from sfl.learning.world import World
from sfl.training.stopping import asked, stop

SECONDS = 0.5  # between looks, which make the CPU wait for the device


class Looks:
    """Asked after each step of an epoch, whether it is time to look: after the first, and then
    every half second.

    Several workers look after the same steps, which they agree on at each look, so that no other
    step waits for their processors.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._next_time = 0.0
        self._last = time.perf_counter()
        self._pause = self._left = 1  # steps between two looks, and until the next

    def due(self) -> bool:
        """Raises Stopped after the step in which a signal came; with several workers, at a look."""
        if self._world.size > 1:
            return self._agreed()
        stop(asked())
        now = time.perf_counter()
        if now < self._next_time:
            return False
        self._next_time = now + SECONDS
        return True

    def _agreed(self) -> bool:
        self._left -= 1
        if self._left:
            return False
        now = time.perf_counter()
        fast = self._pause / max(now - self._last, 1e-9)  # steps a second since the last look
        signal, self._pause = self._world.largest(asked(), max(1, int(SECONDS * fast)))
        self._left, self._last = self._pause, now
        stop(signal)
        return True
