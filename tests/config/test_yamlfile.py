"""YAML in and out: scalars of YAML 1.2, the line of every value, and nothing that runs."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfl.config.yamlfile import YamlTree, dump, parse, read, set_value
from sfl.errors import Exit, UserError
from tests.conftest import refusal


def failure(text: str) -> str:
    return refusal(Exit.USAGE, parse, text, "c.yaml")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("3.0e-4", 0.0003),
        (".5", 0.5),
        ("5.", 5.0),
        ("+12", 12),
        ("-7", -7),
        ("010", 10),
        ("0o10", 8),
        ("0x1F", 31),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2026-01-01", "2026-01-01"),
        ("true", True),
        ("False", False),
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("y", "y"),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("'1e-3'", "1e-3"),
        ('"true"', "true"),
        ("|\n  3", "3"),
        ("[1, a, [2.5]]", [1, "a", [2.5]]),
        ("{b: {c: no}}", {"b": {"c": "no"}}),
    ],
)
def test_values_are_read_as_in_yaml_1_2(text: str, value: object) -> None:
    found = parse(f"a: {text}", "c.yaml").values["a"]
    assert found == value and type(found) is type(value)


def test_not_a_number_is_read() -> None:
    assert math.isnan(parse("a: .nan", "c.yaml").values["a"])


EMPTY = (
    "c.yaml: the file is empty (a config needs at least model: {name: …}, a study base and axes)"
)


def test_every_value_knows_its_line() -> None:
    tree = parse("a: 1\n\nb:\n  c: 2\n  d:\n    - 5\n    - 6\n", "c.yaml")
    assert str(tree.place(("a",))) == "c.yaml:1"
    assert str(tree.place(("b",))) == "c.yaml:3"
    assert str(tree.place(("b", "c"))) == "c.yaml:4"
    assert str(tree.place(("b", "d", 1))) == "c.yaml:7"
    assert str(tree.place(("b", "missing"))) == "c.yaml:3"  # the nearest around it


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", EMPTY),
        ("# only\n", EMPTY),
        ("- a\n- b\n", "c.yaml: expected keys and values, found a list"),
        ("hello\n", "c.yaml: expected keys and values, found a single value"),
        ("3\n", "c.yaml: expected keys and values, found a single value"),
        ("a: 1\nb: 2\na: 3\n", "c.yaml:3: a is given twice, first in line 1"),
        ("a: {b: 1, b: 2}\n", "c.yaml:1: b is given twice, first in line 1"),
        ("a: 1\nb: &x [*x]\n", "c.yaml:2: a value that contains itself"),
        ("b: &x\n  c: *x\n", "c.yaml:1: a value that contains itself"),
        ("a: 1\nb: [1, 2\n", "c.yaml:3: not YAML: expected ',' or ']', but got '<stream end>'"),
        ("a: 1\n---\nb: 2\n", "c.yaml:3: not YAML: a second document begins here; a config is one"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "c.yaml:3: << does not merge here (use extends: FILE"),
        ("a: *nobody\n", "c.yaml:1: not YAML: found undefined alias 'nobody'"),
        ("? [a]\n: b\n", "c.yaml:1: a key must be a word, not a list or map"),
        ("a: \0\n", "c.yaml: not YAML: unacceptable character #x0000: special characters"),
        (f"a: {'9' * 5000}\n", "c.yaml:1: number with too many digits"),
        ("a: " + "[" * 30 + "]" * 30, "c.yaml:1: nested too deeply for a config"),
        ("[" * 1000, "c.yaml: nested too deeply for a config"),
    ],
    ids=lambda text: text[:20].replace("\n", " ") if isinstance(text, str) else None,
)
def test_what_is_no_config_gets_one_line(text: str, line: str) -> None:
    assert failure(text).startswith(line)


@pytest.mark.parametrize(
    "text",
    [
        "a: !!python/object/apply:os.mkdir [ran]\n",
        "a: !!python/name:os.system\n",
        "!!python/object/apply:os.mkdir [ran]\n",
        "a: !!python/object/new:os.mkdir {args: [ran]}\n",
        "a: !mine 3\n",
        "a: !!binary aGVsbG8=\n",
        "a: !!int '3'\n",
        "a: !!set {b}\n",
    ],
)
def test_no_tag_does_anything(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "is not allowed" in failure(text)
    assert list(tmp_path.iterdir()) == []


def test_aliases_are_read_but_not_a_billion_of_them() -> None:
    assert parse("a: &x [1]\nb: *x\n", "c.yaml").values == {"a": [1], "b": [1]}
    laughs = "a0: &a0 [1, 1]\n" + "".join(  # 130,000 of them, should they all be read
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 6)
    )
    assert "more than 10,000 values" in failure(laughs)


def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\xfe\x00")
    with pytest.raises(UserError, match=r"binary\.yaml: not a text file \(UTF-8\)"):
        read(tmp_path / "binary.yaml")
    with pytest.raises(UserError, match="can't be read: Is a directory"):
        read(tmp_path)
    with pytest.raises(UserError, match="can't be read: No such file"):
        read(tmp_path / "none.yaml")
    (tmp_path / "large.yaml").write_text("a: 1\n" + "#" * 1_000_000)
    with pytest.raises(UserError, match=r"large\.yaml: larger than 1 MB: not a config"):
        read(tmp_path / "large.yaml")


def test_a_byte_order_mark_and_dos_line_ends_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "dos.yaml"
    path.write_bytes("\ufeffa: 1\r\nb: 2\r\n".encode())
    tree = read(path)
    assert tree.values == {"a": 1, "b": 2}
    assert tree.place(("b",)).line == 2


def test_extends_builds_on_another_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text("a: 1\nb: {c: 2, d: [1, 2]}\n")
    top = tmp_path / "sub" / "top.yaml"
    top.write_text("extends: ../base.yaml\nb: {d: [3]}\ne: 5\n")
    tree = read(top)
    assert tree.values == {"a": 1, "b": {"c": 2, "d": [3]}, "e": 5}
    assert tree.place(("b", "c")).file.endswith("base.yaml")
    assert str(tree.place(("b", "d"))) == f"{top}:2"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("extends: none.yaml", "none.yaml: no such file (give the name of a config that ships"),
        ("extends: 3", "a.yaml:1: extends: expected a path, not 3"),
        ("extends: a.yaml", "more than 10 files extend one another; in a circle?"),
        ("extends: .", "no such file"),
    ],
)
def test_extends_that_leads_nowhere(tmp_path: Path, text: str, line: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError) as caught:
        read(tmp_path / "a.yaml")
    assert line in str(caught.value)


def tree() -> YamlTree:
    return parse("a: {b: 1, c: {d: 2}}\n", "c.yaml")


def test_set_value_puts_in_or_replaces_and_leaves_the_tree_alone() -> None:
    before = tree()
    assert set_value(before, ("a", "b"), "1e-3", "--set").values["a"]["b"] == 0.001
    assert set_value(before, ("x", "y"), "[no]", "--set").values["x"] == {"y": ["no"]}
    assert set_value(before, ("a", "c"), "{e: 5}", "--set").values["a"]["c"] == {"e": 5}
    assert set_value(before, ("a", "b"), "", "--set").values["a"]["b"] is None
    as_it_is = set_value(before, ("a", "b"), "1 # 2", "--set", as_text=True)
    assert as_it_is.values["a"]["b"] == "1 # 2"
    assert before.values == tree().values


def test_a_value_that_was_set_has_the_option_as_its_place() -> None:
    changed = set_value(tree(), ("a", "b"), "2", "--set a.b=2")
    assert str(changed.place(("a", "b"))) == "--set a.b=2"
    assert str(changed.place(("a", "c"))) == "c.yaml:1"
    fresh = set_value(tree(), ("x", "y"), "2", "--set x.y=2")
    assert str(fresh.place(("x",))) == "--set x.y=2"  # there is no line in the file for it


@pytest.mark.parametrize(
    ("loc", "text", "line"),
    [
        (("a", "b"), "[1", "--set: '[1' is not a YAML value"),
        (("a", "b"), "[" * 1000, "is not a YAML value"),
        (("a", "b"), "!!python/name:os.system", "is not allowed"),
        (("a", "b", "x"), "1", "--set: a.b is a value and has no keys"),
    ],
)
def test_a_set_that_cannot_be_read_is_one_line(loc: tuple[str, ...], text: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        set_value(tree(), loc, text, "--set")
    assert line in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["1e-3", "010", "0o7", "no", "yes", "null", "~", ".inf", "", "1:2"]
)
def test_dump_quotes_text_that_looks_like_something_else(text: str) -> None:
    assert parse(dump({"root": text}), "c.yaml").values == {"root": text}


plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values: st.SearchStrategy[Any] = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text(), values, min_size=1))
def test_what_is_dumped_is_read_as_the_same(given_values: dict[str, Any]) -> None:
    assert parse(dump(given_values), "c.yaml").values == given_values


def test_a_missing_space_after_a_colon_is_told() -> None:
    with pytest.raises(UserError, match=r"found a single value \(a colon needs a space after it\)"):
        parse("name:SimpleModel", "a.yaml")
