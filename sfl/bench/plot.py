"""Draws the results of `sfl bench`: how the cost grows, and the time of each implementation."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfl import pictures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS, GUIDE = pictures.ON_LIGHT[:2]
OTHERS = "#999999"


def plot(measured: dict[str, Any], path: Path) -> None:
    """Writes the picture; the suffix is its format."""
    pictures.save(partial(_draw, measured), path, (11, 7))


def _draw(measured: dict[str, Any], figure: "Figure") -> None:
    upper, lower = figure.subfigures(2, 1, squeeze=False)[:, 0]
    for axes, entry in zip(upper.subplots(1, 3), measured["scaling"], strict=True):
        _draw_growth(axes, entry)
    entries = measured["layers"][:2]
    for axes, entry in zip(lower.subplots(1, 2), entries, strict=True):
        _draw_forms(axes, entry)
    machine = measured["machine"]
    figure.suptitle(
        f"SpatialFeatureLayer, forward + backward; {machine['device']}, {machine['threads']} "
        f"threads; {machine['spatial_layers']}; medians"
    )


def _draw_growth(axes: "Axes", entry: dict[str, Any]) -> None:
    values = entry["values"]
    milliseconds = [1e3 * seconds for seconds in entry["seconds"]]
    middle = len(values) // 2
    linear = [milliseconds[middle] * value / values[middle] for value in values]
    axes.plot(values, linear, color=GUIDE, linestyle="--", label="linear")
    axes.plot(values, milliseconds, color=OURS, marker="o", label="measured")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(values, [str(value) for value in values], fontsize="small")
    axes.set_xticks([], minor=True)
    pictures.log_ticks(axes.yaxis)
    axes.set_xlabel(entry["axis"])
    axes.set_ylabel("ms")
    axes.legend()


def _draw_forms(axes: "Axes", entry: dict[str, Any]) -> None:
    forms = dict(reversed(entry["forms"].items()))
    colours = [OURS if name.startswith("ours") else OTHERS for name in forms]
    milliseconds = [1e3 * form["seconds"] for form in forms.values()]
    bars = axes.barh(list(forms), milliseconds, color=colours)
    axes.bar_label(bars, fmt="%.3g", padding=3)
    axes.set_xscale("log")
    axes.set_xlim(min(milliseconds) / 3, max(milliseconds) * 3)  # room for the numbers
    pictures.log_ticks(axes.xaxis)
    axes.set_xlabel("ms")
    title = f"{entry['layers']}\nbatch {entry['batch']}, {entry['precision']}"
    axes.set_title(title)
