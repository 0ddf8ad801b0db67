"""Progress and messages on standard error: bars on a terminal, plain lines elsewhere.

Standard output is only for results. Knows nothing of what is being counted.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from sfl import torchrun

T = TypeVar("T")

# emoji=False: a path with ":cat:" in it must not be changed. quiet: only rank 0 prints.
console = Console(
    stderr=True, highlight=False, soft_wrap=True, emoji=False, quiet=torchrun.rank() > 0
)


def say(line: str, command: str = "") -> None:
    """Prints a message on standard error; command: what to type next, at its end."""
    console.print(laid_out(line, command), markup=False, soft_wrap=True)


def laid_out(line: str, command: str = "") -> str:
    """One line; on a terminal too narrow for it, lines of whole words, and the command on its own.

    A command is never broken: the terminal may wrap it, but it can be copied and pasted.
    """
    whole = f"{line} {command}" if command else line
    if not console.is_terminal or cell_len(whole) <= console.width:
        return whole
    rows = wrapped(line, console.width)
    return "\n".join([*rows, command] if command else rows)


def wrapped(text: str, width: int) -> list[str]:
    """Lines of at most that many columns, broken between words: a longer word is a line alone."""
    rows = []
    for line in text.split("\n"):
        row = ""
        for word in re.findall(r"\s*\S+", line):
            if row and cell_len(row + word) > width:  # textwrap would count letters, not columns
                rows.append(row)
                row = word.lstrip()
            else:
                row += word
        rows.append(row)
    return rows


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yields the items under a progress bar; without a terminal, prints the description once."""
    if not console.is_terminal:
        say(f"{description} ...")
        yield from items
        return
    done = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    columns = (TextColumn("{task.description}"), *done)
    with Progress(*columns, console=console, transient=True) as progress:
        yield from progress.track(items, total=total, description=description)


class Trend:
    """A value over time as a line of up to 24 blocks, each a mean over equally many values."""

    BLOCKS, MOST = "▁▂▃▄▅▆▇█", 24

    def __init__(self) -> None:
        self._parts: list[float] = []
        self._waiting: list[float] = []  # until there are enough for a part
        self._each = 1  # values in a part

    def add(self, value: float) -> None:
        """Adds the next value."""
        self._waiting.append(value)
        if len(self._waiting) < self._each:
            return
        self._parts.append(sum(self._waiting) / self._each)
        self._waiting = []
        if len(self._parts) == self.MOST:  # merge each pair of parts into one
            pairs = zip(self._parts[::2], self._parts[1::2], strict=True)
            self._parts = [(one + other) / 2 for one, other in pairs]
            self._each *= 2

    def __str__(self) -> str:
        low, high = min(self._parts, default=0.0), max(self._parts, default=0.0)
        steps = (len(self.BLOCKS) - 1) / ((high - low) or 1.0)
        return "".join(self.BLOCKS[round((value - low) * steps)] for value in self._parts)


class _BarAndTrends(Progress):
    """A progress bar with a line of text below it."""

    below = ""

    def get_renderables(self) -> Iterator[RenderableType]:
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below, overflow="ellipsis", no_wrap=True)


class TrainingDisplay:
    """Shows a training run: a line for each finished epoch; on a terminal, a bar and two trends.

    Losses are means over steps of the mean over a batch; accuracies are fractions; speeds are in
    images per second.
    """

    def __init__(self, name: str, epochs: int, steps_per_epoch: int) -> None:
        self.name, self.epochs, self.steps_per_epoch = name, epochs, steps_per_epoch
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[values]}  left"),
            TimeRemainingColumn(compact=True),
        )
        self._bar = _BarAndTrends(
            *columns, console=console, transient=True, expand=True, disable=not console.is_terminal
        )
        self._loss, self._accuracy = Trend(), Trend()
        self._last = (0, 0, 0.0, 0.0)  # epoch, step, sum of losses and sum of accuracies

    def __enter__(self) -> "TrainingDisplay":
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, epoch: int, step: int, loss: float, accuracy: float, speed: float) -> None:
        """Updates the bar: `step` steps are done; loss and accuracy are means over them."""
        total = self.epochs * self.steps_per_epoch
        completed = (epoch - 1) * self.steps_per_epoch + step
        if not self._bar.tasks:
            # Started here, so that a resumed run's time left is not based on its earlier epochs.
            self._bar.add_task("", total=total, completed=completed, values="")
        self._note(epoch, step, loss, accuracy)
        self._bar.below = f"loss {loss:.3f} {self._loss}   accuracy {accuracy:.1%} {self._accuracy}"
        self._bar.update(
            self._bar.task_ids[0],
            description=f"{self.name}  epoch {epoch}/{self.epochs}",
            completed=completed,
            values=f"{speed:,.0f} images/s",
        )

    def _note(self, epoch: int, step: int, loss: float, accuracy: float) -> None:
        """Adds the mean loss and accuracy of the steps since the last call to the trends."""
        last_epoch, last_step, losses, accuracies = self._last
        if epoch != last_epoch or step <= last_step:
            last_step, losses, accuracies = 0, 0.0, 0.0
        self._last = (epoch, step, loss * step, accuracy * step)
        self._loss.add((loss * step - losses) / (step - last_step))
        self._accuracy.add((accuracy * step - accuracies) / (step - last_step))

    def epoch(self, line: dict[str, Any]) -> None:
        """Prints a line of metrics.jsonl as text."""
        say(epoch_text(line, self.epochs))


def epoch_text(line: Mapping[str, Any], epochs: int) -> str:
    """A line of metrics.jsonl as text. epochs: of the whole run."""
    parts = [
        f"epoch {line['epoch']}/{epochs}",
        f"loss {line['train_loss']:.3f}",
        f"accuracy {line['train_accuracy']:.1%}",
    ]
    looks = [key for key in ("validation_accuracy", "test_accuracy") if key in line]
    parts += [f"{key.replace('_', ' ')} {line[key]:.1%}" for key in looks]
    parts += [f"{line['images_per_second']:,.0f} images/s", f"{line['seconds']:.0f} s"]
    return "  ".join(parts)
