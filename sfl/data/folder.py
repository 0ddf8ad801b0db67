"""A data set from a folder of images: train/<class>/*, test/<class>/* and, if there is one, val/.

The decoded images are cached, see `sfl.data.cache`; docs/data.md describes the rules for users.
Knows nothing of batches or models.

An image is a file directly in a class folder with a suffix of a format that Pillow decodes (.png,
.jpg, .webp, .bmp, .tiff, .ppm, ...). Other files (notes.txt, Thumbs.db) are passed over, and a
message names the first one. Hidden files and folders, and those of operating systems (__MACOSX),
are passed over silently. A folder inside a class folder is an error, because its images would not
be used.
"""

import hashlib
import json
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sfl.data import cache
from sfl.data.dataset import Dataset, Split
from sfl.data.decoding import Decoded, Unreadable, decode_all, digest, image_suffixes
from sfl.data.passed_over import NO_IMAGE, is_hidden, say_first
from sfl.errors import Exit, UserError
from sfl.locks import one_at_a_time
from sfl.progress import track
from sfl.units import listed

FORMAT = "sfl folder cache 2"  # change it if the same files are decoded to other tensors
LAYOUT = "data.root must contain train/<class>/* and test/<class>/*"
VALIDATION = ("val", "valid", "validation")


@dataclass
class Listing:
    """The files of a data set, split by split, and which are passed over."""

    root: Path
    classes: tuple[str, ...]
    splits: list[str] = field(default_factory=list)  # of each file, as are the next two
    labels: list[int] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)
    hidden: list[Path] = field(default_factory=list)

    def name(self, place: int) -> str:
        return self.paths[place].relative_to(self.root).as_posix()


def load_folder(
    root: Path, resize: int | None = None, *, skip_broken: bool = False, need_train: bool = True
) -> Dataset:
    """Reads `root`, from the cache if the same files were read before.

    Classes are the names of the folders, sorted. Without `resize` all images must have one size;
    with it each is scaled to resize x resize pixels (bilinear, antialiased; the aspect ratio is not
    kept). A folder val (or valid, validation) becomes the validation split.
    skip_broken: whether files that can't be decoded are left out.
    need_train: if not, and there is no train, then the training split is empty.

    Raises UserError (exit 3) if root or a split is missing, a class has no images or is not in all
    splits, files can't be read, or sizes differ, (exit 6) if the images do not fit into memory.
    """
    listing = _list_images(root, need_train)
    digests = [digest(path) for path in track(listing.paths, "Checking the images")]
    key = _key(listing, digests, resize, skip_broken)
    with one_at_a_time(cache.lock_path(root)):
        dataset = cache.read(root, key, lambda images, told: _cached(listing, images, told))
        if dataset is None:
            decoded = decode_all(listing.paths, digests, resize, skip_broken=skip_broken)
            reading = _reading(listing, decoded)
            dataset = _dataset(listing, decoded.images, reading)
            cache.write(decoded.images, _told(dataset, reading), root, key)
    _refuse_empty(listing, dataset.splits)
    _say(listing, dataset.reading)
    return dataset


def _reading(listing: Listing, decoded: Decoded) -> dict[str, Any]:
    """What was seen while the files were decoded, as plain values."""
    broken = {listing.name(place): error.reason for place, error in decoded.broken.items()}
    narrow = [listing.name(place) for place in decoded.narrow]
    return {"turned_upright": len(decoded.turned), "narrow_range": narrow, "skipped": broken}


def _told(dataset: Dataset, reading: dict[str, Any]) -> dict[str, str]:
    """What a cache tells of its images; of images and readings that are damaged, another thing."""
    text = json.dumps(reading)
    return {
        **dataset.fingerprints,
        "reading": text,
        "hash of reading": hashlib.sha256(text.encode()).hexdigest(),
    }


def _cached(listing: Listing, images: Tensor, told: dict[str, str]) -> Dataset | None:
    """The data set of cached images; None if they are not as they were written."""
    try:
        reading = json.loads(told["reading"])
        dataset = _dataset(listing, images, reading)
    except (ValueError, LookupError, TypeError, AttributeError):
        return None
    return dataset if _told(dataset, reading) == told else None


def _dataset(listing: Listing, images: Tensor, reading: dict[str, Any]) -> Dataset:
    """images: of the files that were not skipped, in their order."""
    files = [listing.name(place) for place in range(len(listing.paths))]
    kept = [place for place, file in enumerate(files) if file not in reading["skipped"]]
    if len(kept) != len(images):
        raise ValueError(f"{len(images)} images of {len(kept)} files")
    splits = {}
    for name in ("train", "validation", "test"):
        mine = [n for n, place in enumerate(kept) if listing.splits[place] == name]
        start, stop = (mine[0], mine[-1] + 1) if mine else (0, 0)  # they lie side by side
        labels = torch.tensor([listing.labels[kept[n]] for n in mine], dtype=torch.int64)
        splits[name] = Split(images[start:stop], labels, tuple(files[kept[n]] for n in mine))
    seen = {**reading, "passed_over": _passed_over(listing)}
    validation = splits["validation"] if "validation" in listing.splits else None
    return Dataset(
        "folder", listing.classes, splits["train"], splits["test"], validation, reading=seen
    )


def _refuse_empty(listing: Listing, splits: dict[str, Split]) -> None:
    """Raises UserError (exit 3) if leaving out broken files has emptied a class."""
    for name in dict.fromkeys(listing.splits):
        counts = splits[name].counts(len(listing.classes))
        if 0 in counts:
            empty = listing.classes[counts.index(0)]
            message = f"{listing.root}: none of the images of class {empty} in {name} can be read"
            raise UserError(message, "repair them", Exit.DATA)


def _passed_over(listing: Listing) -> dict[str, int]:
    """How many files in class folders are not read, by their suffix; and what is hidden."""
    counts = {"hidden": len(listing.hidden)} if listing.hidden else {}
    for path in listing.passed_over:
        suffix = path.suffix.lower() or "no suffix"
        counts[suffix] = counts.get(suffix, 0) + 1
    return counts


def _say(listing: Listing, reading: Mapping[str, Any]) -> None:
    """A line on each thing that may not be wanted."""
    told = {
        NO_IMAGE: listing.passed_over,
        "left out, because they can't be read (data.skip_broken)": list(reading["skipped"]),
        "nearly black, because their 16 bits hold values below 4,096 (scale them to 65,535)": list(
            reading["narrow_range"]
        ),
    }
    for what, files in told.items():
        say_first(what, files)


# --- listing the files


def _list_images(root: Path, need_train: bool) -> Listing:
    folders = _split_folders(root, need_train)
    hidden: list[Path] = []
    by_class = {name: _class_folders(folder, hidden) for name, folder in folders.items()}
    listing = Listing(root, _common_classes(root, by_class), hidden=hidden)
    suffixes = image_suffixes()
    for split, classes in by_class.items():
        for label, name in enumerate(listing.classes):
            found = _images_in(classes[_plain(name)], suffixes, listing)
            listing.paths += found
            listing.labels += [label] * len(found)
            listing.splits += [split] * len(found)
    return listing


def _split_folders(root: Path, need_train: bool) -> dict[str, Path]:
    """The folders of the splits, in the order train, validation, test."""
    folders = {"train": root / "train"}
    if not need_train and not folders["train"].exists():
        del folders["train"]
    for name in VALIDATION:
        _refuse_lost_link(root / name)
    others = [root / name for name in VALIDATION if (root / name).is_dir()]
    if len(others) > 1:
        message = f"{root} has {others[0].name} and {others[1].name}: two folders for validation"
        raise UserError(message, "leave one", Exit.DATA)
    if others and "train" in folders:
        folders["validation"] = others[0]
    folders["test"] = root / "test"
    for folder in (root, *folders.values()):
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            hint = LAYOUT
            if others and folder.name == "test":
                hint += f"; {others[0].name}, which is there, is for validation only: if nothing is"
                hint += " to be chosen by it, rename it to test"
            raise UserError(f"{folder} {what}", hint, Exit.DATA)
    return folders


def _class_folders(folder: Path, hidden: list[Path]) -> dict[str, Path]:
    """The folders of the classes by their names, as `_plain` writes them."""
    folders: dict[str, Path] = {}
    for path in _visible(folder, hidden):
        _refuse_lost_link(path)
        if not path.is_dir():
            continue
        if not path.name.isprintable():  # a class is named in files, tables and pictures
            message = f"{folder} has a folder whose name can't be shown: {path.name!a}"
            hint = "rename it, or set the locale that it was written in: LC_ALL=C.UTF-8"
            raise UserError(message, hint, Exit.DATA)
        if other := folders.get(_plain(path.name)):
            named = f"{other.name!a} and {path.name!a}"
            message = f"{folder} has two folders whose names look the same: {named}"
            raise UserError(message, "rename one, or put them together", Exit.DATA)
        folders[_plain(path.name)] = path
    if not folders:
        raise UserError(f"{folder} contains no class folders", LAYOUT, Exit.DATA)
    return folders


def _refuse_lost_link(path: Path) -> None:
    """Raises UserError (exit 3) for a link to what isn't there, as on a disk not mounted."""
    if path.is_symlink() and not path.exists():
        message = f"{path} is a link to {os.readlink(path)}, which isn't there"
        raise UserError(message, "mount its disk, or remove it", Exit.DATA)


def _plain(name: str) -> str:
    """One form of names that look the same: é may be one character or two (Unicode's NFC, NFD)."""
    return unicodedata.normalize("NFC", name)


def _common_classes(root: Path, by_class: dict[str, dict[str, Path]]) -> tuple[str, ...]:
    """The names of the classes, as the first split writes them."""
    every = set().union(*by_class.values())
    alone = {split: sorted(every - set(classes)) for split, classes in by_class.items()}
    missing = [f"not in {split}: {', '.join(names)}" for split, names in alone.items() if names]
    if missing:
        raise UserError(
            f"{root}: {listed(by_class)} have different classes; {'; '.join(missing)}",
            "make the same class folders in all of them",
            Exit.DATA,
        )
    return tuple(path.name for path in next(iter(by_class.values())).values())


def _images_in(folder: Path, suffixes: set[str], listing: Listing) -> list[Path]:
    """The images of one class, sorted by name; adds the other files to the listing."""
    found, others = list[Path](), list[Path]()
    for path in _visible(folder, listing.hidden):
        if path.is_dir():
            message = f"{path} is a folder inside a class folder"
            raise UserError(message, f"move it elsewhere; {LAYOUT}", Exit.DATA)
        if path.exists() and not path.is_file():  # a pipe or a device: reading might never end
            raise UserError(f"{path} is not a regular file", "remove it", Exit.DATA)
        (found if path.suffix.lower() in suffixes else others).append(path)
    if not found:
        hint = "add some, or remove the folder"
        if others:
            hint = (
                f"files without an image's suffix, such as .png or .jpg: {len(others):,}; "
                f"rename {others[0].name}, if it is an image"
            )
        raise UserError(f"{folder} contains no images", hint, Exit.DATA)
    listing.passed_over += others
    return found


def _visible(folder: Path, hidden: list[Path]) -> list[Path]:
    """What is in a folder, sorted; adds the rest to `hidden`."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise Unreadable(folder, error) from error
    visible = [path for path in paths if not is_hidden(path.name)]
    hidden += sorted({*paths} - {*visible})
    return visible


# --- the cache


def _key(listing: Listing, digests: Sequence[bytes], resize: int | None, skip_broken: bool) -> str:
    """SHA-256 of everything that the decoded tensors depend on."""
    total = hashlib.sha256(f"{FORMAT}\0{resize}\0{skip_broken}\0".encode())
    for path, known in zip(listing.paths, digests, strict=True):
        # A file name has no zero byte and a digest has a fixed length: no two lists give one text.
        total.update(os.fsencode(path.relative_to(listing.root).as_posix()) + b"\0" + known)
    return total.hexdigest()
