"""What a data set is made of: images per class, in two places, or of one colour.

Compares decoded pixels. Knows no files but their names.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations
from typing import Any, NamedTuple

from sfl.data.dataset import Dataset, Split


class _Place(NamedTuple):
    split: str
    number: int
    label: int


Pictures = list[list[_Place]]  # for each different picture, the places where it stands


def summary(dataset: Dataset, pictures: Pictures) -> dict[str, Any]:
    """What `sfl data` shows, as plain values; pictures: from `pictures_of`.

    per_class: for each class the number of images in each split. in_two_splits: for each pair of
    splits, how many pictures both have. in_two_classes: how many pictures. same_pictures: the names
    of each of those. of_one_colour: the names of such images.
    """
    splits = dataset.splits
    counts = {name: split.counts(len(dataset.classes)) for name, split in splits.items()}
    return {
        "source": dataset.source,
        "classes": list(dataset.classes),
        **{f"{name}_images": len(split) for name, split in splits.items()},
        "in_dimensions": list(dataset.in_dimensions),
        **{f"{name}_fingerprint": value for name, value in dataset.fingerprints.items()},
        "per_class": {
            name: {split: counts[split][label] for split in splits}
            for label, name in enumerate(dataset.classes)
        },
        "in_two_splits": {
            f"{one} and {other}": len(_in_both(pictures, one, other))
            for one, other in combinations(splits, 2)
        },
        "in_two_classes": len(_in_two_classes(pictures)),
        "same_pictures": [[_name(dataset, place) for place in p] for p in pictures if _apart(p)],
        "of_one_colour": [_name(dataset, place) for place in _of_one_colour(dataset)],
        **dataset.reading,
    }


def add_trained_on(described: dict[str, Any], train: Split) -> None:
    """Adds to a summary how many images, and of each class, a config with a subset trains on."""
    described["trained_on"] = len(train)
    counts = train.counts(len(described["classes"]))
    for counted, count in zip(described["per_class"].values(), counts, strict=True):
        counted["trained_on"] = count


def doubts(dataset: Dataset, pictures: Pictures) -> Iterator[str]:
    """A sentence on each thing that a user may not have wanted, with an example."""
    for one, other in combinations(dataset.splits, 2):
        if both := _in_both(pictures, one, other):
            example = [next(p for p in both[0] if p.split == split) for split in (one, other)]
            yield _said(dataset, len(both), f"in both {one} and {other}", example)
    if two := _in_two_classes(pictures):
        first, *others = two[0]
        example = [first, next(place for place in others if place.label != first.label)]
        yield _said(dataset, len(two), "in two classes", example)
    if single := _of_one_colour(dataset):
        yield _said(dataset, len(single), "of one colour", single[:1])


def pictures_of(dataset: Dataset) -> Pictures:
    """Compares all images, which takes about a second for each 100,000 of CIFAR-10's size."""
    found: dict[bytes, list[_Place]] = defaultdict(list)
    for name, split in dataset.splits.items():
        labels = split.labels.tolist()
        for number, pixels in enumerate(split.images.cpu().contiguous().numpy()):
            key = hashlib.sha256(pixels.data).digest()
            found[key].append(_Place(name, number, labels[number]))
    return list(found.values())


def _in_both(pictures: Pictures, one: str, other: str) -> Pictures:
    return [p for p in pictures if len(p) > 1 and {one, other} <= {place.split for place in p}]


def _in_two_classes(pictures: Pictures) -> Pictures:
    return [p for p in pictures if len({place.label for place in p}) > 1]


def _apart(picture: list[_Place]) -> bool:
    """Whether it stands in two splits or two classes."""
    return len({(place.split, place.label) for place in picture}) > 1


def _of_one_colour(dataset: Dataset) -> list[_Place]:
    found = []
    for name, split in dataset.splits.items():
        flat = split.images.flatten(2)
        if flat.numel():
            single = (flat.amin(2) == flat.amax(2)).all(1).nonzero().flatten().tolist()
            found += [_Place(name, number, int(split.labels[number])) for number in single]
    return found


def _said(dataset: Dataset, count: int, what: str, example: list[_Place]) -> str:
    names = [_name(dataset, place) for place in example]
    pictures = "1 picture is" if count == 1 else f"{count:,} pictures are"
    return f"{pictures} {what}, such as {' = '.join(names)}"


def _name(dataset: Dataset, place: _Place) -> str:
    files = dataset.splits[place.split].files
    return files[place.number] if files else f"{place.split} image {place.number}"
