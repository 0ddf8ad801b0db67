"""The forms in which people have CIFAR-10: the commands of docs/data.md on made-up files."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sfl.data.sources import load_dataset

PAGE = Path(__file__).parent.parent.parent / "docs" / "data.md"
KAGGLE, HUGGING_FACE, KERAS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    return tmp_path


def picture(value: int) -> Image.Image:
    return Image.fromarray(np.full((32, 32, 3), value, np.uint8))


def check(root: Path, train: list[int], test: list[int]) -> None:
    dataset = load_dataset("folder", root=root)
    assert dataset.classes == ("airplane", "truck")
    assert dataset.train.images[:, 0, 0, 0].tolist() == train
    assert dataset.test.images[:, 0, 0, 0].tolist() == test


def test_kaggles_form(here: Path) -> None:
    (here / "train").mkdir()
    labels = ["airplane", "truck", "airplane", "truck"]
    with open("trainLabels.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label"])
        writer.writerows(enumerate(labels, 1))
    for number in range(1, 5):
        picture(number).save(here / "train" / f"{number}.png")
    exec(KAGGLE.replace("40_000", "2"), {})
    check(here / "images", [1, 2], [3, 4])


def test_hugging_faces_form(here: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow isn't installed")
    parquet = pytest.importorskip("pyarrow.parquet")
    (here / "plain_text").mkdir()
    for split, values in (("train", (1, 2)), ("test", (3, 4))):
        rows = []
        for value, label in zip(values, (0, 9), strict=True):
            written = io.BytesIO()
            picture(value).save(written, "PNG")
            rows.append({"img": {"bytes": written.getvalue(), "path": None}, "label": label})
        table = pyarrow.Table.from_pylist(rows)
        parquet.write_table(table, here / "plain_text" / f"{split}-00000-of-00001.parquet")
    exec(HUGGING_FACE, {})
    check(here / "images", [1, 2], [3, 4])


def test_keras_arrays(here: Path) -> None:
    arrays: dict[str, Any] = {
        f"x_{split}": np.stack([np.asarray(picture(value)) for value in values])
        for split, values in (("train", (1, 2)), ("test", (3, 4)))
    }
    arrays |= {f"y_{split}": np.array([[0], [9]]) for split in ("train", "test")}
    np.savez("cifar10.npz", **arrays)
    exec(KERAS, {})
    check(here / "images", [1, 2], [3, 4])
