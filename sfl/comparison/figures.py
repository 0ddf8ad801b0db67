"""The pictures of a comparison: curves over the epochs, accuracy against cost, accuracy by class.

Each is drawn into a given figure. Knows no files. Accuracies are shown in percent.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sfl import pictures as drawing
from sfl.comparison import confusion
from sfl.comparison.heat_map import heat_map
from sfl.comparison.model import ComparedModel
from sfl.comparison.samples import efficiency, interval_bar
from sfl.comparison.schema import Comparison
from sfl.pictures import (
    Picture,
    add_legend,
    add_title,
    label_epochs,
    line_styles,
    plot_curve,
    shorten,
)
from sfl.plots import copies
from sfl.plots.measures import DECREASE, PANELS, mean_over_layers
from sfl.plots.test_images import TestImages
from sfl.runs.listing import judged_on
from sfl.units import count_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Read = Callable[[dict[str, Any]], float | None]  # a number of a line of metrics, if it is there

COSTS = (
    ("weights", "weights", "weights"),
    ("flops", "training_flops", "FLOPs of training"),
    ("time", "seconds", "seconds of training"),
)
HATCHES = (None, "//", "..", "xx")  # of bars whose colours begin again
MOST_CLASSES = 40  # with more, bars can't be read
BESIDE: dict[str, Any] = {"xytext": (7, 5), "textcoords": "offset points", "va": "bottom"}
MOST_INSIDE = 7  # curves named within their axes; of more, the legend is below and hides none
MOST_NAMES = 4  # written beside their points; with more, there is a legend


def pictures(
    comparison: Comparison, compared: Sequence[ComparedModel], images: TestImages | None
) -> list[Picture]:
    """All pictures of a comparison. images: its test images; None: no picture of single images."""
    logged = (one.run.logged for model in compared for one in model.results)
    kind, title = judged_on(*logged) or "train", _title(comparison)  # all logged the training's
    over_epochs, uncounted = _title(comparison, tested=False), _title(comparison, counted=False)
    what = "training" if kind == "train" else kind
    found = [*efficiency(comparison, title), *heat_map(comparison, title)]
    for name, key, label, scale in (
        ("accuracy", f"{kind}_accuracy", f"{what} accuracy, %", 100.0),
        ("loss", "train_loss", "training loss, nats", 1.0),
    ):
        shown = label.partition(",")[0].capitalize()
        caption = f"{shown} over the epochs; mean, and smallest to largest of the runs."
        read = partial(_read, key, scale)
        of_test = key == "test_accuracy"
        draw = partial(_curves, compared, title if of_test else over_epochs, read, label)
        found.append(Picture(name, caption, draw, _size(compared)))
    found += _learning(compared, over_epochs)
    for name, field, label in COSTS:
        caption = f"Test accuracy against {label}; bars: 95 % intervals."
        draw = partial(_by_cost, comparison, field, label)
        found.append(Picture(f"accuracy-by-{name}", caption, draw, _size(compared)))
    classes = list(comparison.models[0].per_class)
    found += copies.pictures({model.name: model for model in comparison.models}, uncounted)
    chosen, of_classes = _chosen_classes(compared)
    caption = f"Test accuracy of {of_classes}: mean, and smallest to largest of the runs."
    height = 1.4 + len(chosen) * (0.12 + 0.13 * len(compared))
    draw = partial(_classes, compared, chosen, title)
    found.append(Picture("classes", caption, draw, (5.2, height)))
    found += confusion.matrices(comparison, classes, chosen, of_classes)
    if images is not None:
        found += confusion.disagreements(comparison, compared, images)
    return _with_unique_names(found)


def _size(compared: Sequence[ComparedModel]) -> tuple[float, float]:
    """Of a picture with a legend of the models, which is below it if they are many."""
    width, height = drawing.WIDE
    rows = -(-len(compared) // 2)
    return width, height + (0.2 * rows if len(compared) > MOST_INSIDE else 0)


def _with_unique_names(found: Sequence[Picture]) -> list[Picture]:
    """Numbers the files whose names are equal: of models whose names differ in a sign left out."""
    names = [picture.name for picture in found]
    times = [names[:place].count(name) for place, name in enumerate(names)]
    return [
        replace(picture, name=f"{picture.name}-{count + 1}") if count else picture
        for picture, count in zip(found, times, strict=True)
    ]


def _title(comparison: Comparison, *, tested: bool = True, counted: bool = True) -> str:
    """The networks, then the images, how many test images, and how many runs of each model.

    tested: whether it is a picture of the test images; counted: whether it is of all runs.
    """
    networks = " and ".join(dict.fromkeys(model.model for model in comparison.models))
    runs = ", ".join(dict.fromkeys(str(model.n) for model in comparison.models))
    title = f"{networks}\n{shorten(comparison.data.name)}"
    if tested:
        title += f", {comparison.data.test_images:,} test images"
    return f"{title}, n = {runs}" if counted else title


def _learning(compared: Sequence[ComparedModel], title: str) -> list[Picture]:
    """How models learn, of those whose runs have measured it."""
    found = []
    for name, label in (PANELS | {"probe_decrease": DECREASE}).items():
        of_layers = name in PANELS
        read = partial(mean_over_layers, name) if of_layers else partial(_read, name, 1.0)
        having = [m for m in compared if _has(m, read)]
        if having:
            over = ", mean over layers" if of_layers else ""
            said = label.partition(",")[0]
            caption = (
                f"{said[:1].upper()}{said[1:]}{over}, over the epochs; mean, and smallest to "
                "largest of the runs."
            )
            draw = partial(_curves, having, title, read, label)
            found.append(Picture(name.replace("_", "-"), caption, draw, _size(having)))
    return found


def _has(model: ComparedModel, read: Read) -> bool:
    return any(read(line) is not None for one in model.results for line in one.run.metrics)


def _read(key: str, scale: float, line: dict[str, Any]) -> float | None:
    value = line.get(key)
    return None if value is None else scale * value


def _curves(
    compared: Sequence[ComparedModel], title: str, read: Read, label: str, figure: "Figure"
) -> None:
    axes = figure.add_subplot()
    for style, model in zip(line_styles(len(compared)), compared, strict=True):
        logged: dict[int, list[float]] = {}
        for one in model.results:
            for line in one.run.metrics:
                if (value := read(line)) is not None:
                    logged.setdefault(line["epoch"], []).append(value)
        epochs, each = sorted(logged), [logged[epoch] for epoch in sorted(logged)]
        colour = plot_curve(axes, epochs, list(map(fmean, each)), style, shorten(model.name))
        low, high = list(map(min, each)), list(map(max, each))
        axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    below = len(compared) > MOST_INSIDE
    label_epochs(axes, label, legend=not below)
    if below:
        add_legend(figure, axes.lines, loc="outside lower left", ncols=2, fontsize=7)
    add_title(figure, title)


def _by_cost(comparison: Comparison, field: str, label: str, figure: "Figure") -> None:
    axes = figure.add_subplot()
    models, points = comparison.models, []
    costs = [getattr(model, field) for model in models]
    for style, model, cost in zip(line_styles(len(models)), models, costs, strict=True):
        accuracy = 100 * model.accuracy
        bars = [[length] for length in interval_bar(model)]
        name = shorten(model.name)
        looks = {"marker": style["marker"], "markersize": 7, "capsize": 4}
        points.append(axes.errorbar([cost], [accuracy], bars, label=name, **looks))
        if len(models) <= MOST_NAMES:
            axes.annotate(name, (cost, accuracy), **BESIDE)
    if len(models) > MOST_NAMES:
        add_legend(figure, points, loc="outside lower left", ncols=2)
    _cost_axis(axes, costs)
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(100.0, high))
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.25)
    add_title(figure, _title(comparison))


def _cost_axis(axes: "Axes", costs: Sequence[float]) -> None:
    """An axis from zero, or logarithmic if the costs differ by more than five times."""
    low, high = min(costs), max(costs)
    spread = high / low if low else 1.0
    if spread > 5:
        axes.set_xscale("log")
        axes.set_xlim(low / spread**0.15, high * spread**0.5)
        drawing.log_ticks(axes.xaxis, (1.0, 2.0, 5.0) if spread < 20 else (1.0,))
    else:
        axes.set_xlim(0, 1.6 * (high or 1))
    axes.xaxis.set_major_formatter(lambda v, _: f"{v:g}" if v < 1000 else count_text(v))
    axes.margins(y=0.25)


def _chosen_classes(compared: Sequence[ComparedModel]) -> tuple[list[str], str]:
    """The classes that are shown, and what to call them: with many, where the models differ most.

    They are sorted by the first model's accuracy.
    """
    first = compared[0]
    tested = [name for name in first.classes if first.results[0].result.per_class[name] is not None]
    means = {name: [fmean(_percents(model, name)) for model in compared] for name in tested}
    apart = sorted(tested, key=lambda name: min(means[name]) - max(means[name]))[:MOST_CLASSES]
    few = f"the {MOST_CLASSES} of {len(tested)} classes in which the models differ most"
    called = "each class" if len(apart) == len(tested) else few
    return sorted(apart, key=lambda name: means[name][0]), called


def _classes(
    compared: Sequence[ComparedModel], order: Sequence[str], title: str, figure: "Figure"
) -> None:
    """A bar for each class and model."""
    axes = figure.add_subplot()
    count, models = len(compared), []
    for place, model in enumerate(compared):
        shift = 0.8 * ((count - 1) / 2 - place) / count
        runs = [_percents(model, name) for name in order]
        means = list(map(fmean, runs))
        bars = [[mean - min(values) for mean, values in zip(means, runs, strict=True)],
                [max(values) - mean for mean, values in zip(means, runs, strict=True)]]  # fmt: skip
        bars_of_model = axes.barh(
            [row + shift for row in range(len(order))], means, 0.8 / count,
            label=shorten(model.name), xerr=bars if len(model.results) > 1 else None, ecolor="gray",
            hatch=HATCHES[place // 7 % 4], edgecolor="gray", linewidth=0,
        )  # fmt: skip
        models.append(bars_of_model)
    axes.set_yticks(range(len(order)), [shorten(name, 20) for name in order])
    axes.set_xlabel("test accuracy, %")
    axes.set_xlim(0, 100)
    axes.margins(y=0.02)
    axes.grid(alpha=0.25, axis="x")
    add_title(figure, title)
    add_legend(figure, models, loc="outside lower left", ncols=2 if count == 2 else 1)


def _percents(model: ComparedModel, name: str) -> list[float]:
    """The accuracy of each run in a class that has test images."""
    return [100 * (one.result.per_class[name] or 0.0) for one in model.results]
