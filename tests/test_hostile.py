"""Odd or hostile image folders and YAML files, made by chance: no bug, no traceback, nothing left.

What tests/test_corrupt.py does to files that SFL wrote, this does to what people bring.
"""

import io
import json
import os
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sfl.config.load import flat, load
from tests.conftest import TINY
from tests.conftest import call_sfl as sfl

EXAMPLES = 100
BEFORE = {HealthCheck.function_scoped_fixture, HealthCheck.too_slow}


# --- files as people have them


def _picture(mode: str, format_: str, size: tuple[int, int] = (8, 8), **options: object) -> bytes:
    written = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert(mode).save(written, format_, **options)
    return written.getvalue()


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    return _picture("RGB", "JPEG", (8, 4), exif=exif)


CONTENTS: dict[str, bytes] = {
    "colour": _picture("RGB", "PNG"),
    "photograph": _picture("RGB", "JPEG"),
    "grey": _picture("L", "PNG"),
    "two tones": _picture("1", "PNG"),
    "palette": _picture("P", "GIF"),
    "transparent": _picture("RGBA", "PNG"),
    "16 bits": _picture("I;16", "PNG"),
    "print colours": _picture("CMYK", "JPEG"),
    "floating": _picture("F", "TIFF"),
    "turned": _turned(),
    "another size": _picture("RGB", "PNG", (5, 11)),
    "one pixel": _picture("RGB", "PNG", (1, 1)),
    "cut off": _picture("RGB", "JPEG")[:-2],
    "half": _picture("RGB", "PNG")[:60],
    "empty": b"",
    "text": "groß, 猫\n".encode(),
    "zeros": bytes(100),
    "a huge size": _picture("RGB", "PNG")[:16] + b"\xff" * 8 + _picture("RGB", "PNG")[24:],
}
SUFFIXES = (".png", ".jpg", ".JPG", ".gif", ".tif", ".h5", ".mpg", ".txt", ".csv", "")
NAMES = st.one_of(
    st.sampled_from(
        ["cat", "dog #2", "a: b", "-rf", "~", "$HOME", "`id`", "'", '"', "é", "e\u0301", "猫", "🐈",
         "con", "a\nb", "%s", "{x}", "[red]", "*", "__MACOSX", "0", "null", "=1+1", " "]
    ),
    st.text(
        st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12
    ).filter(lambda name: name not in (".", "..")),
)  # fmt: skip
ODD_FILES = st.dictionaries(
    st.tuples(NAMES, st.sampled_from(SUFFIXES)).map("".join).filter(lambda n: n not in (".", "..")),
    st.sampled_from([*CONTENTS, "a folder", "a link to nothing", "a link in a circle", "a pipe"]),
    max_size=3,
)
GOOD_FILES = st.dictionaries(
    st.sampled_from(["1.png", "2 #.jpg", "猫.PNG", "-.bmp"]),
    st.sampled_from(["colour", "photograph", "grey", "transparent", "palette", "print colours"]),
    min_size=1,
)


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, dict[str, dict[str, str]]]:
    """Files by split and class: usable ones with a few odd things among them, or anything."""
    anything = draw(st.sampled_from([False, False, True]))
    odd = draw(st.sampled_from([st.just({}), ODD_FILES]))
    if anything:
        classes = st.dictionaries(NAMES, ODD_FILES, max_size=3)
        split = st.sampled_from(["train", "test", "val", "Train", ".git", "train.zip"])
        return draw(st.dictionaries(split, classes, max_size=4))
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    splits = ["train", "test", *draw(st.sampled_from([[], ["val"], ["valid"], ["notes"]]))]
    return {split: {name: draw(GOOD_FILES) | draw(odd) for name in names} for split in splits}


def _put(path: Path, content: str) -> None:
    if content == "a folder":
        path.mkdir()
    elif content == "a link to nothing":
        path.symlink_to(path.with_name("nothing here"))
    elif content == "a link in a circle":
        path.symlink_to(path.parent.parent)
    elif content == "a pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(CONTENTS[content])


def _lay_out(root: Path, splits: dict[str, dict[str, dict[str, str]]]) -> None:
    for split, classes in splits.items():
        for name, files in classes.items():
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for file, content in files.items():
                if not os.path.lexists(root / split / name / file):
                    _put(root / split / name / file, content)


def _there(folder: Path) -> set[str]:
    """What is in a folder, links not followed, without the decoded images that are kept there."""
    found = set()
    for parent, folders, files in os.walk(folder):
        found |= {os.path.join(parent, name) for name in (*folders, *files)}
    return {path for path in found if not path.endswith((".sfl-cache", ".safetensors"))}


def _in_words(*arguments: object) -> int:
    """Calls sfl; holds that it ends in words, and returns its exit code."""
    done = sfl(*arguments)
    assert done.returncode in (0, 2, 3, 4, 6), done.stderr
    assert "Traceback" not in done.stderr and "a bug of sfl" not in done.stderr, done.stderr
    assert bool(done.returncode) == ("error: " in done.stderr), done.stderr
    return done.returncode


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    monkeypatch.setenv("SFL_ENGINE", "reference")  # builds nothing
    (tmp_path / "tiny.yaml").write_text(TINY)
    return tmp_path


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=BEFORE)
@given(splits=layouts(), resize=st.sampled_from(["null", 8]), skip=st.booleans())
def test_any_folder_of_images(
    place: Path, splits: dict[str, dict[str, dict[str, str]]], resize: object, skip: bool
) -> None:
    with tempfile.TemporaryDirectory(dir=place) as folder:
        root = Path(folder)
        _lay_out(root, splits)
        before = _there(root)
        chosen = ["--config", "tiny.yaml", "--set", "data.source=folder", "--set"]
        chosen += [f"data.root={root}", "--set", f"data.resize={resize}"]
        described = sfl("data", *chosen, "--json")
        code = _in_words("data", *chosen)
        assert code == described.returncode
        if code == 0:
            assert described.stdout.isascii() and json.loads(described.stdout)["classes"]
            runs = root / "runs"
            if _in_words("train", *chosen, "--runs", runs, "--name", "it"):
                assert not runs.exists() or not list(runs.iterdir())
        assert {path for path in _there(root) if "/runs" not in path} == before


# --- configs as people write them

WORDS = [*sorted(flat(load("spatial").to_dict())), "model", "data", "extends", "modle", ""]
VALUES = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8),
        st.sampled_from(["spatial", "auto", "1e-3", "~", "*x", "&x 1", "!!python/object", "1_000"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from([w.split(".")[-1] for w in WORDS]), inner, max_size=4),
    ),
    max_leaves=8,
)  # fmt: skip


def _text(values: object, spoil: Callable[[bytes], bytes]) -> bytes:
    return spoil(json.dumps(values, ensure_ascii=False, default=str).encode(errors="replace"))


def _spoilt(seed: int) -> Callable[[bytes], bytes]:
    """A byte changed, a line doubled, a tab, another encoding, or nothing at all."""
    chance = random.Random(seed)

    def spoil(text: bytes) -> bytes:
        at = chance.randrange(len(text) + 1)
        return chance.choice([
            text, text, text[:at], text[:at] + b"\t" + text[at:], text + b"\n---\n" + text,
            b"\xef\xbb\xbf" + text, text.decode(errors="replace").encode("utf-16"),
            text[:at] + bytes([chance.randrange(256)]) + text[at + 1 :], b"<<: *a\n" + text,
        ])  # fmt: skip

    return spoil


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=BEFORE)
@given(
    settings_=st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=5),
    nested=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_any_config(place: Path, settings_: dict[str, object], nested: bool, seed: int) -> None:
    values: dict[str, object] = {"model": {"name": "SimpleModel"}, "data": {"source": "shapes"}}
    for key, value in settings_.items():
        section, _, name = key.partition(".")
        inner = values.get(section)
        if nested and isinstance(inner, dict):
            inner[name] = value
        else:
            values[key] = value
    path = place / "odd.yaml"
    path.write_bytes(_text(values, _spoilt(seed)))
    before = _there(place)
    _in_words("show", path)
    given = next(iter(settings_.items()), ("train.epochs", 1))
    _in_words("show", "tiny.yaml", "--set", f"{given[0]}={given[1]}")
    assert _there(place) == before
