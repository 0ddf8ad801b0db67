"""A run's metrics for TensorBoard, in `tensorboard/` of its directory: an optional extra.

Written with TensorBoard's own records rather than torch's SummaryWriter, whose file is named after
the host, and which knows no run that goes on where it was stopped.
"""

import time
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

from sfl.errors import UserError
from sfl.files import write_error
from sfl.runs.directory import Run

FILE = "events.out.tfevents.0.sfl"  # TensorBoard looks for this beginning


def check_tensorboard() -> None:
    """Raises UserError (exit 2) where TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        hint = "install it: pip install 'sfl[tensorboard]'"
        raise UserError("train.tensorboard needs TensorBoard, which is not there", hint)


def write_events(run: Run, metrics: list[dict[str, Any]], first: int = 0) -> None:
    """Appends the lines of metrics from `first` on; from 0 on the file is begun anew.

    Numbers stand under their names, the epoch is the step. Raises UserError (exit 4 or 6) where
    nothing can be written.
    """
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    path, ended = run.path / "tensorboard" / FILE, time.time()
    ended -= sum(line["seconds"] for line in metrics[first:])
    try:
        path.parent.mkdir(exist_ok=True)
        with path.open("ab" if first else "wb") as file:
            records = RecordWriter(file)
            if not first:
                records.write(
                    Event(wall_time=ended, file_version="brain.Event:2").SerializeToString()
                )
            for line in metrics[first:]:
                ended += line["seconds"]
                values = [Summary.Value(tag=t, simple_value=v) for t, v in _scalars(line)]
                event = Event(wall_time=ended, step=line["epoch"], summary=Summary(value=values))
                records.write(event.SerializeToString())
            records.flush()
    except OSError as error:
        raise write_error(path, error) from error


def _scalars(line: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for name, value in line.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{part}", number) for part, number in value.items())
        elif isinstance(value, int | float) and name != "epoch":
            yield name, value
