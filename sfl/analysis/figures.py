"""The pictures of a comparison: curves, accuracy against cost, classes, confusion, single images.

Each is drawn into a figure that is given; knows no file. Accuracies are shown in percent.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from sfl.analysis.comparison import Comparison
from sfl.analysis.drawing import bare, curve, markers, over_epochs
from sfl.analysis.images import TestImages
from sfl.analysis.results import Group, logged_by_all
from sfl.pictures import DIVERGING, SEQUENTIAL, Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

MOST_CLASSES = 40  # beyond, neither bars nor a matrix can be read
SHOWN = 8  # images that only one model gets right


def pictures(
    comparison: Comparison, groups: Sequence[Group], images: TestImages | None
) -> list[Picture]:
    """All that can be drawn of a comparison; images: those of the test set, if they are at hand."""
    look, of_what = _logged_accuracy(groups)
    where = _title(comparison)
    found = [
        Picture(
            "accuracy",
            f"{of_what.capitalize()} over the epochs; mean, and smallest to largest of the runs.",
            partial(_curves, groups, key=look, label=f"{of_what}, %", scale=100, title=where),
        ),
        Picture(
            "loss",
            "Training loss over the epochs; mean, and smallest to largest of the runs.",
            partial(_curves, groups, key="train_loss", label="training loss", title=where),
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
        height = 1.2 + len(classes) * (0.12 + 0.13 * len(groups))
        found.append(
            Picture(
                "classes",
                "Test accuracy of each class, mean of the runs.",
                partial(_classes, comparison),
                (5.2, height),
            )
        )
        found += _matrices(comparison, classes)
    if images is not None:
        for difference, group in zip(comparison.differences, groups[1:], strict=True):
            found.append(
                Picture(
                    f"images-{_slug(difference.second)}",
                    f"Test images on which {difference.first} and {difference.second} disagree "
                    "most, with their place in the test set and their class.",
                    partial(_disagreements, groups[0], group, images),
                    (5.2, 4.6),
                )
            )
    return _apart(found)


def _apart(found: Sequence[Picture]) -> list[Picture]:
    """Where names of models differ only in what no file's name should have, files get numbers."""
    names = [picture.name for picture in found]
    times = [names[:place].count(name) for place, name in enumerate(names)]
    return [
        replace(picture, name=f"{picture.name}-{count + 1}") if count else picture
        for picture, count in zip(found, times, strict=True)
    ]


COSTS = (
    ("weights", "weights", "trainable weights"),
    ("flops", "training_flops", "FLOPs of training"),
    ("time", "seconds", "seconds of training"),
)


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
    for marker, group in zip(markers(len(groups)), groups, strict=True):
        runs = [
            {line["epoch"]: scale * line[key] for line in one.run.metrics if key in line}
            for one in group.results
        ]
        epochs = sorted(set.intersection(*map(set, runs)))
        each = [[run[epoch] for run in runs] for epoch in epochs]
        mean = [sum(values) / len(values) for values in each]
        colour = curve(axes, epochs, mean, marker, group.name)
        low, high = list(map(min, each)), list(map(max, each))
        axes.fill_between(epochs, low, high, color=colour, alpha=0.2, linewidth=0)
    over_epochs(axes, label)
    axes.set_title(title)


def _by_cost(comparison: Comparison, figure: "Figure", *, field: str, label: str) -> None:
    axes = figure.add_subplot()
    costs = [getattr(model, field) for model in comparison.models]
    for marker, model, cost in zip(markers(len(costs)), comparison.models, costs, strict=True):
        low, high = model.accuracy_interval
        accuracy = 100 * model.accuracy
        bars = [[max(0.0, accuracy - 100 * low)], [max(0.0, 100 * high - accuracy)]]
        axes.errorbar([cost], [accuracy], yerr=bars, marker=marker, markersize=7, capsize=4)
        axes.annotate(
            model.name, (cost, accuracy), xytext=(7, 5), textcoords="offset points", va="bottom"
        )
    _cost_axis(axes, costs)
    axes.set_xlabel(label)
    axes.set_ylabel("test accuracy, %")
    axes.grid(alpha=0.25)
    axes.set_title(_title(comparison))


def _cost_axis(axes: "Axes", costs: Sequence[float]) -> None:
    """From zero where the costs are alike, logarithmic where they are not; room for the names."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    from sfl.units import count_text

    low, high = min(costs), max(costs)
    if low > 0 and high / low > 5:
        axes.set_xscale("log")
        spread = high / low
        axes.set_xlim(low / spread**0.15, high * spread**0.5)
        axes.set_xticks(costs)
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, 1.6 * (high or 1))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))
    axes.margins(y=0.25)


def _classes(comparison: Comparison, figure: "Figure") -> None:
    """Bars beside each other, the classes sorted by the first model's accuracy."""
    axes = figure.add_subplot()
    first = comparison.models[0].per_class
    order = sorted(first, key=lambda name: first[name] or 0.0)
    count = len(comparison.models)
    for place, model in enumerate(comparison.models):
        shift = 0.8 * ((count - 1) / 2 - place) / count
        values = [100 * (model.per_class[name] or 0.0) for name in order]
        places = [row + shift for row in range(len(order))]
        axes.barh(places, values, height=0.8 / count, label=model.name)
    axes.set_yticks(range(len(order)), order)
    axes.set_xlabel("test accuracy, %")
    axes.set_xlim(0, 100)
    axes.grid(alpha=0.25, axis="x")
    axes.set_title(_title(comparison))
    figure.legend(loc="outside upper left", ncols=count)


def _matrices(comparison: Comparison, classes: Sequence[str]) -> list[Picture]:
    """A confusion matrix a model, and how each differs from the first one's."""
    import numpy as np

    side = min(7.0, 2.0 + 0.32 * len(classes))
    shares = []
    for model in comparison.models:
        counts = np.array(model.confusion, dtype=float)
        shares.append(100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
    found = []
    for model, share in zip(comparison.models, shares, strict=True):
        title = f"{model.name}: {model.model}\n{comparison.data.name}, n = {model.n}"
        draw = partial(_matrix, share, classes, title, SEQUENTIAL)
        caption = f"What {model.name} takes each class for, in % of its images."
        found.append(Picture(f"confusion-{_slug(model.name)}", caption, draw, (side, side)))
    for model, share in zip(comparison.models[1:], shares[1:], strict=True):
        first = comparison.models[0].name
        title = f"{model.name} − {first}: {model.model}\n{comparison.data.name}"
        draw = partial(_matrix, share - shares[0], classes, title, DIVERGING)
        caption = f"Where {model.name} takes other classes than {first}, in points."
        name = f"confusion-{_slug(model.name)}-against-{_slug(first)}"
        found.append(Picture(name, caption, draw, (side, side)))
    return found


def _matrix(
    values: "NDArray[Any]", classes: Sequence[str], title: str, colour_map: str, figure: "Figure"
) -> None:
    import matplotlib

    axes = figure.add_subplot()
    most = abs(values).max() or 1.0
    low = -most if colour_map == DIVERGING else 0.0
    colour = matplotlib.colormaps[colour_map]
    axes.imshow(values, cmap=colour_map, vmin=low, vmax=most)
    for row, line in enumerate(values) if len(classes) <= 20 else ():
        for column, value in enumerate(line):
            red, green, blue, _ = colour((value - low) / (most - low))
            dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
            text = f"{value:+.0f}" if colour_map == DIVERGING else f"{value:.0f}"
            text = "0" if round(value) == 0 else text.replace("-", "−")
            ink = "white" if dark else "black"
            axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(range(len(classes)), classes, rotation=60, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title)


def _disagreements(first: Group, second: Group, images: TestImages, figure: "Figure") -> None:
    """Two rows a model: images that it gets right more often than the other does."""
    import numpy as np

    rights = [np.mean([r.correct for r in group.results], axis=0) for group in (first, second)]
    labels = first.results[0].labels
    halves = figure.subfigures(2, 1, squeeze=False)[:, 0]
    for half, lead, ahead, behind in (
        (halves[0], rights[0] - rights[1], first, second),
        (halves[1], rights[1] - rights[0], second, first),
    ):
        shown = _foremost(lead, labels)[:SHOWN]
        half.suptitle(f"right: {ahead.name}; wrong: {behind.name}", x=0.01, ha="left", fontsize=9)
        cells = half.subplots(2, SHOWN // 2).flat
        for axes, place in zip(cells, shown, strict=False):
            axes.imshow(images.as_picture(place))
            taken = _usual([int(one.predictions[place]) for one in behind.results])
            true = images.classes[int(labels[place])]
            axes.set_title(f"{true}, not {images.classes[taken]}", fontsize=6.5, loc="center")
            axes.set_xlabel(str(place), fontsize=6)
        for axes in half.axes:
            bare(axes)


def _foremost(lead: "NDArray[Any]", labels: "NDArray[Any]") -> list[int]:
    """Places of positive lead, the largest first; of equal ones, one of each class in turn."""
    import numpy as np

    seen: dict[tuple[float, int], int] = {}
    keys = []
    for place in np.flatnonzero(lead > 0).tolist():
        alike = float(lead[place]), int(labels[place])
        seen[alike] = turn = seen.get(alike, 0) + 1
        keys.append((-alike[0], turn, place))
    return [place for _, _, place in sorted(keys)]


def _usual(values: Sequence[int]) -> int:
    return max(sorted(set(values)), key=values.count)


def _slug(name: str) -> str:
    """A name as a part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip(".-") or "model"
