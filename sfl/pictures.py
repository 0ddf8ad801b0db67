"""Pictures: colours that the colour-blind can tell apart, axes, files. Needs matplotlib (an extra).

Knows nothing of what is drawn.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from sfl.errors import UserError
from sfl.files import atomic_path, write_error
from sfl.progress import say, track
from sfl.units import one_line

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
        raise UserError(f"{what} needs matplotlib", "install it: pip install matplotlib")


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
    """Writes each picture as SVG and as PNG; says which letters no font here has.

    Raises UserError: can't be written (exit 4), disk full (exit 6).
    """
    boxes = set[str]()
    with picture_folder(folder):
        for picture in track(shown, "Drawing"):
            for suffix in ("svg", "png"):
                boxes |= save(picture.draw, folder / f"{picture.name}.{suffix}", picture.size)
    if boxes:
        some = " ".join(sorted(boxes)[:MOST_LETTERS]) + " …" * (len(boxes) > MOST_LETTERS)
        say(f"no font here has {some}: boxes in the .png (install one; the .svg hold the letters)")


@contextlib.contextmanager
def picture_folder(folder: Path) -> Iterator[None]:
    """Makes a folder of pictures; turns OSErrors, of the body too, into UserErrors."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise write_error(folder, error) from None


def check_format(path: Path) -> None:
    """Raises UserError (exit 2) if no picture can be written into a file of that suffix."""
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix and path.suffix.lstrip(".") not in known:
        raise UserError(f"{path}: no picture's suffix", f"those are {', '.join(sorted(known))}")


def save(draw: Draw, path: Path, size: tuple[float, float]) -> set[str]:
    """Draws a figure of this size, in inches, into a file. The path's suffix says the format.

    Returns the letters that no font here has.

    Raises UserError: unknown format (exit 2), can't be written (exit 4), disk full (exit 6).
    """
    check_format(path)
    # Without a date, so that the same figure is the same bytes.
    metadata: dict[str, Any] = {"Date": None} if path.suffix == ".svg" else {}
    with _figure(size) as figure:
        draw(figure)
        boxes = _fit_texts(figure)
        with atomic_path(path) as temporary:
            suffix = path.suffix.lstrip(".") or "png"
            figure.savefig(temporary, format=suffix, metadata=metadata)
    return boxes


def to_svg(draw: Draw, size: tuple[float, float], *, dark: bool) -> bytes:
    """The figure as SVG with a transparent background, for a light or a dark page."""
    with _figure(size, dark=dark) as figure:
        draw(figure)
        _fit_texts(figure)
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
    with matplotlib.rc_context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # `save` returns these letters
        yield Figure(figsize=size, layout="constrained")


def _fit_texts(figure: "Figure") -> set[str]:
    """Gives texts fonts that have their letters; shrinks titles that are wider than the figure.

    Returns the letters that no font has.
    """
    from matplotlib.text import Text

    texts = [found for found in figure.findobj(Text) if isinstance(found, Text)]
    families, boxes = _fonts_for(frozenset("".join(text.get_text() for text in texts)) - {"\n"})
    for text in texts:
        text.set_fontfamily(families)
    room = 0.95 * figure.bbox.width
    for title in (title for part in (figure, *figure.subfigs) for title in part.texts):
        for _ in range(3):  # letters get narrower in steps of a pixel
            wide = title.get_window_extent().width
            title.set_fontsize(float(title.get_fontsize()) * min(1.0, room / wide))
    return boxes


def _fonts_for(letters: frozenset[str]) -> tuple[list[str], set[str]]:
    """Font families that together have these letters, the usual one first; letters in none."""
    from matplotlib import font_manager, rcParams

    usual = font_manager.FontProperties(family=rcParams["font.family"])
    lacking = letters - _letters_in(font_manager.findfont(usual), letters)
    families, boxes = _other_fonts(lacking) if lacking else ((), lacking)
    return [*rcParams["font.family"], *families], set(boxes)


@cache
def _other_fonts(letters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Installed families that have some of the letters, as few as are needed; letters in none."""
    from matplotlib.font_manager import fontManager

    families = []
    for font in fontManager.ttflist:
        # A last resort has a box for each letter.
        if letters and "LastResort" not in font.name.replace(" ", ""):
            found = _letters_in(font.fname, letters)
            letters -= found
            families += [font.name] if found else []
    return tuple(dict.fromkeys(families)), letters


def _letters_in(path: str, letters: frozenset[str]) -> frozenset[str]:
    """Those letters that a font has; none of a font that can't be read or drawn at any size."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
    except (OSError, RuntimeError):
        return frozenset()
    return frozenset(c for c in letters if font.scalable and font.get_char_index(ord(c)))


# --- what pictures of runs and of comparisons share

MARKERS, LINES = "osD^vPX", ("-", "--", ":", "-.")
MOST_DOTS = 30  # epochs; with more, a line without dots is clearer
LONGEST = 28  # columns of a name in a picture: CJK letters and emoji take two
MOST_LETTERS = 12  # named where no font has them

Style = dict[str, Any]


def line_styles(count: int) -> list[Style]:
    """So many kinds of line. They differ in markers and dashes, for readers who see no colours."""
    return [
        {
            # When the colours begin again, each gets another marker.
            "marker": MARKERS[(place + place // len(MARKERS)) % len(MARKERS)],
            "linestyle": LINES[place // len(MARKERS) % 4],
        }
        for place in range(count)
    ]


def plot_curve(
    axes: "Axes", epochs: Sequence[float], values: Sequence[float], style: Style, label: str
) -> Any:
    """Draws a line over the epochs, with a dot for each if they are few. Returns its colour."""
    style = style if len(epochs) <= MOST_DOTS else style | {"marker": ""}
    (line,) = axes.plot(epochs, values, markersize=4, label=label, **style)
    return line.get_color()


def label_epochs(axes: "Axes", label: str, *, legend: bool = True) -> None:
    """Labels axes with curves over epochs: whole epochs, a grid, a legend."""
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    if legend:
        add_legend(axes, axes.lines, fontsize=9 if len(axes.lines) <= 4 else 7)


def add_legend(owner: "Axes | FigureBase", handles: Sequence[Any], **looks: Any) -> None:
    """A legend of these artists by their labels, also of labels that begin with `_`."""
    owner.legend(handles, [handle.get_label() for handle in handles], **looks)


def add_title(figure: "FigureBase", title: str) -> None:
    """A title above all axes of a figure, made smaller where it is wider than the figure."""
    figure.suptitle(title, fontsize=9.5, x=0.01, ha="left")


def ink_on(colour: Sequence[float]) -> str:
    """Black or white, whichever can be read on a colour; red, green and blue come first, 0 to 1."""
    red, green, blue = colour[:3]
    return "white" if 0.3 * red + 0.59 * green + 0.11 * blue < 0.5 else "black"


def hide_axes(axes: "Axes") -> None:
    """Removes ticks and frame, from axes that show an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def shorten(name: str, longest: int = LONGEST) -> str:
    """A name on one line; if it takes too many columns, its beginning and its end."""
    start = end = one_line(name)
    if cell_len(start) <= longest:
        return start
    while cell_len(start) >= longest // 2:
        start = start[:-1]
    while cell_len(end) > longest // 2:
        end = end[1:]
    return f"{start}…{end}"
