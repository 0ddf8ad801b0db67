"""Files cut off anywhere, with one byte changed, or of another kind: one line, the right exit code.

Every reader of every file that SFL keeps or is given, through the command line.
"""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from sfl.config.load import load
from tests.conftest import TINY
from tests.conftest import call_sfl as sfl

EXAMPLES = 8


class Run:
    """A pickle of it runs a command as it is opened."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch opened-a-pickle",)


OTHERS = {
    "empty": b"",
    "a page of HTML": b"<!DOCTYPE html>\n<html><head><title>404: not found</title></head></html>\n",
    "another program's file": b"PK\x03\x04\x14\x00\x00\x00\x08\x00" + bytes(range(256)),
    "a pickle that runs code": pickle.dumps(Run()),
}


@pytest.fixture
def place(tmp_path: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a config, two finished runs, one stopped after its checkpoint, and images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    (tmp_path / "tiny.yaml").write_text(TINY)
    (tmp_path / "other.yaml").write_text(TINY.replace("SimpleModel", "SimpleModel, layer: conv"))
    for name in ("tiny-s0", "other-s0", "stopped"):
        shutil.copytree(trained, tmp_path / "checkpoints" / name)
    other = load("other.yaml").to_yaml(share=True)
    (tmp_path / "checkpoints" / "other-s0" / "config.yaml").write_text(other)
    for name in ("result.json", "predictions.npy"):
        (tmp_path / "checkpoints" / "stopped" / name).unlink()
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            path = tmp_path / "images" / split / name / f"{name}.png"
            path.parent.mkdir(parents=True)
            Image.radial_gradient("L").resize((16, 16)).save(path)
            Image.radial_gradient("L").resize((16, 16)).convert("RGB").save(
                path.with_suffix(".jpg")
            )
    return tmp_path


IMAGES = ("data", "--set", "data.source=folder", "--set", "data.root=images")
# A file, a command that reads it, and what that may exit with; 0: it didn't matter, or was no worse
# than another file of its kind.
READERS: list[tuple[str, tuple[str, ...], set[int]]] = [
    ("tiny.yaml", ("train", "--config", "tiny.yaml", "--dry-run"), {0, 2}),
    ("checkpoints/tiny-s0/config.yaml", ("runs",), {0}),
    ("checkpoints/tiny-s0/config.yaml", ("show", "tiny-s0"), {0, 4}),
    ("checkpoints/tiny-s0/config.yaml", ("evaluate", "tiny-s0"), {0}),  # the weights have their own
    ("checkpoints/stopped/config.yaml", ("train", "--resume", "stopped"), {0, 2, 4}),
    ("checkpoints/tiny-s0/result.json", ("runs",), {0}),
    ("checkpoints/tiny-s0/result.json", ("train", "--resume", "tiny-s0"), {0, 4}),
    (
        "checkpoints/tiny-s0/result.json",
        ("compare", "tiny.yaml", "other.yaml", "--no-train"),
        {0, 3, 4},
    ),
    ("checkpoints/tiny-s0/metrics.jsonl", ("runs",), {0}),
    ("checkpoints/stopped/metrics.jsonl", ("train", "--resume", "stopped"), {0}),  # made anew
    ("checkpoints/tiny-s0/environment.json", ("runs",), {0}),
    ("checkpoints/stopped/environment.json", ("train", "--resume", "stopped"), {0, 4}),
    ("checkpoints/tiny-s0/best.safetensors", ("evaluate", "tiny-s0"), {4}),
    ("checkpoints/tiny-s0/best.safetensors", ("show", "tiny-s0"), {0, 4}),
    ("checkpoints/stopped/last.safetensors", ("train", "--resume", "stopped"), {4}),
    ("images/train/cat/cat.png", IMAGES, {0, 3}),
    ("images/test/dog/dog.jpg", IMAGES, {0, 3}),
]
read = pytest.mark.parametrize(
    ("name", "command", "codes"), READERS, ids=[f"{n} by {c[0]}" for n, c, _ in READERS]
)


def expect_one_line(done: "CompletedProcess[str]", codes: set[int]) -> None:
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode in codes, (done.returncode, done.stderr)
    assert "Traceback" not in done.stderr and "a bug of sfl" not in done.stderr
    # A config names each of its mistakes; whatever else is wrong is one line, and the last.
    assert len(errors) == (done.returncode != 0)
    told = done.stderr.partition("error: ")[2].splitlines()
    assert all(".yaml:" in line for line in told[1:]), told
    assert not Path("opened-a-pickle").exists()


def anywhere(test: Callable[..., None]) -> Callable[..., None]:
    """Runs it with places in a file (0: the first byte) and changes, see `damaged`."""
    places = given(where=st.floats(0, 1, exclude_max=True), change=st.integers(0, 255))
    fixtures = [HealthCheck.function_scoped_fixture]
    return settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=fixtures)(
        places(test)
    )


def damaged(content: bytes, where: float, change: int) -> bytes:
    """change: what a byte is XORed with; 0: the file ends there."""
    at = int(where * len(content))
    return content[:at] + (bytes([content[at] ^ change]) + content[at + 1 :] if change else b"")


@read
@pytest.mark.parametrize("content", OTHERS.values(), ids=OTHERS)
def test_another_file_in_its_place(
    name: str, command: tuple[str, ...], codes: set[int], content: bytes, place: Path
) -> None:
    (place / name).write_bytes(content)
    expect_one_line(sfl(*command), codes)


@read
@anywhere
def test_cut_off_or_changed_anywhere(
    name: str, command: tuple[str, ...], codes: set[int], where: float, change: int, place: Path
) -> None:
    kept = place / "kept"
    if not kept.exists():
        shutil.copytree(place, kept, ignore=shutil.ignore_patterns("kept"))
    for folder in ("checkpoints", "images"):  # as they were before the last example
        shutil.rmtree(place / folder)
        shutil.copytree(kept / folder, place / folder)
    (place / name).write_bytes(damaged((kept / name).read_bytes(), where, change))
    expect_one_line(sfl(*command), codes)


def test_a_config_that_lost_its_end_fetches_no_images(place: Path) -> None:
    """What is left of it is a whole config: of a run on CIFAR-10."""
    config = place / "checkpoints" / "stopped" / "config.yaml"
    text = config.read_text()
    config.write_text(text[: text.index("data:")])
    done = sfl("train", "--resume", "stopped")
    assert done.returncode == 4
    assert (
        f"{config.relative_to(place)}: not the settings with which the run was started"
        in done.stderr
    )


def test_an_environment_that_says_something_else(place: Path) -> None:
    run = place / "checkpoints" / "tiny-s0"
    told = json.loads((run / "environment.json").read_text()) | {"resumed": 5, "threads": 99}
    (run / "environment.json").write_text(json.dumps(told))
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.name != ".lock"}
    expect_one_line(sfl("train", "--resume", "tiny-s0", "--set", "train.epochs=2"), {4})
    assert before == {p.name: p.read_bytes() for p in run.iterdir() if p.name != ".lock"}


@anywhere
def test_a_damaged_cache_of_images_changes_nothing(where: float, change: int, place: Path) -> None:
    right = sfl(*IMAGES, "--json")
    (cache,) = (place / "images" / ".sfl-cache").glob("*.safetensors")
    cache.write_bytes(damaged(cache.read_bytes(), where, change))
    again = sfl(*IMAGES, "--json")
    expect_one_line(again, {0})
    assert again.stdout == right.stdout
    assert "decoding the images again" in again.stderr
