"""What a person sees while something long is going on: bars on a terminal, plain lines elsewhere.

Everything here goes to standard error; standard output belongs to results. Knows nothing of what
is being counted.
"""

from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from sfl import workers

T = TypeVar("T")

# emoji: or a path with ":cat:" in it would be shown as another one. Of several workers one speaks.
console = Console(
    stderr=True, highlight=False, soft_wrap=True, emoji=False, quiet=workers.rank() > 0
)


def say(line: str) -> None:
    """Prints one line of message on standard error."""
    console.print(line, markup=False)


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields the items under a progress bar; where there is no terminal, says once what goes on."""
    if not console.is_terminal:
        say(f"{description} ...")
        yield from items
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


class TrainingDisplay:
    """A run under way: a line for every epoch done and, on a terminal, a bar for the present one.

    Losses are means of batch means, accuracies fractions, speeds in images per second.
    """

    def __init__(self, name: str, epochs: int, steps_per_epoch: int) -> None:
        self.name, self.epochs, self.steps_per_epoch = name, epochs, steps_per_epoch
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[values]}  left"),
            TimeRemainingColumn(compact=True),
        )
        self._bar = Progress(
            *columns, console=console, transient=True, expand=True, disable=not console.is_terminal
        )
        self._task: TaskID | None = None

    def __enter__(self) -> "TrainingDisplay":
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def step(self, epoch: int, step: int, loss: float, accuracy: float, speed: float) -> None:
        """Moves the bar: `step` steps of the epoch are done."""
        values = f"loss {loss:.3f}  accuracy {accuracy:.1%}  {speed:,.0f} images/s"
        total = self.epochs * self.steps_per_epoch
        completed = (epoch - 1) * self.steps_per_epoch + step
        if self._task is None:
            # Started here, so that a resumed run's time left doesn't count epochs of another day.
            self._task = self._bar.add_task("", total=total, completed=completed, values=values)
        self._bar.update(
            self._task,
            description=f"{self.name}  epoch {epoch}/{self.epochs}",
            completed=completed,
            values=values,
        )

    def epoch(self, line: dict[str, Any]) -> None:
        """Prints an epoch's line of metrics.jsonl in words."""
        parts = [
            f"epoch {line['epoch']}/{self.epochs}",
            f"loss {line['train_loss']:.3f}",
            f"accuracy {line['train_accuracy']:.1%}",
        ]
        looks = [key for key in ("validation_accuracy", "test_accuracy") if key in line]
        parts += [f"{key.replace('_', ' ')} {line[key]:.1%}" for key in looks]
        parts += [f"{line['images_per_second']:,.0f} images/s", f"{line['seconds']:.0f} s"]
        say("  ".join(parts))
