"""The picture of how a run has learnt, from the measures in its metrics, with what theory predicts.

Knows no files.
"""

import math
from collections.abc import Sequence
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sfl import pictures
from sfl.config.schema import Config
from sfl.pictures import Picture, add_legend, add_title, line_styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import nn

Curves = dict[str, list[tuple[int, float]]]  # by layer: epochs and values

PANELS = {
    "gradient_angle": "angle to true gradient, degrees",
    "gradient_ratio": "‖gradient‖ / ‖true gradient‖",
    "error_rank": "effective rank of error",
    "sharing_distance": "sharing distance",
    "feedback_angle": "angle of B to W, degrees",
    "feedback_ratio": "‖B‖ / ‖W‖",
    "feedback_distance": "‖W − B‖",
}
DECREASE = "loss decrease in one step"


def measures_pictures(
    metrics: Sequence[dict[str, Any]], predicted: dict[str, Curves], title: str
) -> list[Picture]:
    """One panel a measure, one line a layer; none where nothing was measured.

    predicted: by measure, drawn as dotted lines.
    """
    lines = [line for line in metrics if "measures" in line]
    shown = {name: found for name in PANELS if (found := curves(lines, name))}
    if not shown:
        return []
    rows = math.ceil((len(shown) + 1) / 2)
    caption = (
        "How each layer learns: its gradient against the true one, its error, its weights, its "
        f"feedback; how much one step along what is learnt from lowers the loss"
        f"{'. Dotted: as theory predicts' if predicted else ''}."
    )
    draw = partial(_measures, lines, shown, predicted, title)
    return [Picture("measures", caption, draw, (7.6, 0.9 + 2.4 * rows))]


def curves(lines: Sequence[dict[str, Any]], name: str) -> Curves:
    """A measure of each layer that has it, over the epochs in which it was measured."""
    found: Curves = {}
    for line in lines:
        for layer, values in line["measures"].items():
            if name in values:
                found.setdefault(layer, []).append((line["epoch"], values[name]))
    return found


def mean_over_layers(name: str, line: dict[str, Any]) -> float | None:
    """The mean of a measure in a line of metrics, over the layers that have it; None if none has.

    A layer that doesn't learn has no gradient_angle. A mean over the others would hide that: None.
    """
    found = [values.get(name) for values in line.get("measures", {}).values()]
    known = [value for value in found if value is not None]
    lacking = name == "gradient_angle" and len(known) < len(found)
    return fmean(known) if known and not lacking else None


def predictions(
    config: Config, metrics: Sequence[dict[str, Any]], model: "nn.Module",
    positions: dict[str, int],
) -> dict[str, Curves]:  # fmt: skip
    """What theory says of measures, by their names; nothing where it says nothing.

    kp: ‖W − B‖ shrinks by exp(−λ Σ η) from its first measurement on. With sgd's momentum μ a decay
    λ counts as λ / (1 − μ), a few steps after its start. Sleep, and adam with decay, change the
    difference otherwise.
    mirror: feedback at an angle of atan √(K/N), see sfl.nn.feedback.rules.Mirror, for weights that
    rest. Those that still change are followed with a delay.
    positions: the number of places at which a convolution's filter is used, by layer.
    """
    lines = [line for line in metrics if "measures" in line]
    learn, optimizer = config.learn, config.optimizer
    if learn.rule == "kp" and not learn.sleep.every:
        if optimizer.name == "adam" and optimizer.weight_decay:
            return {}
        momentum = optimizer.momentum if optimizer.name == "sgd" else 0.0
        decay = optimizer.weight_decay / (1 - momentum)
        return {"feedback_distance": _shrinking(lines, decay)}
    if learn.rule == "mirror":
        mirror = learn.mirror
        samples = mirror.images * (2 - mirror.rate) / mirror.rate
        return {"feedback_angle": _estimated(lines, model, samples, positions)}
    return {}


def _shrinking(lines: Sequence[dict[str, Any]], decay: float) -> Curves:
    sums = {line["epoch"]: line["lr_sum"] for line in lines}
    found: Curves = {}
    for layer, ((first, distance), *rest) in curves(lines, "feedback_distance").items():
        found[layer] = [
            (epoch, distance * math.exp(-decay * (sums[epoch] - sums[first])))
            for epoch in (first, *(epoch for epoch, _ in rest))
        ]
    return found


def _estimated(
    lines: Sequence[dict[str, Any]], model: "nn.Module", samples: float, positions: dict[str, int]
) -> Curves:
    from sfl.nn.feedback.drawing import fans
    from sfl.nn.spatial import SpatialFeatureLayer
    from sfl.nn.weighted import weighted_layers

    layers = weighted_layers(model)
    found: Curves = {}
    for name, measured in curves(lines, "feedback_angle").items():
        layer = layers[name]
        shared = 1 if isinstance(layer, SpatialFeatureLayer) else positions.get(name, 1)
        inputs = float(fans(layer)[0].mean())  # of a local layer: mean over its positions
        angle = math.degrees(math.atan(math.sqrt(inputs / (samples * shared))))
        found[name] = [(epoch, angle) for epoch, _ in measured]
    return found


def _measures(
    lines: Sequence[dict[str, Any]], shown: dict[str, Curves], predicted: dict[str, Curves],
    title: str, figure: "Figure",
) -> None:  # fmt: skip
    layers = list(dict.fromkeys(layer for line in lines for layer in line["measures"]))
    looks = dict(zip(layers, line_styles(len(layers)), strict=True))
    colours = {layer: f"C{place}" for place, layer in enumerate(layers)}
    rows = math.ceil((len(shown) + 1) / 2)
    panels = list(figure.subplots(rows, 2, squeeze=False).flat)
    handles: dict[str, Any] = {}
    for axes, (name, found) in zip(panels, shown.items(), strict=False):
        for layer, points in found.items():
            style = looks[layer] | {"color": colours[layer]}
            _draw(axes, points, style, layer)
            handles.setdefault(layer, axes.lines[-1])
        for layer, points in predicted.get(name, {}).items():
            style = {"color": colours[layer], "marker": "", "linestyle": ":"}
            _draw(axes, points, style, "predicted")
            handles["predicted"] = axes.lines[-1]
        pictures.label_epochs(axes, PANELS[name], legend=False)
    decrease = [(li["epoch"], li["probe_decrease"]) for li in lines]
    points = [(epoch, value) for epoch, value in decrease if value is not None]
    last = panels[len(shown)]
    _draw(last, points, {"color": "gray", "marker": "o", "linestyle": "-"}, "all layers")
    last.axhline(0, color="gray", linewidth=0.8)
    pictures.label_epochs(last, DECREASE, legend=False)
    for axes in panels[len(shown) + 1 :]:
        axes.set_axis_off()
    ordered = [handles[name] for name in (*layers, "predicted") if name in handles]
    add_legend(figure, ordered, loc="outside lower center", ncols=4, fontsize=8)
    add_title(figure, title)


def _draw(
    axes: "Axes", points: Sequence[tuple[int, float]], style: dict[str, Any], label: str
) -> None:
    epochs, values = [epoch for epoch, _ in points], [value for _, value in points]
    pictures.plot_curve(axes, epochs, values, style, label)
