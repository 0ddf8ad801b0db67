"""Folders like CIFAR-10-C: what is read, in which order, and what is refused in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfl.data.corrupted import Corrupted
from sfl.errors import Exit, UserError

SIZE, EACH = (3, 4, 5), 2  # two images of each severity
TEST = torch.tensor([2, 0])  # their classes


def write(folder: Path, **arrays: Any) -> Path:
    folder.mkdir(exist_ok=True)
    values = np.arange(5 * EACH, dtype=np.uint8)
    pixels = np.broadcast_to(values[:, None, None, None], (5 * EACH, 4, 5, 3)).copy()
    pixels[:, 0, 1, 2] = 99  # row 0, column 1, channel 2
    for name, array in {"labels": np.tile([0, 2], 5), "fog": pixels, **arrays}.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def test_severities_and_pixels_come_in_their_order(tmp_path: Path) -> None:
    found = Corrupted(write(tmp_path), SIZE, TEST)
    splits = list(found.splits("fog"))
    assert [split.images[:, 0, 0, 0].tolist() for split in splits] == [
        [0, 1], [2, 3], [4, 5], [6, 7], [8, 9]
    ]  # fmt: skip
    assert [split.labels.tolist() for split in splits] == [[0, 2]] * 5
    assert splits[0].images.shape == (EACH, *SIZE) and splits[0].images[0, 2, 0, 1] == 99


def test_the_benchmarks_extra_corruptions_are_not_in_the_mean(tmp_path: Path) -> None:
    pixels = np.zeros((5 * EACH, 4, 5, 3), np.uint8)
    found = Corrupted(write(tmp_path, spatter=pixels, snow=pixels), SIZE, TEST)
    assert found.names == ["fog", "snow", "spatter"] and found.in_the_mean == ["fog", "snow"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"fog": np.zeros((10, 4, 5, 3), np.float32)}, r"fog.npy: float32 \(10, 4, 5, 3\), exp"),
        ({"fog": np.zeros((10, 5, 4, 3), np.uint8)}, r"fog.npy: .*expected uint8 \(10, 4, 5, 3\)"),
        ({"labels": np.arange(15) % 3}, r"labels.npy: .*expected whole numbers, 5 × 2 of them"),
        ({"labels": np.tile([0, 1], 5)}, "labels.npy: .*expected 5 times the test images' classes"),
        (
            {"labels": np.array([0, 2] * 4 + [2, 0])},
            "labels.npy: .*the test images' classes, in one",
        ),
        ({"labels": np.array([{}] * 10)}, "labels.npy: not one array of numbers"),
        ({"labels": np.zeros((10, 1))}, "labels.npy: .*expected whole numbers"),
    ],
)
def test_other_arrays_are_refused(tmp_path: Path, arrays: Any, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        Corrupted(write(tmp_path, **arrays), SIZE, TEST)
    assert error.value.exit_code == Exit.DATA and "\n" not in str(error.value)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (write(tmp_path / "half") / "labels.npy").unlink()
    for path in write(tmp_path / "bare").glob("*.npy"):
        if path.name != "labels.npy":
            path.unlink()
    said = {"none": "no such folder", "half": "no labels.npy there", "bare": "no corruption there"}
    for name, message in said.items():
        with pytest.raises(UserError, match=message) as error:
            Corrupted(tmp_path / name, SIZE, TEST)
        assert error.value.exit_code == Exit.DATA
    (write(tmp_path / "broken") / "fog.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(UserError, match=r"fog\.npy: not one array"):
        Corrupted(tmp_path / "broken", SIZE, TEST)
    np.savez(tmp_path / "broken" / "a.npz", a=1)
    (tmp_path / "broken" / "a.npz").rename(tmp_path / "broken" / "fog.npy")
    (tmp_path / "broken" / "._fog.npy").write_bytes(b"\0\5\x16\7")  # as macOS leaves them
    with pytest.raises(UserError, match=r"/fog\.npy: not one array"):
        Corrupted(tmp_path / "broken", SIZE, TEST)
