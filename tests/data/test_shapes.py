"""The drawn objects: repeatable, balanced, in their place, and told apart by shape alone."""

from itertools import combinations

import pytest
import torch
from torch import Tensor

from sfl.data import shapes
from sfl.data.dataset import Dataset, Split
from sfl.data.shapes import draw_shapes


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return draw_shapes(train=2000, test=1000)


def pixels(split: Split) -> Tensor:
    return split.images.float() / 255


def nearest_class(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """Classifies features (N, F) by the nearest class mean, each feature at unit variance."""
    scale = train.std(dim=0)
    means = torch.stack([train[labels == label].mean(dim=0) for label in range(10)])
    return torch.cdist(test / scale, means / scale).argmin(dim=1)


def test_shape_and_type(dataset: Dataset) -> None:
    assert dataset.in_dimensions == (3, 32, 32) and dataset.source == "shapes"
    assert dataset.train.images.dtype == torch.uint8
    assert (len(dataset.train), len(dataset.test)) == (2000, 1000)
    assert len(dataset.classes) == len(set(dataset.classes)) == 10
    assert dataset.classes[:2] == ("disk", "ring")


def test_every_class_as_often_and_in_no_order(dataset: Dataset) -> None:
    for split in (dataset.train, dataset.test):
        assert split.labels.bincount().tolist() == [len(split) // 10] * 10
        assert not torch.equal(split.labels, split.labels.sort().values)
    assert draw_shapes(train=12, test=1).train.labels.bincount().tolist() == [2, 2] + [1] * 8


def test_same_seed_same_images_other_seed_other_images() -> None:
    torch.manual_seed(1)
    first = draw_shapes(train=100, test=20)
    torch.manual_seed(2)
    assert draw_shapes(train=100, test=20).fingerprints == first.fingerprints
    assert draw_shapes(train=100, test=20, seed=1).fingerprints != first.fingerprints
    assert draw_shapes(train=100, test=20, jitter=5).fingerprints != first.fingerprints


def test_these_are_the_images_that_results_were_measured_on(dataset: Dataset) -> None:
    """On every machine. If they are to change, the results of before can't be compared."""
    assert dataset.fingerprints["train"] == (
        "fe7891f1ff486ed02a4e483bc8a44d50d9a1570b963f956218d833773d377422"
    )


def test_train_and_test_are_streams_of_their_own(dataset: Dataset) -> None:
    for seed in (0, 1):
        drawn = draw_shapes(train=20, test=20, seed=seed)
        assert not torch.equal(drawn.train.images, drawn.test.images)
    larger = draw_shapes(train=100, test=1000)
    assert torch.equal(larger.test.images, dataset.test.images)
    one, other = (set(map(bytes, s.images.flatten(1).numpy())) for s in (larger.train, larger.test))
    assert not one & other


# --- where the objects are


def coverage(label: int, jitter: int, count: int = 200) -> Tensor:
    draw = shapes._Draw(torch.Generator().manual_seed(5))
    return shapes._objects(torch.full((count,), label), jitter, draw)


def middles(covered: Tensor) -> Tensor:
    """The centre of mass (N, 2) of each object, as row and column, 0 in the image's middle."""
    place = torch.arange(32) - 15.5
    mass = covered.sum((1, 2))
    rows, columns = covered.sum(2) @ place.double(), covered.sum(1) @ place.double()
    return torch.stack([rows, columns], dim=1) / mass[:, None]


@pytest.mark.parametrize("name", ["disk", "ring", "square", "frame", "plus", "cross", "stripes"])
def test_without_jitter_objects_are_centred(name: str) -> None:
    label = list(shapes.OBJECTS).index(name)
    assert middles(coverage(label, jitter=0)).abs().max() < 0.05


def test_jitter_is_the_largest_distance_in_pixels() -> None:
    found = middles(coverage(0, jitter=4))
    assert 3.8 < found.abs().max() < 4.05
    assert found.mean().abs() < 0.3  # in no direction more than in another


@pytest.mark.parametrize(("name", "area"), [("disk", 2.270), ("square", 2.25), ("ring", 1.759)])
def test_objects_have_the_size_that_their_outline_says(name: str, area: float) -> None:
    # disk π 0.85²; square 1.5²; ring π (0.9² - 0.5²); times a radius in RADIUS, in pixels
    found = coverage(list(shapes.OBJECTS).index(name), jitter=0).sum((1, 2))
    low, high = (area * radius**2 for radius in shapes.RADIUS)
    assert 0.98 * low < found.min() < 1.2 * low
    assert 0.8 * high < found.max() < 1.02 * high


def test_objects_are_told_apart_by_their_shape() -> None:
    """Of the same size and rotation, no two objects cover nearly the same pixels."""
    drawn = [coverage(label, jitter=0) for label in range(10)]  # the same draws for each
    for one, other in combinations(drawn, 2):
        common, either = torch.minimum(one, other), torch.maximum(one, other)
        assert (common.sum((1, 2)) / either.sum((1, 2))).max() < 0.9


# --- what says nothing


def test_the_mean_colour_says_nothing(dataset: Dataset) -> None:
    train, test = (pixels(s).mean((2, 3)) for s in (dataset.train, dataset.test))
    guessed = nearest_class(train, dataset.train.labels, test)
    accuracy = (guessed == dataset.test.labels).float().mean()
    assert accuracy < 0.14  # chance is 0.1, its standard deviation here 0.0095


def test_no_single_pixel_says_anything(dataset: Dataset) -> None:
    train, test = (pixels(s).flatten(1) for s in (dataset.train, dataset.test))
    guessed = nearest_class(train, dataset.train.labels, test)
    assert (guessed == dataset.test.labels).float().mean() < 0.14


def test_objects_are_as_often_darker_as_lighter_than_what_is_behind() -> None:
    centred = draw_shapes(train=1000, test=10, jitter=0).train
    disks = pixels(Split(centred.images[centred.labels == 0], centred.labels))
    inside, outside = disks[:, :, 13:19, 13:19].mean((1, 2, 3)), disks[:, :, :3].mean((1, 2, 3))
    difference = inside - outside
    assert 0.4 < (difference > 0).float().mean() < 0.6
    assert difference.abs().mean() > 0.25  # and an object can be seen
