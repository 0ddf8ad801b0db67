"""Prints results on standard output, as tables or as JSON. Computes nothing."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sfl.units import age_text, bytes_text, count_text

if TYPE_CHECKING:
    from sfl.nn.summary import ModelSummary

PLAIN_WIDTH = 160  # of tables that are written to a file or a pipe


def stdout() -> Console:
    """The console for results: as wide as the terminal, or wide enough for all tables."""
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    # Brackets and colons in a name are printed as they are: no markup, no emoji.
    return Console(highlight=False, markup=False, emoji=False, width=width)


def print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, indent=2, ensure_ascii=False))


def table(*columns: str, title: str | None = None) -> Table:
    """A table whose first column is text and whose other columns are numbers."""
    made = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right", overflow="fold")
    return made


def result_line(result: dict[str, Any]) -> str:
    """Test accuracy, its interval and the loss, in one line."""
    low, high = result["accuracy_interval"]
    return (
        f"test accuracy {result['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}, "
        f"{result['n']:,} images)  loss {result['loss']:.3f}"
    )


def evaluation_table(result: dict[str, Any]) -> Table:
    """The accuracy of each class, and the confusion matrix beside it."""
    numbers = range(1, len(result["per_class"]) + 1)
    made = table("true class", "accuracy", *map(str, numbers), title="columns: predicted class")
    for number, (name, accuracy) in zip(numbers, result["per_class"].items(), strict=True):
        row = result["confusion"][number - 1]
        text = "" if accuracy is None else f"{accuracy:.1%}"  # None: no image of this class
        made.add_row(f"{number} {name}", text, *map(str, row))
    return made


def data_table(described: dict[str, Any]) -> Table:
    """A description of a data set, a row for each value."""
    made = table("data", "value")
    for key, value in described.items():
        if isinstance(value, dict):
            value = [f"{inner}: {one}" for inner, one in value.items()]
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        made.add_row(key.replace("_", " "), text)
    made.columns[1].justify = "left"
    return made


def class_counts_table(per_class: dict[str, dict[str, int]]) -> Table:
    """The number of images of each class in each split."""
    made = table("images of class", *next(iter(per_class.values())))
    for name, counts in per_class.items():
        made.add_row(name, *(f"{count:,}" for count in counts.values()))
    return made


def print_comparison(names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> None:
    """Prints a comparison, one column for each model."""
    made = table("", *names)
    for label, cells in rows:
        made.add_row(label, *cells)
    stdout().print(made)


def print_lines(lines: Sequence[str]) -> None:
    """Prints sentences. On a terminal, lines are broken between words."""
    for line in lines:
        stdout().print(line, soft_wrap=not sys.stdout.isatty())


def summary_table(summary: "ModelSummary") -> Table:
    """One row for each layer, and their sum."""
    made = table("layer", "output", "weights", "bytes", "as dense", "FLOPs/image", "weights shared")
    for layer in summary.layers:
        made.add_row(
            f"{layer.name} {layer.kind}",
            "×".join(map(str, layer.out_shape)),
            f"{layer.weights:,}" if layer.weights else "",
            bytes_text(layer.bytes) if layer.bytes else "",
            f"{layer.dense:,}" if layer.dense else "",
            count_text(layer.flops) if layer.flops else "",
            layer.sharing,
        )
    made.add_section()
    dense = sum(layer.dense or layer.weights for layer in summary.layers)
    sums = (f"{summary.weights:,}", bytes_text(summary.bytes), f"{dense:,}")
    made.add_row("all", "", *sums, count_text(summary.flops), "")
    return made


STATUS_STYLES = {"running": "cyan", "interrupted": "yellow", "failed": "red", "damaged": "red"}


def runs_table(rows: Sequence[dict[str, Any]]) -> Table:
    made = table("run", "status", "epochs", "accuracy", "age", "size")
    for column in made.columns[1:]:
        column.no_wrap = True
    for row in rows:
        accuracy = row["accuracy"]
        made.add_row(
            row["run"],
            Text(row["status"], style=STATUS_STYLES.get(row["status"], "")),
            "" if row["epochs"] is None else f"{row['epochs_done']}/{row['epochs']}",
            "" if accuracy is None else f"{row['accuracy_of']} {accuracy:.2%}",
            age_text(row["age_seconds"]),
            bytes_text(row["bytes"]),
        )
    return made


def bench_tables(measured: dict[str, Any]) -> list[Table]:
    """The tables of `sfl bench`: layers, whole training steps, the machine and the data."""
    return [*_layer_tables(measured["layers"]), _step_table(measured), _machine_table(measured)]


def _layer_tables(entries: Sequence[dict[str, Any]]) -> list[Table]:
    made = []
    for entry in entries:
        title = f"{entry['layers']}, forward + backward, batch {entry['batch']}"
        columns = (entry["precision"], "ms", "smallest – largest", "share of mm", "÷ first")
        rows = table(*columns, title=title)
        first = next(iter(entry["forms"].values()))["seconds"]
        for name, form in entry["forms"].items():
            ratios = (f"{form['share_of_mm']:.0%}", f"{form['seconds'] / first:.1f}")
            rows.add_row(name, *_milliseconds(form), *ratios)
        made.append(rows)
    return made


def _step_table(measured: dict[str, Any]) -> Table:
    title = "a training step; peak memory above that of torch and a step of its optimizer"
    columns = ("network", "ms", "smallest – largest", "notebook ÷ this", "peak memory")
    made = table(*columns, title=title)
    for entry in measured["steps"]:
        notebook = entry["steps"][f"{entry['network']}, notebook"]["seconds"]
        for name, step in entry["steps"].items():
            ratio = f"{notebook / step['seconds']:.1f}"
            made.add_row(name, *_milliseconds(step), ratio, bytes_text(step["peak_bytes"]))
    return made


def _machine_table(measured: dict[str, Any]) -> Table:
    machine, data = measured["machine"], measured["data"]
    share = f"{data['share_of_epoch']:.1%} of an epoch of SpatialDenseNet, local"
    described = {
        "device": f"{machine['device']}, {machine['threads']} threads",
        "torch": machine["torch"],
        "spatial layers": machine["spatial_layers"],
        "torch.mm": [f"{v / 1e9:.0f} GFLOP/s {kind}" for kind, v in machine["mm_flops"].items()],
        "batches of 50,000 images": f"{data['seconds']:.1f} s, {share}",
    }
    return data_table(described)


def _milliseconds(timing: dict[str, float]) -> tuple[str, str]:
    """The median, and the range of what was measured."""
    median, low, high = (1e3 * timing[key] for key in ("seconds", "smallest", "largest"))
    return f"{median:.1f}", f"{low:.1f} – {high:.1f}"
