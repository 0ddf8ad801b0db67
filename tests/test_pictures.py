"""Titles as wide as their figure, letters that no font has, names on one line."""

import warnings
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sfl.errors import UserError
from sfl.pictures import Picture, add_title, check_format, save, shorten, to_svg, write_pictures

NOWHERE = "\U0010fff0"  # private use: no font has it


def titled(kept: list[Figure], title: str, figure: Figure) -> None:
    kept.append(figure)
    add_title(figure, title)
    for half in figure.subfigures(2, 1, squeeze=False)[:, 0]:
        add_title(half, title)


@pytest.mark.filterwarnings("ignore:Glyph")  # in measuring again
@pytest.mark.parametrize("title", ["a word " * 10, "w" * 60, f"{'$x$ ' * 9}{'猫' * 28}", "short"])
def test_titles_are_as_wide_as_their_figure_at_most(tmp_path: Path, title: str) -> None:
    kept: list[Figure] = []
    save(lambda figure: titled(kept, f"{title}\nline", figure), tmp_path / "a.png", (3.6, 3.6))
    (figure,) = kept
    renderer = FigureCanvasAgg(figure).get_renderer()
    for part in (figure, *figure.subfigs):
        (text,) = part.texts
        assert text.get_window_extent(renderer).x1 <= figure.bbox.x1
        assert (float(text.get_fontsize()) == 9.5) == (title == "short")


def test_letters_come_from_another_font_where_one_has_them(tmp_path: Path) -> None:
    """One of matplotlib's own fonts, which is there on every machine."""
    from matplotlib.ft2font import FT2Font

    def letters(family: str) -> set[int]:
        path = font_manager.findfont(font_manager.FontProperties(family=[family]))
        return set(FT2Font(path).get_charmap())

    letter = chr(min(letters("STIXNonUnicode") - letters("DejaVu Sans")))
    svg = to_svg(lambda figure: add_title(figure, f"a {letter}"), (3, 3), dark=False).decode()
    assert letter in svg and "DejaVu Sans" in svg
    families = [font.name for font in font_manager.fontManager.ttflist if font.name in svg]
    assert set(families) - {"DejaVu Sans"}
    assert save(lambda figure: add_title(figure, letter), tmp_path / "a.png", (3, 3)) == set()


def test_letters_without_a_font_are_named_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def draw(figure: Figure) -> None:
        add_title(figure, NOWHERE * 3)
        figure.subplots().set_xticks([0, 1], [f"$x$ {NOWHERE}", "a"])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        write_pictures([Picture("a", "", draw), Picture("b", "", draw)], tmp_path)
    assert not caught and not caplog.records
    assert capsys.readouterr().err.splitlines() == [
        "Drawing ...",
        f"no font here has {NOWHERE}: boxes in the .png (install one; the .svg hold the letters)",
    ]


def test_any_name_makes_valid_xml(tmp_path: Path) -> None:
    names = ['<&">', "a\nb", "\x00\x1b", "\udc80", "\uffff", "\u202eabc", "עברית", "😀", "$\\frac$"]

    def draw(figure: Figure) -> None:
        figure.subplots().set_yticks(range(len(names)), [shorten(name) for name in names])

    save(draw, tmp_path / "a.svg", (3, 3))
    texts = [e.text for e in ElementTree.parse(tmp_path / "a.svg").iter() if e.tag.endswith("text")]
    assert {'<&">', "a�b", "�abc", "עברית", "😀", "$\\frac$"} <= set(texts)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("n" * 28, "n" * 28),
        ("a" * 20 + "b" * 20, "a" * 13 + "…" + "b" * 14),
        ("猫" * 14, "猫" * 14),
        ("猫" * 15, "猫" * 6 + "…" + "猫" * 7),
    ],
)
def test_long_names_keep_their_beginning_and_end(name: str, expected: str) -> None:
    assert shorten(name) == expected


def test_a_suffix_that_is_no_pictures_is_refused_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a\.txt: no picture's suffix \(those are .*png, .*svg"):
        save(lambda _: pytest.fail("drawn"), tmp_path / "a.txt", (1, 1))
    check_format(tmp_path / "a.pdf")
    check_format(tmp_path / "a")  # PNG
