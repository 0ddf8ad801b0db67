"""`sfl predict` and `sfl evaluate --csv`: a line per image, from a run that was really trained."""

import csv
import io
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import call_sfl as sfl

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two colours, and a run that tells them apart."""
    place = tmp_path_factory.mktemp("predict")
    for split in ("train", "test"):
        for name, colour in COLOURS.items():
            for number in range(8):
                path = place / "images" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (8, 6), colour).save(path)
    (place / "c.yaml").write_text(
        "model: {name: SimpleModel, channels: [4], layer: spatial}\n"
        f"data: {{source: folder, root: {place / 'images'}, augment: {{crop_padding: 0}}}}\n"
        "train: {epochs: 8, device: cpu, precision: float32}\n"
        "optimizer: {lr: 0.01}\n"
    )
    done = sfl("train", "--config", place / "c.yaml", "--runs", place / "runs", "--name", "it")
    assert done.returncode == 0, done.stderr
    return place


def weights(place: Path) -> Path:
    return place / "runs" / "it" / "best.safetensors"


def test_files_and_folders_are_predicted_without_the_training_images(
    place: Path, tmp_path: Path
) -> None:
    shutil.copy(weights(place), tmp_path / "w.safetensors")
    photos = tmp_path / "photos" / "more"
    photos.mkdir(parents=True)
    Image.new("RGB", (20, 10), COLOURS["red"]).save(photos / "a.png")
    Image.new("RGB", (8, 6), COLOURS["blue"]).save(tmp_path / "=b.png")
    (photos / "notes.txt").touch()
    (tmp_path / "photos" / "__MACOSX").mkdir()
    (tmp_path / "photos" / "__MACOSX" / "a.png").write_bytes(b"no picture")
    arguments = ("predict", tmp_path / "w.safetensors", tmp_path / "photos", tmp_path / "=b.png")
    done = sfl(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    answers = {Path(row["file"]).name: row["prediction"] for row in found["predictions"]}
    assert answers == {"a.png": "red", "=b.png": "blue"}
    assert all(0.5 < row["confidence"] <= 1 for row in found["predictions"])
    assert "1 of 2 images were scaled to 8x6" in done.stderr
    assert "passed over, because the suffix is not an image's" in done.stderr
    table = sfl(*arguments).stdout
    assert "predicted class" in table and "photos/more/a.png" in table
    rows = list(csv.DictReader(io.StringIO(sfl(*arguments, "--csv").stdout)))
    assert [row["prediction"] for row in rows] == ["red", "blue"]


def test_a_broken_file_is_named_and_the_others_are_predicted(place: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    Image.new("RGB", (8, 8), COLOURS["red"]).save(tmp_path / "good.png")
    done = sfl("predict", weights(place), tmp_path, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 3
    assert [Path(row["file"]).name for row in found["predictions"]] == ["good.png"]
    assert [Path(row["file"]).name for row in found["unreadable"]] == ["broken.png"]
    assert "broken.png can't be read" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: 1 of 2 files could not be read")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nothing.png"], 3, "nothing.png can't be read: No such file"),
        (["empty"], 3, "empty: no images there"),
        (["x.png", "--json", "--csv"], 2, "only one of them"),
        (
            ["x.png", "--set", "data.normalize={mean: [0.5], std: [0.5]}"],
            2,
            "1 channels given, the images have 3",
        ),
    ],
)
def test_bad_input_of_predict(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str],
    code: int, words: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    done = sfl("predict", weights(place), *arguments)
    assert done.returncode == code and words in done.stderr


def test_evaluate_has_a_line_per_test_image(place: Path) -> None:
    wrong = place / "images" / "test" / "red" / "9.png"  # a blue one in the wrong folder
    Image.new("RGB", (8, 6), COLOURS["blue"]).save(wrong)
    root = f"data.root={place / 'images'}"
    done = sfl("evaluate", weights(place), "--set", root, "--csv")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == 17
    assert rows[0]["file"] == "test/blue/0.png" and rows[0]["class"] == "blue"
    assert [row["file"] for row in rows if row["correct"] == "0"] == ["test/red/9.png"]


def test_a_file_is_predicted_as_a_test_image_is_evaluated(place: Path) -> None:
    """In height and width, and normalised by the same mean and standard deviation."""
    scale = "data.normalize={mean: [0.1, 0.2, 0.3], std: [0.4, 0.5, 0.9]}"
    root, found = place / "images", []
    for command in (("evaluate",), ("predict", root / "test" / "blue")):
        name, *files = command
        settings = ["--set", scale, "--set", f"data.root={root}"]
        done = sfl(name, weights(place), *files, *settings, "--csv")
        assert done.returncode == 0, done.stderr
        rows = csv.DictReader(io.StringIO(done.stdout))
        found.append([row["confidence"] for row in rows if "blue/" in row["file"]])
    assert len(found[1]) == 8 and found[0] == found[1]
    plain = sfl("predict", weights(place), root / "test" / "blue", "--csv").stdout
    assert found[1][0] not in plain


def test_evaluate_needs_no_training_images(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "images" / "test", tmp_path / "images" / "test")
    done = sfl("evaluate", weights(place), "--set", f"data.root={tmp_path / 'images'}", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["n"] in (16, 17)


def test_images_without_files_are_numbered(trained: Path) -> None:
    done = sfl("evaluate", trained / "best.safetensors", "--csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["file"] for row in rows] == [str(number) for number in range(32)]
