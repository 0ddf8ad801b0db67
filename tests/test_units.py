"""Numbers in words."""

import csv
import io

import pytest

from sfl import units


@pytest.mark.parametrize(
    ("count", "line"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_960, "1.0 MB"),
        (4096, "4.1 kB"),
        (684_040, "684.0 kB"),
        (2.5e9, "2.5 GB"),
        (3.2e15, "3200.0 TB"),
    ],
)
def test_bytes(count: float, line: str) -> None:
    assert units.bytes_text(count) == line


@pytest.mark.parametrize(
    ("count", "line"), [(7, "7"), (999, "999"), (14_431_088, "14.4 M"), (4.3e9, "4.3 G")]
)
def test_counts(count: float, line: str) -> None:
    assert units.count_text(count) == line


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (-259_200, "0 s"),
        (0, "0 s"),
        (59, "59 s"),
        (90, "1 min"),
        (7300, "2 h"),
        (86400 * 3.9, "3 d"),
    ],
)
def test_ages(seconds: float, line: str) -> None:
    assert units.age_text(seconds) == line


@pytest.mark.parametrize(
    ("seconds", "line"),
    [
        (7.25, "7.2 s"),
        (99.94, "99.9 s"),
        (99.97, "1 min 40 s"),
        (125, "2 min 05 s"),
        (5999, "99 min 59 s"),
        (7325, "2 h 02 min"),
    ],
)
def test_seconds(seconds: float, line: str) -> None:
    assert units.seconds_text(seconds) == line


def test_percent_and_points() -> None:
    assert units.percent_text(0.57519) == "57.52 %"
    assert [units.points_text(f) for f in (-0.0769, 0.01, -0.00001)] == ["−7.69", "+1.00", "0.00"]


def test_a_name_stays_on_its_line_and_turns_no_other_text() -> None:
    assert units.one_line("猫 a\u200db, <&$> עברית 😀") == "猫 a\u200db, <&$> עברית 😀"
    odd = "\n", "\r", "\x00", "\x1b", "\u2028", "\udc80", "\uffff", "\u202e", "\u2066"
    for sign in odd:
        assert units.one_line(f"a{sign}b") == "a�b"


def test_what_a_spreadsheet_would_run_is_text() -> None:
    for text in ("=1+1", "+1", "-1", "@SUM(1)", "\tx"):
        written = csv.DictReader(io.StringIO(units.csv_text(["a"], [{"a": text}])))
        assert [row["a"] for row in written] == [f"'{text}"]
    assert units.csv_text("abc", [{"a": "a=1", "b": "", "c": -1}]) == "a,b,c\na=1,,-1\n"


def test_words_in_a_row() -> None:
    assert [units.listed(range(n)) for n in (1, 2, 3)] == ["0", "0 and 1", "0, 1 and 2"]
    assert units.listed(["a", "b"], "or") == "a or b"


def test_csv() -> None:
    """Lines end alike everywhere; what a row lacks is empty; a comma is quoted."""
    assert units.csv_text(["a", "b"], [{"a": "1,5", "b": 2}, {"a": None}]) == 'a,b\n"1,5",2\n,\n'


def test_of_many_names_a_few() -> None:
    assert units.few(["a", "b", "c"], most=3) == "a, b, c"
    assert units.few(["a", "b", "c", "d", "e"], most=3) == "a, b, c and 2 more"
