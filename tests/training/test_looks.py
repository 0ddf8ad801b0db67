"""When the sums of an epoch are read: alone by the clock, together after steps agreed upon."""

from dataclasses import dataclass, field

import pytest

from sfl.learning.world import ALONE, World
from sfl.training.looks import Looks


class Clock:
    """Advances by the seconds of a step each time it is read."""

    def __init__(self, seconds: float) -> None:
        self.now, self.seconds = 0.0, seconds

    def __call__(self) -> float:
        self.now += self.seconds
        return self.now


@dataclass(frozen=True)
class Two(World):
    """Two workers, of whom the other one would look after 40 steps."""

    size: int = 2
    told: list[int] = field(default_factory=list)

    def largest(self, *numbers: int) -> list[int]:
        self.told.append(numbers[1])
        return [numbers[0], max(numbers[1], 40)]


def due(world: World, steps: int) -> list[int]:
    found = Looks(world)
    return [step for step in range(1, steps + 1) if found.due()]


def test_alone_twice_a_second_from_the_first_step_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sfl.training.looks.time.perf_counter", Clock(0.125))
    assert due(ALONE, 12) == [1, 5, 9]


def test_together_after_the_same_steps_and_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only then they wait for each other. Each tells how many steps it takes in half a second."""
    monkeypatch.setattr("sfl.training.looks.time.perf_counter", Clock(0.125))  # read once a look
    world = Two()
    assert due(world, 300) == [1, 41, 201]
    assert world.told == [4, 160, 640]
