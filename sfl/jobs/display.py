"""How the runs that are trained side by side get on, read from their directories.

On a terminal a table that changes, of the runs that are being trained; elsewhere a line for each
epoch. Knows no processes.
"""

import contextlib
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sfl.errors import UserError
from sfl.pictures import shorten
from sfl.progress import console, epoch_text, say
from sfl.runs.directory import METRICS, Run

NUMBERS = 40  # columns of a terminal that the table's other cells take


class _Pace:
    """How many epochs were made since when."""

    def __init__(self) -> None:
        self._begun = self._last = time.monotonic()
        self._made = 0

    def add(self, epochs: int) -> None:
        if epochs:
            self._made, self._last = self._made + epochs, time.monotonic()

    def time_left(self, epochs: int) -> str:
        """How long so many more will take, in words; "" before the first."""
        if not self._made:
            return ""
        seconds = (self._last - self._begun) / self._made * epochs
        left = max(0, round(seconds - (time.monotonic() - self._last)))
        return str(timedelta(seconds=left))


class _Shown:
    """A run that is being trained."""

    def __init__(self, path: Path, epochs: int) -> None:
        self.name, self.epochs, self._path = path.name, epochs, path
        self._stamp = 0
        self._metrics = list[dict[str, Any]]()
        self._pace = _Pace()
        self.look()

    @property
    def left(self) -> int:
        """Epochs."""
        return max(0, self.epochs - len(self._metrics))

    def look(self) -> list[dict[str, Any]]:
        """Reads its metrics; the lines that are new."""
        before = len(self._metrics)
        with contextlib.suppress(OSError, UserError):  # none yet; damaged: others will say it
            stamp = (self._path / METRICS).stat().st_mtime_ns
            if stamp != self._stamp:
                self._stamp, self._metrics = stamp, Run(self._path).metrics
        new = self._metrics[before:]
        self._pace.add(len(new))
        return new

    def cells(self) -> list[str]:
        name = shorten(self.name, max(9, console.width - NUMBERS))
        epoch = f"{len(self._metrics)}/{self.epochs}"
        if not self._metrics:
            return [name, epoch, "", "", ""]
        last = self._metrics[-1]
        loss, accuracy = f"{last['train_loss']:.3f}", f"{last['train_accuracy']:.1%}"
        return [name, epoch, loss, accuracy, self._pace.time_left(self.left)]


class Board:
    """Shows the runs of a pool, of which there are `count`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._shown = dict[Path, _Shown]()
        self._pace = _Pace()
        live = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, transient=True, auto_refresh=False) if live else None

    def __enter__(self) -> "Board":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live:
            self._live.stop()

    def begin(self, path: Path, epochs: int) -> None:
        """A run is being trained from now on, until it has so many epochs."""
        self._shown[path] = _Shown(path, epochs)

    def end(self, path: Path) -> None:
        """It has ended, for whatever reason."""
        self._look_at(self._shown.pop(path))

    def look(self, ended: int, waiting: int) -> None:
        """Shows what is new. ended: how many runs. waiting: epochs of those not yet begun."""
        for shown in self._shown.values():
            self._look_at(shown)
        if self._live:
            left = waiting + sum(shown.left for shown in self._shown.values())
            self._live.update(self._picture(ended, left), refresh=True)

    def _look_at(self, shown: _Shown) -> None:
        new = shown.look()
        self._pace.add(len(new))
        for line in new:
            if not self._live:
                say(f"{shown.name}  {epoch_text(line, shown.epochs)}")

    def _picture(self, ended: int, left: int) -> Group:
        table = Table(box=None, pad_edge=False)
        table.add_column("run", no_wrap=True)
        for name in ("epoch", "loss", "accuracy", "time left"):
            table.add_column(name, justify="right", no_wrap=True)
        for shown in self._shown.values():
            table.add_row(*map(Text, shown.cells()))
        time_left = self._pace.time_left(left)
        said = f"{ended} of {self._count} runs done" + (f", {time_left} left" if time_left else "")
        return Group(Text(said, no_wrap=True, overflow="ellipsis"), table)
