"""What pictures of runs and of comparisons have in common: curves over epochs, headings, names."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import FigureBase

MARKERS, LINES = "osD^vPX", ("-", "--", ":", "-.")
MOST_DOTS = 30  # epochs; of more, a line alone is clearer
LONGEST = 28  # letters of a name in a picture

Style = dict[str, Any]


def styles(count: int) -> list[Style]:
    """So many kinds of line, told apart where colours aren't: by markers, then by dashes."""
    return [
        {"marker": MARKERS[place % len(MARKERS)], "linestyle": LINES[place // len(MARKERS) % 4]}
        for place in range(count)
    ]


def curve(
    axes: "Axes", epochs: Sequence[float], values: Sequence[float], style: Style, label: str
) -> Any:
    """A line over the epochs, with a dot for each where there are few; gives its colour."""
    style = style if len(epochs) <= MOST_DOTS else style | {"marker": ""}
    (line,) = axes.plot(epochs, values, markersize=4, label=label, **style)
    return line.get_color()


def over_epochs(axes: "Axes", label: str) -> None:
    """Axes whose curves have been drawn: whole epochs, names, a grid."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9 if len(axes.lines) <= 4 else 7)


def heading(figure: "FigureBase", title: str) -> None:
    """What a figure of several axes shows."""
    figure.suptitle(title, fontsize=9.5, x=0.01, ha="left")


def bare(axes: "Axes") -> None:
    """Axes that hold a picture: no numbers, no frame."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def short(name: str, longest: int = LONGEST) -> str:
    """A name that has room in a picture: its beginning and its end."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[: half - 1]}…{name[-half:]}"
