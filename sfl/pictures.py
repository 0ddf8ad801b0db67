"""Pictures: colours that the colour-blind can tell apart, axes, files. Needs matplotlib (an extra).

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

# Okabe & Ito (2008): colours that the colour-blind can tell apart; brighter ones on dark pages.
ON_LIGHT = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#E69F00", "#56B4E9")
ON_DARK = ("#56B4E9", "#E69F00", "#2BC79A", "#E7A6C8", "#FFFFFF", "#F0E442", "#8FB8FF")
SEQUENTIAL, DIVERGING = "cividis", "PuOr"  # colour maps, chosen for the same reason
INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
DPI = 150

WIDE = (5.2, 3.6)  # inches; can be read on a phone, and two fit beside each other on a screen

Draw = Callable[["Figure"], None]


def need_matplotlib(what: str) -> None:
    """Raises UserError (exit 2) if matplotlib is not installed. what: the command that needs it."""
    if not has_matplotlib():
        raise UserError(f"{what} needs matplotlib", "install it: pip install 'sfl[plots]'")


def has_matplotlib() -> bool:
    return find_spec("matplotlib") is not None


@dataclass(frozen=True)
class Picture:
    """A figure to be drawn: the name of its file, what it shows, its size in inches."""

    name: str
    caption: str
    draw: Draw
    size: tuple[float, float] = WIDE


def write_pictures(shown: Sequence[Picture], folder: Path) -> None:
    """Writes each picture as SVG and as PNG.

    Raises UserError: can't be written (exit 4), disk full (exit 6).
    """
    with picture_folder(folder):
        for picture in track(shown, "Drawing"):
            for suffix in ("svg", "png"):
                save(picture.draw, folder / f"{picture.name}.{suffix}", picture.size)


@contextlib.contextmanager
def picture_folder(folder: Path) -> Iterator[None]:
    """Makes a folder of pictures; turns OSErrors, of the body too, into UserErrors."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise write_error(folder, error) from None


def save(draw: Draw, path: Path, size: tuple[float, float]) -> None:
    """Draws a figure of this size, in inches, into a file. The path's suffix says the format.

    Raises UserError: unknown format (exit 2), can't be written (exit 4), disk full (exit 6).
    """
    # Without a date, so that the same figure is the same bytes.
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    with _figure(size) as figure:
        draw(figure)
        try:
            with atomic_path(path) as temporary:
                suffix = path.suffix.lstrip(".") or "png"
                figure.savefig(temporary, format=suffix, metadata=metadata)
        except ValueError as error:  # matplotlib doesn't know the format
            raise UserError(f"{path}: {error}", exit_code=Exit.USAGE) from None


def to_svg(draw: Draw, size: tuple[float, float], *, dark: bool) -> bytes:
    """The figure as SVG with a transparent background, for a light or a dark page."""
    with _figure(size, dark=dark) as figure:
        draw(figure)
        written = io.BytesIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
        return written.getvalue()


def log_ticks(axis: "Axis", steps: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """Ticks of a logarithmic axis: plain numbers, at these multiples of each power of ten.

    matplotlib's own labels are TeX, which is not parsed here.
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

    ink = "#e6e6e6" if dark else "#1a1a1a"
    style: dict[Any, Any] = {
        **dict.fromkeys(INKED, ink),
        "axes.prop_cycle": cycler(color=ON_DARK if dark else ON_LIGHT),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "font.size": 9,
        "legend.frameon": False,
        "savefig.dpi": DPI,
        "text.parse_math": False,  # a $ in a name stays a $
        "svg.fonttype": "none",  # text stays text: small files, which can be searched
        "svg.hashsalt": "sfl",  # the same figure is the same bytes
    }
    with matplotlib.rc_context(style):
        yield Figure(figsize=size, layout="constrained")


# --- what pictures of runs and of comparisons share

MARKERS, LINES = "osD^vPX", ("-", "--", ":", "-.")
MOST_DOTS = 30  # epochs; with more, a line without dots is clearer
LONGEST = 28  # letters of a name in a picture

Style = dict[str, Any]


def line_styles(count: int) -> list[Style]:
    """So many kinds of line. They differ in markers and dashes, for readers who see no colours."""
    return [
        {"marker": MARKERS[place % len(MARKERS)], "linestyle": LINES[place // len(MARKERS) % 4]}
        for place in range(count)
    ]


def plot_curve(
    axes: "Axes", epochs: Sequence[float], values: Sequence[float], style: Style, label: str
) -> Any:
    """Draws a line over the epochs, with a dot for each if they are few. Returns its colour."""
    style = style if len(epochs) <= MOST_DOTS else style | {"marker": ""}
    (line,) = axes.plot(epochs, values, markersize=4, label=label, **style)
    return line.get_color()


def label_epochs(axes: "Axes", label: str) -> None:
    """Labels axes with curves over epochs: whole epochs, a grid, a legend."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    axes.legend(fontsize=9 if len(axes.lines) <= 4 else 7)


def add_title(figure: "FigureBase", title: str) -> None:
    """A title above all axes of a figure."""
    figure.suptitle(title, fontsize=9.5, x=0.01, ha="left")


def hide_axes(axes: "Axes") -> None:
    """Removes ticks and frame, from axes that show an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def shorten(name: str, longest: int = LONGEST) -> str:
    """A name; if it is too long, its beginning and its end."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[: half - 1]}…{name[-half:]}"
