"""Results as tables. Computes nothing; `sfl.cli.layout` prints them."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any

from rich.text import Text

from sfl.cli.layout import Cell, Table
from sfl.stats import majority_share
from sfl.units import age_text, bytes_text, count_text, one_line

if TYPE_CHECKING:
    from sfl.comparison.cells import Sheet
    from sfl.nn.summary import ModelSummary
    from sfl.runs.records import Audit, Published

CONFUSIONS = 10  # of the most frequent ones that are listed


def result_lines(result: dict[str, Any]) -> list[str]:
    """Test accuracy, its interval and the loss; and what one answer for all images would get."""
    low, high = result["accuracy_interval"]
    line = (
        f"test accuracy {result['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}, "
        f"{result['n']:,} images)  loss {result['loss']:.3f}"
    )
    label = [f"label: {result['label']}"] if "label" in result else []
    return [line, *_majority(result), *label]


def published_line(said: "Published") -> str:
    """What a file of `sfl export` says of itself."""
    return (
        f"{one_line(said.run)}, {said.label}: accuracy {said.accuracy:.2%} on {said.n:,} test "
        f"images of {one_line(said.images)} before its weights were rounded to {said.dtype}"
    )


def _majority(result: dict[str, Any]) -> list[str]:
    """Nothing where all classes are equally frequent."""
    counts = [sum(row) for row in result["confusion"]]
    name = one_line(list(result["per_class"])[counts.index(max(counts))])
    if sum(map(bool, counts)) == 1:
        return [f"all images are of one class, {name}: always answering it gets 100 %"]
    unequal = f"always answering {name} gets {majority_share(counts):.2%}: classes are unequal"
    return [unequal] if len(set(counts)) > 1 else []


def evaluation_tables(result: dict[str, Any], width: int) -> list[Table]:
    """A line for each class, with the confusion matrix where it fits; else with a list beside it.

    The matrix's columns are headed by the classes' names, or by letters where these are too long.
    """
    names = list(result["per_class"])
    letters = [_letters(number) for number in range(len(names))]
    if len(names) <= width // 3:  # a column takes three places at least
        for heads, rows in (
            (names, names),
            (letters, list(map(" ".join, zip(letters, names, strict=True)))),
        ):
            made = _by_class(result, heads, rows)
            if made.fits(width):
                return [made]
    confusions = _confusions(result, names)
    return [_by_class(result, [], names), *([confusions] if confusions.rows else [])]


def _by_class(result: dict[str, Any], heads: Sequence[str], rows: Sequence[str]) -> Table:
    title = "columns on the right: predicted class" if heads else None
    made = Table(["true class", "images", "accuracy", *heads], title)
    for name, accuracy, row in zip(
        rows, result["per_class"].values(), result["confusion"], strict=True
    ):
        text = "" if accuracy is None else f"{accuracy:.1%}"  # None: no image of this class
        cells = map(str, row) if heads else ()
        made.add_row(name, f"{sum(row):,}", text, *cells)
    return made


def _letters(number: int) -> str:
    """0 → "A", 25 → "Z", 26 → "AA": as a spreadsheet's columns."""
    before, last = divmod(number, 26)
    return (_letters(before - 1) if before else "") + ascii_uppercase[last]


def _confusions(result: dict[str, Any], names: Sequence[str]) -> Table:
    found = [
        (count, names[true], names[predicted], sum(row))
        for true, row in enumerate(result["confusion"])
        for predicted, count in enumerate(row)
        if count and true != predicted
    ]
    columns = ["true → predicted", "images", "of the class"]
    made = Table(columns, "most frequent confusions", optional=["of the class"])
    for count, true, predicted, of in sorted(found, key=lambda one: -one[0])[:CONFUSIONS]:
        made.add_row(f"{true} → {predicted}", f"{count:,}", f"{count / of:.1%}")
    return made


def predictions_table(rows: Sequence[dict[str, Any]]) -> Table:
    """A row for each file: its predicted class, and how sure that is."""
    made = Table(["file", "predicted class", "confidence"])
    for row in rows:
        made.add_row(row["file"], row["prediction"], f"{row['confidence']:.1%}")
    return made


def data_table(described: dict[str, Any]) -> Table:
    """A description of a data set, a row for each value."""
    made = Table(["data", "value"], prose=True)
    for key, value in described.items():
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        made.add_row(key.replace("_", " "), text)
    return made


def class_counts_table(per_class: dict[str, dict[str, int]]) -> Table:
    """The number of images of each class in each split."""
    columns = [name.replace("_", " ") for name in next(iter(per_class.values()))]
    made = Table(["images of class", *columns])
    for name, counts in per_class.items():
        made.add_row(name, *(f"{count:,}" for count in counts.values()))
    return made


def comparison_table(names: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> Table:
    """One column for each model."""
    made = Table(["", *names])
    for label, cells in rows:
        made.add_row(label, *cells)
    return made


# Five steps of cividis, which the colour-blind can tell apart; each with ink that can be read.
SHADES = (
    "#ffffff on #00224e", "#ffffff on #404d6b", "#ffffff on #6b6b6d", "#000000 on #a59c74",
    "#000000 on #fee838",
)  # fmt: skip


def sheet_table(sheet: "Sheet") -> Table:
    """A table whose cells are the brighter, the higher their value, where there is colour."""
    values = sheet.values.values()
    low, high = min(values, default=0.0), max(values, default=0.0)
    made = Table(sheet.head, sheet.title)
    for row, (label, cells) in enumerate(sheet.rows):
        shown: list[Cell] = []
        for column, text in enumerate(cells):
            value = sheet.values.get((row, column))
            shown.append(text if value is None else shaded(text, value, low, high))
        made.add_row(label, *shown)
    return made


def shaded(text: str, value: float, low: float, high: float) -> Text:
    """A text that is the brighter, the higher its value lies between two others."""
    place = 0.0 if high == low else (value - low) / (high - low)
    return Text(text, style=SHADES[min(int(place * len(SHADES)), len(SHADES) - 1)])


def summary_table(summary: "ModelSummary") -> Table:
    """One row for each layer, and their sum."""
    columns = ["layer", "output", "weights", "bytes", "as dense", "FLOPs/image", "weights shared"]
    made = Table(columns, optional=["as dense", "bytes", "FLOPs/image", "output", columns[-1]])
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
    dense = sum(layer.dense or layer.weights for layer in summary.layers)
    sums = (f"{summary.weights:,}", bytes_text(summary.bytes), f"{dense:,}")
    made.add_row("all", "", *sums, count_text(summary.flops), "")
    if summary.learning < summary.weights:
        size = bytes_text(summary.learning_bytes)
        made.add_row("of these learn", "", f"{summary.learning:,}", size, "", "", "")
    if feedback := summary.feedback:
        size = bytes_text(feedback.bytes)
        made.add_row(feedback.name, "", f"{feedback.weights:,}", size, "", "", "")
    return made


def audit_table(audited: "Audit") -> Table:
    """One row for each layer with weights or statistics, and the whole network's."""
    from sfl.comparison.table import AUDITED, audit_rows

    made = Table(AUDITED, "what is shared in the forward pass, and sends errors back")
    for row in audit_rows(audited):
        made.add_row(*row)
    return made


STATUS_STYLES = {"running": "cyan", "interrupted": "yellow", "failed": "red", "damaged": "red"}


def runs_table(rows: Sequence[dict[str, Any]]) -> Table:
    columns = ["run", "status", "epochs", "accuracy", "age", "size", "model", "images"]
    made = Table(columns, optional=["model", "images", "size", "age", "epochs"])
    for row in rows:
        accuracy = row["accuracy"]
        made.add_row(
            row["run"],
            Text(row["status"], style=STATUS_STYLES.get(row["status"], "")),
            "" if row["epochs"] is None else f"{row['epochs_done']}/{row['epochs']}",
            "" if accuracy is None else f"{row['accuracy_of']} {accuracy:.2%}",
            age_text(row["age_seconds"]),
            bytes_text(row["bytes"]),
            row["model"] or "",
            row["images"] or "",
        )
    return made


RANGE = ("smallest – largest",)


def bench_tables(measured: dict[str, Any]) -> list[Table]:
    """The tables of `sfl bench`: layers, whole training steps, augmentation, the machine."""
    return [
        *_layer_tables(measured["layers"]), _step_table(measured),
        _augmentation_table(measured["augmentation"]), _machine_table(measured),
    ]  # fmt: skip


def _layer_tables(entries: Sequence[dict[str, Any]]) -> list[Table]:
    made = []
    for entry in entries:
        title = f"{entry['layers']}, forward + backward, batch {entry['batch']}"
        bits = "the same bits twice" if entry["same_bits"] else "other bits the second time"
        title += f"; ours: {entry['error']:.0e} from float64, {bits}"
        columns = (entry["precision"], "ms", RANGE[0], "share of mm", "÷ first")
        rows = Table(columns, title, RANGE)
        first = next(iter(entry["forms"].values()))["seconds"]
        for name, form in entry["forms"].items():
            ratios = (f"{form['share_of_mm']:.0%}", f"{form['seconds'] / first:.1f}")
            rows.add_row(name, *_milliseconds(form), *ratios)
        made.append(rows)
    return made


def _step_table(measured: dict[str, Any]) -> Table:
    title = "a training step; peak memory above that of torch and a step of its optimizer"
    if measured["machine"].get("on_gpu"):
        title = "a training step, ours as one graph unless named otherwise; peak memory of the GPU"
    columns = ("network", "batch", "ms", RANGE[0], "notebook ÷ this", "peak memory")
    made = Table(columns, title, RANGE)
    for entry in measured["steps"]:
        notebook = entry["steps"].get(f"{entry['network']}, notebook")
        for name, step in entry["steps"].items():
            ratio = f"{notebook['seconds'] / step['seconds']:.1f}" if notebook else "–"
            memory = bytes_text(step["peak_bytes"])
            made.add_row(name, str(entry["batch"]), *_milliseconds(step), ratio, memory)
    return made


def _augmentation_table(recipes: Sequence[dict[str, Any]]) -> Table:
    networks = list(recipes[0]["share_of_epoch"])
    columns = ("augmentation", "images/s", *(f"of an epoch of {name}" for name in networks))
    made = Table(columns, "images augmented a second; the share of an epoch that this takes")
    for recipe in recipes:
        shares = (f"{recipe['share_of_epoch'][name]:.1%}" for name in networks)
        made.add_row(recipe["name"], f"{recipe['images_per_second']:,.0f}", *shares)
    return made


def _machine_table(measured: dict[str, Any]) -> Table:
    machine = measured["machine"]
    described = {
        "device": f"{machine['device']}, {machine['threads']} threads",
        "torch": machine["torch"],
        "spatial layers": machine["spatial_layers"],
        "torch.mm": [f"{v / 1e9:.0f} GFLOP/s {kind}" for kind, v in machine["mm_flops"].items()],
    }
    return data_table(described)


def _milliseconds(timing: dict[str, float]) -> tuple[str, str]:
    """The median, and the range of what was measured."""
    median, low, high = (1e3 * timing[key] for key in ("seconds", "smallest", "largest"))
    digits = 1 if median >= 1 else 3
    return f"{median:.{digits}f}", f"{low:.{digits}f} – {high:.{digits}f}"
