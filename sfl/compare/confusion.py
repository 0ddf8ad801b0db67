"""Pictures of the answers: confusion matrices, and images that one of two models gets wrong.

Each is drawn into a given figure. Knows no files.
"""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sfl.compare.model import ComparedModel
from sfl.compare.schema import Comparison
from sfl.pictures import DIVERGING, SEQUENTIAL, Picture, add_title, hide_axes, shorten
from sfl.plots.test_images import TestImages

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

SHOWN = 8  # images that only one model gets right
LONGEST = 60  # letters of a name in a file's name
MOST_NUMBERS = 20  # classes of a matrix whose cells have room for numbers


def matrices(comparison: Comparison, classes: Sequence[str]) -> list[Picture]:
    """Each model's confusion matrix, on one scale, and its difference from the first model's."""
    import numpy as np

    side = max(3.6, min(7.0, 2.2 + 0.32 * len(classes)))
    shares = []
    for model in comparison.models:
        counts = np.array(model.confusion, dtype=float)
        images = counts.sum(axis=1, keepdims=True)
        shares.append(100 * counts / np.where(images > 0, images, np.nan))  # no image: blank
    found, first = [], comparison.models[0]
    for model, share in zip(comparison.models, shares, strict=True):
        title = (
            f"{shorten(model.name)}: {model.model}, % of each true class\n"
            f"{comparison.data.name}, n = {model.n}"
        )
        draw = partial(_matrix, share, classes, title, SEQUENTIAL)
        caption = f"What {model.name} predicts for each class, in % of its test images."
        found.append(Picture(f"confusion-{_file_name(model.name)}", caption, draw, (side, side)))
    for model, share in zip(comparison.models[1:], shares[1:], strict=True):
        title = (
            f"{shorten(model.name)} − {shorten(first.name)}, points of each true class\n"
            f"{comparison.data.name}, n = {model.n} and {first.n}"
        )
        draw = partial(_matrix, share - shares[0], classes, title, DIVERGING)
        caption = f"Where {model.name} predicts other classes than {first.name} does, in points."
        name = f"confusion-{_file_name(model.name)}-against-{_file_name(first.name)}"
        found.append(Picture(name, caption, draw, (side, side)))
    return found


def disagreements(
    comparison: Comparison, compared: Sequence[ComparedModel], images: TestImages
) -> list[Picture]:
    """For each model but the first: the test images on which the two disagree most."""
    found = []
    for difference, model in zip(comparison.differences, compared[1:], strict=True):
        title = f"{comparison.data.name}, n = {len(compared[0].results)} and {len(model.results)}"
        both = f"{difference.first} and {difference.second}"
        caption = f"Test images on which {both} disagree most, with their number in the test set."
        draw = partial(_disagreements, compared[0], model, images, title)
        found.append(Picture(f"images-{_file_name(difference.second)}", caption, draw, (5.2, 5.0)))
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
    axes.imshow(values, cmap=colour_map, vmin=low, vmax=most)
    for row, line in enumerate(values) if len(classes) <= MOST_NUMBERS else ():
        for column, value in enumerate(line):
            if not np.isnan(value):
                red, green, blue, _ = colour((value - low) / (most - low))
                ink = "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"
                text = "0" if round(value) == 0 else f"{value:{'+' if differing else ''}.0f}"
                text = text.replace("-", "−")
                axes.text(column, row, text, ha="center", va="center", fontsize=7, color=ink)
    names = [shorten(name, 14) for name in classes]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right")
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")
    axes.set_title(title)


def _disagreements(
    first: ComparedModel, second: ComparedModel, images: TestImages, title: str, figure: "Figure"
) -> None:
    """Two rows for each model: images that it gets right in more of its runs than the other."""
    import numpy as np

    add_title(figure, title)
    rights = [np.mean([r.correct for r in model.results], axis=0) for model in (first, second)]
    labels = first.results[0].labels
    halves = figure.subfigures(2, 1, squeeze=False)[:, 0]
    for half, lead, ahead, behind in (
        (halves[0], rights[0] - rights[1], first, second),
        (halves[1], rights[1] - rights[0], second, first),
    ):
        shown = _largest_leads(lead, labels)[:SHOWN]
        add_title(half, f"right: {shorten(ahead.name)}; wrong: {shorten(behind.name)}")
        cells = half.subplots(2, SHOWN // 2).flat
        for axes, place in zip(cells, shown, strict=False):
            axes.imshow(images.as_picture(place))
            taken = _most_frequent([int(one.predictions[place]) for one in behind.results])
            true, other = (shorten(images.classes[c], 12) for c in (int(labels[place]), taken))
            axes.set_title(f"{true}, not\n{other}", fontsize=6.5, loc="center")
            axes.set_xlabel(str(place), fontsize=6)
        for axes in half.axes:
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


def _most_frequent(values: Sequence[int]) -> int:
    return max(sorted(set(values)), key=values.count)


def _file_name(name: str) -> str:
    """A name as a part of a file's name, without signs that a file system may not allow."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name[:LONGEST]).strip(".-")
    return safe or "model"
