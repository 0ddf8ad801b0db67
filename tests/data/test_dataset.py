"""What a data set is: fingerprints that follow the content, a fixed and balanced hold-out."""

from pathlib import Path

import pytest
import torch

from sfl.data.dataset import Dataset, Split, _quotas, hold_out, subset
from sfl.data.sources import load_dataset
from sfl.errors import Exit, UserError


def make_split(labels: list[int]) -> Split:
    """Image i is filled with the value i."""
    images = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None]
    return Split(images.expand(-1, 3, 2, 4).contiguous(), torch.tensor(labels))


def make_dataset(train: Split) -> Dataset:
    return Dataset("folder", ("a", "b"), train, make_split([0, 1]))


def places(split: Split) -> list[int]:
    return split.images[:, 0, 0, 0].tolist()


def test_split_and_dataset_say_how_large_they_are() -> None:
    dataset = make_dataset(make_split([0, 1, 0]))
    assert (len(dataset.train), len(dataset.test)) == (3, 2)
    assert dataset.in_dimensions == (3, 2, 4)
    moved = dataset.train.to(torch.device("meta"))
    assert moved.images.is_meta and moved.labels.is_meta


def test_the_fingerprint_is_sha256_of_shape_pixels_and_labels() -> None:
    split = Split(torch.tensor([[[[5]]]], dtype=torch.uint8), torch.tensor([3]))
    # printf '(1, 1, 1, 1)\5\3\0\0\0\0\0\0\0' | sha256sum
    assert make_dataset(split).fingerprints["train"] == (
        "b5cd98ad80671ea5fc1f143a279f80d153745068194fc3524d727632450389ad"
    )


def test_the_fingerprint_changes_with_whatever_changes() -> None:
    labels = [0, 1, 0, 1]
    split = make_split(labels)
    pixel = split.images.clone()
    pixel[3, 2, 1, 3] += 1
    variants = [
        split,
        Split(pixel, split.labels),
        Split(split.images, split.labels.flip(0)),
        Split(split.images.view(4, 3, 4, 2), split.labels),
        Split(split.images[:3], split.labels[:3]),
    ]
    assert len({make_dataset(variant).fingerprints["train"] for variant in variants}) == 5
    strided = Split(split.images.mT.contiguous().mT, split.labels)  # same content, other memory
    assert make_dataset(strided).fingerprints == make_dataset(split).fingerprints


def test_hold_out_is_balanced_complete_and_in_order() -> None:
    split = make_split([0, 1, 2] * 20)
    rest, held = hold_out(split, 8, "abc")
    assert held.labels.bincount().tolist() == [3, 3, 2]
    assert (len(rest), len(held)) == (52, 8)
    assert sorted(places(rest) + places(held)) == list(range(60))
    for part in (rest, held):
        assert places(part) == sorted(places(part))
        assert part.labels.tolist() == [place % 3 for place in places(part)]
    assert places(held) != list(range(8))  # not simply the first ones


def test_hold_out_takes_the_same_images_whatever_the_global_seed() -> None:
    split = make_split([0, 1] * 30)
    torch.manual_seed(1)
    first, state = places(hold_out(split, 10, "ab")[1]), torch.get_rng_state()
    torch.manual_seed(2)
    assert places(hold_out(split, 10, "ab")[1]) == first
    torch.manual_seed(1)
    assert torch.equal(state, torch.get_rng_state())  # nor does it touch the global generator


def test_hold_out_of_nothing_leaves_everything() -> None:
    rest, held = hold_out(make_split([0, 1, 1]), 0, "ab")
    assert (places(rest), len(held)) == ([0, 1, 2], 0)


@pytest.mark.parametrize(("count", "labels"), [(4, [0, 0, 1, 1]), (4, [0, 0, 0, 1]), (99, [0, 1])])
def test_hold_out_leaves_every_class_something_to_train_on(count: int, labels: list[int]) -> None:
    with pytest.raises(
        UserError, match=rf"data\.validation: {count} of .* as cat, which"
    ) as caught:
        hold_out(make_split(labels), count, ["dog", "cat"] if labels[1:] != [1] else ["cat", "dog"])
    assert caught.value.exit_code == Exit.USAGE


@pytest.mark.parametrize(
    ("sizes", "count", "expected"),
    [
        ([95, 5], 20, [19, 1]),
        ([95, 5], 8, [7, 1]),  # its share, 0.4, is raised to one
        ([95, 5], 1, [1, 0]),
        ([50, 50, 50], 8, [3, 3, 2]),
        ([3, 1], 2, [2, 0]),  # the only image of a class stays
        ([2, 2, 96], 3, [1, 1, 1]),
        ([10, 20, 30], 59, [9, 19, 29]),  # too few: hold_out refuses
        ([0, 4], 3, [0, 3]),
    ],
)
def test_hold_out_takes_of_each_class_its_share(
    sizes: list[int], count: int, expected: list[int]
) -> None:
    assert _quotas(sizes, count) == expected


def test_hold_out_of_equal_classes_takes_what_it_always_took() -> None:
    """As committed results were trained: the places that version 0.1.0 chose."""
    held = hold_out(make_split([0, 1, 2] * 8), 7, "abc")[1]
    assert places(held) == [3, 11, 14, 15, 19, 21, 22]


def test_load_dataset_knows_its_sources(tmp_path: Path) -> None:
    dataset = load_dataset("shapes", root=tmp_path, shapes={"train": 20, "test": 10, "jitter": 0})
    assert (dataset.source, len(dataset.train), len(dataset.test)) == ("shapes", 20, 10)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="'imagenet' is unknown"):
        load_dataset("imagenet", root=tmp_path)


def test_subsets_are_nested_balanced_and_in_order() -> None:
    split = make_split([0, 1, 2] * 20 + [0] * 6)
    before: set[int] = set()
    for count in (3, 4, 10, 33, 60, 66):
        chosen = places(subset(split, count, "abc"))
        assert len(chosen) == count and chosen == sorted(chosen) and before <= set(chosen)
        before = set(chosen)
        counts = subset(split, count, "abc").counts(3)
        shares = [count * size / 66 for size in (26, 20, 20)]
        assert all(abs(n - share) <= 1 for n, share in zip(counts, shares, strict=True))
    assert places(subset(split, 4, "abc")) == places(subset(split, 4, "abc"))
    assert places(subset(split, 33, "abc")) != list(range(33))


def test_subsets_are_those_that_committed_results_were_trained_on() -> None:
    chosen = subset(make_split([0, 1, 2] * 8), 7, "abc")
    assert places(chosen) == [0, 2, 3, 5, 9, 16, 22]


@pytest.mark.parametrize("count", [1, 7])
def test_a_subset_without_a_class_or_larger_than_the_data_is_refused(count: int) -> None:
    message = f"data.train_images: {count}, but there are 6 of 2 classes"
    with pytest.raises(UserError, match=message) as error:
        subset(make_split([0, 1] * 3), count, ("a", "b"))
    assert error.value.exit_code == Exit.USAGE and error.value.hint == "give 2 to 6"
