"""Pictures: matplotlib (an optional extra), colours that everyone can tell apart, whole files.

Knows nothing of what is drawn.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sfl.errors import Exit, UserError
from sfl.files import atomic_path, write_error
from sfl.progress import track

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure, FigureBase

# Okabe & Ito (2008), told apart by the colour-blind; on a dark ground their brighter ones.
ON_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
ON_DARK = ("#56B4E9", "#E69F00", "#2BC79A", "#E7A6C8", "#FFFFFF", "#F0E442", "#8FB8FF")
SEQUENTIAL, DIVERGING = "cividis", "PuOr"  # colour maps for the same eyes
INK = {"light": "#1a1a1a", "dark": "#e6e6e6"}
DPI = 150

WIDE = (5.2, 3.6)  # inches: legible on a phone, two beside each other on a desk

Draw = Callable[["Figure"], None]


def need_matplotlib(what: str) -> None:
    """Raises UserError (exit 2) where matplotlib is not installed."""
    if not has_matplotlib():
        raise UserError(f"{what} needs matplotlib", "install it: pip install 'sfl[plots]'")


def has_matplotlib() -> bool:
    return find_spec("matplotlib") is not None


@dataclass(frozen=True)
class Picture:
    """A figure to be drawn: its file's name, what it shows, inches."""

    name: str
    caption: str
    draw: Draw
    size: tuple[float, float] = WIDE


def write_all(shown: Sequence[Picture], folder: Path) -> None:
    """Each picture as SVG and PNG. Raises UserError (exit 4 or 6) where that can't be written."""
    with writable(folder):
        for picture in track(shown, "Drawing"):
            for suffix in ("svg", "png"):
                save(picture.draw, folder / f"{picture.name}.{suffix}", picture.size)


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Makes a folder of pictures. Raises UserError (exit 4 or 6) where that can't be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise write_error(folder, error) from None


def save(draw: Draw, path: Path, size: tuple[float, float]) -> None:
    """Draws a figure of so many inches into a file whose format is the path's suffix.

    Raises UserError for a format that there isn't (exit 2), or what can't be written (exit 4, 6).
    """
    # No date in a file: the same figure, the same bytes.
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    with _figure(size) as figure:
        draw(figure)
        try:
            with atomic_path(path) as temporary:
                suffix = path.suffix.lstrip(".") or "png"
                figure.savefig(temporary, format=suffix, metadata=metadata)
        except ValueError as error:  # a format that matplotlib doesn't know
            raise UserError(f"{path}: {error}", exit_code=Exit.USAGE) from None


def svg(draw: Draw, size: tuple[float, float], *, dark: bool) -> bytes:
    """The figure as SVG on a transparent ground, for a page that is light or dark."""
    with _figure(size, dark=dark) as figure:
        draw(figure)
        written = io.BytesIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
        return written.getvalue()


def log_ticks(axis: "Axis", steps: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """Plain numbers at these steps of each power of ten, on a logarithmic scale.

    matplotlib's own are TeX, which isn't read here.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


@contextlib.contextmanager
def _figure(size: tuple[float, float], *, dark: bool = False) -> "Iterator[Figure]":
    import matplotlib
    from cycler import cycler
    from matplotlib.figure import Figure

    ink = INK["dark" if dark else "light"]
    style: dict[Any, Any] = {
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), ink
        ),
        "axes.prop_cycle": cycler(color=ON_DARK if dark else ON_LIGHT),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "font.size": 9,
        "legend.frameon": False,
        "savefig.dpi": DPI,
        "text.parse_math": False,  # a $ in a name is a $
        "svg.fonttype": "none",  # text stays text: a fifth of the size, and it can be searched
        "svg.hashsalt": "sfl",  # the same figure, the same bytes
    }
    with matplotlib.rc_context(style):
        yield Figure(figsize=size, layout="constrained")


# --- what pictures of runs and of comparisons have in common

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
