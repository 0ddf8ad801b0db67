"""What a data set is made of: counted by hand."""

from typing import Any

import torch

from sfl.data import survey
from sfl.data.dataset import Dataset, Split


def split(values: list[tuple[int, int]], labels: list[int], *files: str) -> Split:
    """Images (3, 1, 2) of two pixels each."""
    images = torch.tensor(values, dtype=torch.uint8)[:, None, None].expand(-1, 3, 1, 2)
    return Split(images.contiguous(), torch.tensor(labels), files or None)


def summary(dataset: Dataset) -> dict[str, Any]:
    return survey.summary(dataset, survey.pictures_of(dataset))


def doubts(dataset: Dataset) -> list[str]:
    return list(survey.doubts(dataset, survey.pictures_of(dataset)))


CLEAN = Dataset("folder", ("cat", "dog"), split([(1, 2), (3, 4)], [0, 1]), split([(5, 6)], [0]))


def test_images_are_counted_by_class_and_split() -> None:
    told = summary(CLEAN)
    assert told["per_class"] == {"cat": {"train": 1, "test": 1}, "dog": {"train": 1, "test": 0}}
    assert (told["train_images"], told["test_images"]) == (2, 1)
    assert (told["in_two_splits"], told["in_two_classes"]) == ({"train and test": 0}, 0)
    assert (doubts(CLEAN)) == []


def test_pictures_in_two_splits_two_classes_or_of_one_colour() -> None:
    train = split([(1, 2), (3, 4), (1, 2), (7, 7)], [0, 1, 1, 0], *"abcd")
    validation = split([(3, 4)], [1], "v")
    test = split([(1, 2), (1, 2), (5, 6)], [0, 0, 1], *"xyz")
    dataset = Dataset("folder", ("cat", "dog"), train, test, validation)
    told = summary(dataset)
    assert told["in_two_splits"] == {
        "train and validation": 1,
        "train and test": 1,  # one picture, though it stands there twice
        "validation and test": 0,
    }
    assert (told["in_two_classes"], told["of_one_colour"]) == (1, ["d"])
    assert told["same_pictures"] == [["a", "c", "x", "y"], ["b", "v"]]
    assert (doubts(dataset)) == [
        "1 picture is in both train and validation, such as b = v",
        "1 picture is in both train and test, such as a = x",
        "1 picture is in two classes, such as a = c",
        "1 picture is of one colour, such as d",
    ]


def test_images_without_files_are_numbered() -> None:
    same = Dataset("shapes", ("cat",), split([(1, 2)], [0]), split([(3, 4), (1, 2)], [0, 0]))
    assert (doubts(same)) == [
        "1 picture is in both train and test, such as train image 0 = test image 1"
    ]
