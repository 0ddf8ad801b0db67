"""The pictures of a comparison: curves, accuracy against cost, classes; and those of its answers.

Each is drawn into a figure that is given; knows no file. Accuracies are shown in percent.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING

from sfl.compare import confusion
from sfl.compare.results import Group, logged_by_all
from sfl.compare.schema import Comparison
from sfl.pictures import Picture, curve, heading, log_ticks, over_epochs, short, styles
from sfl.plots.test_images import TestImages
from sfl.units import count_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COSTS = (
    ("weights", "weights", "trainable weights"),
    ("flops", "training_flops", "FLOPs of training"),
    ("time", "seconds", "seconds of training"),
)
MOST_CLASSES = 40  # beyond, neither bars nor a matrix can be read
MOST_NAMES = 4  # beside their points; more stand in a legend


def pictures(
    comparison: Comparison, groups: Sequence[Group], images: TestImages | None
) -> list[Picture]:
    """All that can be drawn of a comparison; images: those of the test set, if they are at hand."""
    look, of_what = _logged_accuracy(groups)
    title = _title(comparison)
    bands = "over the epochs; mean, and smallest to largest of the runs."
    found = [
        Picture(
            "accuracy",
            f"{of_what.capitalize()} {bands}",
            partial(_curves, groups, key=look, label=f"{of_what}, %", scale=100, title=title),
        ),
        Picture(
            "loss",
            f"Training loss {bands}",
            partial(_curves, groups, key="train_loss", label="training loss, nats", title=title),
        ),
    ]
    found += [
        Picture(
            f"accuracy-by-{name}",
            f"Test accuracy against {label}; bars: 95 % intervals.",
            partial(_by_cost, comparison, field=field, label=label),
        )
        for name, field, label in COSTS
    ]
    classes = list(comparison.models[0].per_class)
    if len(classes) <= MOST_CLASSES:
        caption = "Test accuracy of each class: mean, and smallest to largest of the runs."
        height = 1.4 + len(classes) * (0.12 + 0.13 * len(groups))
        draw = partial(_classes, groups, title)
        found.append(Picture("classes", caption, draw, (5.2, height)))
        found += confusion.matrices(comparison, classes)
    if images is not None:
        found += confusion.disagreements(comparison, groups, images)
    return _apart(found)


def _apart(found: Sequence[Picture]) -> list[Picture]:
    """Where names of models differ only in what no file's name should have, files get numbers."""
    names = [picture.name for picture in found]
    times = [names[:place].count(name) for place, name in enumerate(names)]
    return [
        replace(picture, name=f"{picture.name}-{count + 1}") if count else picture
        for picture, count in zip(found, times, strict=True)
    ]


def _logged_accuracy(groups: Sequence[Group]) -> tuple[str, str]:
    """What all runs logged: accuracy on validation images, else on test, else training images."""
    for key in ("validation_accuracy", "test_accuracy"):
        if logged_by_all(groups, key):
            return key, f"{key.split('_')[0]} accuracy"
    return "train_accuracy", "training accuracy"


def _title(comparison: Comparison) -> str:
    """The networks, then the images and how many runs there are of each model."""
    networks = " and ".join(dict.fromkeys(model.model for model in comparison.models))
    runs = ", ".join(dict.fromkeys(str(model.n) for model in comparison.models))
    data = comparison.data
    return f"{networks}\n{data.name}, {data.test_images:,} test images, n = {runs}"


def _curves(
    groups: Sequence[Group],
    figure: "Figure",
    *,
    key: str,
    label: str,
    title: str,
    scale: float = 1.0,
) -> None:
    axes = figure.add_subplot()
    for style, group in zip(styles(len(groups)), groups, strict=True):
        logged: dict[int, list[float]] = {}
        for one in group.results:
            for line in one.run.metrics:
                if key in line:
                    logged.setdefault(line["epoch"], []).append(scale * line[key])
        epochs, each = sorted(logged), [logged[epoch] for epoch in sorted(logged)]
        colour = curve(axes, epochs, list(map(fmean, each)), style, short(group.name))
        low, high = list(map(min, each)), list(map(max, each))
        axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    over_epochs(axes, label)
    axes.set_title(title)


def _by_cost(comparison: Comparison, figure: "Figure", *, field: str, label: str) -> None:
    axes = figure.add_subplot()
    models = comparison.models
    costs = [getattr(model, field) for model in models]
    for style, model, cost in zip(styles(len(models)), models, costs, strict=True):
        accuracy = 100 * model.accuracy
        low, high = model.accuracy_interval or (model.accuracy, model.accuracy)
        bars = [[max(0.0, accuracy - 100 * low)], [max(0.0, 100 * high - accuracy)]]
        name = short(model.name)
        axes.errorbar(
            [cost], [accuracy], bars, marker=style["marker"], markersize=7, capsize=4, label=name
        )
        if len(models) <= MOST_NAMES:
            axes.annotate(
                name, (cost, accuracy), xytext=(7, 5), textcoords="offset points", va="bottom"
            )
    if len(models) > MOST_NAMES:
        figure.legend(loc="outside lower left", ncols=2)
    _cost_axis(axes, costs)
    low, high = axes.get_ylim()
    axes.set_ylim(max(0.0, low), min(100.0, high))
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.25)
    axes.set_title(_title(comparison))


def _cost_axis(axes: "Axes", costs: Sequence[float]) -> None:
    """From zero where the costs are alike, logarithmic where they are not; room for the names."""
    from matplotlib.ticker import FuncFormatter

    low, high = min(costs), max(costs)
    spread = high / low if low else 1.0
    if spread > 5:
        axes.set_xscale("log")
        axes.set_xlim(low / spread**0.15, high * spread**0.5)
        log_ticks(axes.xaxis, (1.0, 2.0, 5.0) if spread < 20 else (1.0,))
    else:
        axes.set_xlim(0, 1.6 * (high or 1))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:g}" if value < 1000 else count_text(value))
    )
    axes.margins(y=0.25)


def _classes(groups: Sequence[Group], title: str, figure: "Figure") -> None:
    """Bars beside each other, the classes sorted by the first model's accuracy."""
    axes = figure.add_subplot()
    each = [
        {name: [one.result.per_class[name] for one in group.results] for name in _names(group)}
        for group in groups
    ]
    tested = [name for name in _names(groups[0]) if None not in each[0][name]]
    order = sorted(tested, key=lambda name: fmean(map(float, each[0][name])))  # type: ignore[arg-type]
    count = len(groups)
    for place, (group, accuracies) in enumerate(zip(groups, each, strict=True)):
        shift = 0.8 * ((count - 1) / 2 - place) / count
        runs = [[100 * float(a) for a in accuracies[name] if a is not None] for name in order]
        means = list(map(fmean, runs))
        bars = [[mean - min(values) for mean, values in zip(means, runs, strict=True)],
                [max(values) - mean for mean, values in zip(means, runs, strict=True)]]  # fmt: skip
        axes.barh(
            [row + shift for row in range(len(order))], means, 0.8 / count, label=short(group.name),
            xerr=bars if len(group.results) > 1 else None, ecolor="gray",
            hatch="//" if place >= 7 else None,
        )  # fmt: skip
    axes.set_yticks(range(len(order)), [short(name, 20) for name in order])
    axes.set_xlabel("test accuracy, %")
    axes.set_xlim(0, 100)
    axes.grid(alpha=0.25, axis="x")
    heading(figure, title)
    figure.legend(loc="outside lower left", ncols=3)


def _names(group: Group) -> list[str]:
    return list(group.results[0].result.per_class)
