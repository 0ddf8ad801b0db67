"""A run's metrics for TensorBoard, in `tensorboard/` of its directory: an optional extra."""

import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

from sfl.errors import UserError
from sfl.files import write_error
from sfl.runs.directory import Run

FILE = "events.out.tfevents.0.sfl"  # TensorBoard looks for this beginning


def check_tensorboard() -> None:
    """Raises UserError (exit 2) where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        hint = "install it: pip install tensorboard"
        raise UserError("train.tensorboard needs TensorBoard, which is not there", hint)


def write_events(run: Run, metrics: list[dict[str, Any]], first: int = 0) -> None:
    """Appends the lines of metrics from `first` on; from 0 on the file is begun anew.

    Numbers stand under their names, the epoch is the step. Raises UserError (exit 4 or 6) where
    nothing can be written.
    """
    path = run.path / "tensorboard" / FILE
    try:
        path.parent.mkdir(exist_ok=True)
        records = _records(metrics[first:])
        with path.open("ab" if first else "wb") as file:
            file.write(records)
    except OSError as error:
        raise write_error(path, error) from error


def _records(lines: list[dict[str, Any]]) -> bytes:
    """What PyTorch's SummaryWriter writes of these lines.

    It names its file after the host, which a run directory must not name, even if the process is
    killed: so it writes elsewhere. Its files may be joined: they are rows of records.
    """
    from torch.utils.tensorboard import SummaryWriter

    ended = time.time() - sum(line["seconds"] for line in lines)
    try:
        with TemporaryDirectory() as folder:
            with SummaryWriter(folder) as writer:
                for line in lines:
                    ended += line["seconds"]
                    for tag, value in _scalars(line):
                        writer.add_scalar(tag, value, line["epoch"], ended)
                writer.flush()  # raises what its thread has met, which closing passes over
            (written,) = Path(folder).iterdir()
            return written.read_bytes()
    except OSError as error:
        raise write_error(Path(gettempdir()), error) from error


def _scalars(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{part}", number) for part, number in _scalars(value))
        elif isinstance(value, int | float) and name != "epoch":
            yield name, value
