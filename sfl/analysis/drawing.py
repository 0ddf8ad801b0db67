"""What pictures of runs and of comparisons have in common: curves over epochs, headings."""

from collections.abc import Sequence
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_DOTS = 30  # epochs; of more, a line alone is clearer


def markers(count: int) -> list[str]:
    """So many shapes, which tell curves apart where colours don't."""
    return list(islice(cycle("osD^vPX"), count))


def curve(
    axes: "Axes", epochs: Sequence[float], values: Sequence[float], marker: str, label: str
) -> Any:
    """A line over the epochs, with a dot for each where there are few; gives its colour."""
    dots = marker if len(epochs) <= MOST_DOTS else ""
    (line,) = axes.plot(epochs, values, marker=dots, markersize=4, label=label)
    return line.get_color()


def over_epochs(axes: "Axes", label: str) -> None:
    """Axes whose curves have been drawn: whole epochs, names, a grid."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend()


def heading(figure: "Figure", title: str) -> None:
    """What a figure of several axes shows."""
    figure.suptitle(title, fontsize=9.5, x=0.01, ha="left")


def bare(axes: "Axes") -> None:
    """Axes that hold a picture: no numbers, no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
