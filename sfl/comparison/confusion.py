"""Pictures of the answers: confusion matrices, and images that one of two models gets wrong.

Each is drawn into a given figure. Knows no files.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import mode
from typing import TYPE_CHECKING, Any

from sfl.comparison.model import ComparedModel
from sfl.comparison.schema import Comparison
from sfl.pictures import DIVERGING, SEQUENTIAL, Picture, add_title, hide_axes, ink_on, shorten
from sfl.plots.test_images import TestImages

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

SHOWN, COLUMNS = 8, 4  # images that only one model gets right, and how many beside each other
LONGEST = 60  # bytes of a name in a file's name
MOST_NUMBERS = 20  # classes of a matrix whose cells have room for numbers
MOST_CELLS = 200  # classes of a matrix whose cells can be seen
MOST_NAMES = 40  # classes whose names have room beside a matrix; of more, every k-th is named


def matrices(
    comparison: Comparison, classes: Sequence[str], chosen: Sequence[str], of_chosen: str
) -> list[Picture]:
    """Each model's confusion matrix, on one scale, and its difference from the first model's.

    chosen, of_chosen: those that are shown if there are too many, and what to call them.
    """
    import numpy as np

    places, among = list(range(len(classes))), ""
    if len(classes) > MOST_CELLS:
        places, among = sorted(map(classes.index, chosen)), f" Shown: {of_chosen}."
    classes = [classes[place] for place in places]
    side = max(3.6, min(7.0, 2.2 + 0.32 * len(classes)))
    shares = []
    for model in comparison.models:
        counts = np.array(model.confusion, dtype=float)
        images = counts.sum(axis=1, keepdims=True)
        share = 100 * counts / np.where(images > 0, images, np.nan)  # no image: blank
        shares.append(share[np.ix_(places, places)])
    found, first = [], comparison.models[0]
    for model, share in zip(comparison.models, shares, strict=True):
        title = (
            f"{shorten(model.name)}: {model.model}\n"
            f"% of each true class; {shorten(comparison.data.name)}, n = {model.n}"
        )
        draw = partial(_matrix, share, classes, title, SEQUENTIAL)
        caption = f"What {model.name} predicts for each class, in % of its test images.{among}"
        found.append(Picture(f"confusion-{_file_name(model.name)}", caption, draw, (side, side)))
    for model, share in zip(comparison.models[1:], shares[1:], strict=True):
        title = (
            f"{shorten(model.name)} − {shorten(first.name)}\n"
            f"points of each true class; {shorten(comparison.data.name)}, "
            f"n = {model.n} and {first.n}"
        )
        draw = partial(_matrix, share - shares[0], classes, title, DIVERGING)
        both = f"{model.name} predicts other classes than {first.name} does"
        caption = f"Where {both}, in points.{among}"
        name = f"confusion-{_file_name(model.name)}-against-{_file_name(first.name)}"
        found.append(Picture(name, caption, draw, (side, side)))
    return found


def disagreements(
    comparison: Comparison, compared: Sequence[ComparedModel], images: TestImages
) -> list[Picture]:
    """For each model but the first: the test images on which the two disagree most."""
    found = []
    for difference, model in zip(comparison.differences, compared[1:], strict=True):
        sides = [side for side in _sides(compared[0], model) if side.places]
        if not sides:
            continue
        runs = f"n = {len(compared[0].results)} and {len(model.results)}"
        title = f"{shorten(comparison.data.name)}, {runs}"
        both = f"{difference.first} and {difference.second}"
        caption = f"Test images on which {both} disagree most, with their number in the test set."
        draw = partial(_disagreements, sides, images, title)
        height = 0.4 + sum(0.25 + 1.0 * side.rows for side in sides)
        name = f"images-{_file_name(difference.second)}"
        found.append(Picture(name, caption, draw, (5.2, height)))
    return found


def _matrix(
    values: "NDArray[Any]", classes: Sequence[str], title: str, colour_map: str, figure: "Figure"
) -> None:
    import matplotlib
    import numpy as np

    axes = figure.add_subplot()
    differing = colour_map == DIVERGING
    most = float(np.nanmax(abs(values), initial=1.0)) if differing else 100.0
    low = -most if differing else 0.0
    colour = matplotlib.colormaps[colour_map]
    drawn = axes.imshow(values, cmap=colour_map, vmin=low, vmax=most)
    if len(classes) > MOST_NUMBERS:
        figure.colorbar(drawn, ax=axes, label="points" if differing else "%", shrink=0.7)
    for row, line in enumerate(values) if len(classes) <= MOST_NUMBERS else ():
        for column, value in enumerate(line):
            if not np.isnan(value):
                ink = ink_on(colour((value - low) / (most - low)))
                text = "0" if round(value) == 0 else f"{value:{'+' if differing else ''}.0f}"
                text = text.replace("-", "−")
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    named = range(0, len(classes), -(-len(classes) // MOST_NAMES))
    names = [shorten(classes[place], 14) for place in named]
    axes.set_xticks(named, names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(named, names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    if len(classes) > MOST_NUMBERS:
        axes.tick_params(labelsize=6)
    add_title(figure, title)


@dataclass(frozen=True)
class _Side:
    """Test images that one model gets right in more of its runs than another: their numbers."""

    right: ComparedModel
    wrong: ComparedModel
    places: list[int]

    @property
    def rows(self) -> int:
        return -(-len(self.places) // COLUMNS)


def _sides(first: ComparedModel, second: ComparedModel) -> list[_Side]:
    import numpy as np

    rights = [np.mean([r.correct for r in model.results], axis=0) for model in (first, second)]
    lead, labels = rights[0] - rights[1], first.results[0].labels
    return [
        _Side(first, second, _largest_leads(lead, labels)[:SHOWN]),
        _Side(second, first, _largest_leads(-lead, labels)[:SHOWN]),
    ]


def _disagreements(
    sides: Sequence[_Side], images: TestImages, title: str, figure: "Figure"
) -> None:
    """A part for each side, with its images and what the other model takes them for."""
    add_title(figure, title)
    parts = figure.subfigures(
        len(sides), 1, squeeze=False, height_ratios=[0.25 + side.rows for side in sides]
    )
    for part, side in zip(parts[:, 0], sides, strict=True):
        add_title(part, f"right: {shorten(side.right.name)}; wrong: {shorten(side.wrong.name)}")
        cells = part.subplots(side.rows, COLUMNS, squeeze=False).flat
        for axes, place in zip(cells, side.places, strict=False):
            axes.imshow(images.as_picture(place))
            taken = mode(sorted(int(one.predictions[place]) for one in side.wrong.results))
            true = int(side.wrong.results[0].labels[place])
            is_a, taken_for = (shorten(images.classes[c], 14) for c in (true, taken))
            axes.set_title(f"is: {is_a}\ntaken for: {taken_for}", fontsize=6.5, loc="center")
            axes.set_xlabel(f"image {place}", fontsize=6)
        for axes in part.axes:
            hide_axes(axes)


def _largest_leads(lead: "NDArray[Any]", labels: "NDArray[Any]") -> list[int]:
    """The numbers of the images with the largest lead; among equal ones the classes take turns.

    lead: (N,), the share of one model's runs that get an image right, minus the other's share.
    """
    import numpy as np

    seen: dict[tuple[float, int], int] = {}
    keys = []
    for place in np.flatnonzero(lead > 0).tolist():
        alike = float(lead[place]), int(labels[place])
        seen[alike] = turn = seen.get(alike, 0) + 1
        keys.append((-alike[0], turn, place))
    return [place for _, _, place in sorted(keys)]


def _file_name(name: str) -> str:
    """A name as a part of a file's name, without signs that a file system may not allow."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
    return safe.encode()[:LONGEST].decode(errors="ignore").strip(".-") or "model"
