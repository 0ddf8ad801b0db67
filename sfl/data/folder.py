"""A data set from a folder of images: train/<class>/* and test/<class>/*.

The decoded images are cached, see `sfl.data.cache`. Knows nothing of batches or models.

An image is a file directly in a class folder with a suffix that Pillow reads (.png, .jpg, .webp,
.bmp, .tiff, .ppm, ...). If it can't be decoded, that is an error. Other files (notes.txt,
Thumbs.db) are ignored, and a message names the first one. Hidden files and folders are ignored
silently. A folder inside a class folder is an error, because its images would not be used.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfl.data import cache
from sfl.data.dataset import Dataset, Split
from sfl.data.decoding import decode_all, digest, image_suffixes, unreadable
from sfl.errors import Exit, UserError
from sfl.locks import one_at_a_time
from sfl.progress import say, track

FORMAT = "sfl folder cache 1"  # change it if the same files are decoded to other tensors
LAYOUT = "data.root must contain train/<class>/* and test/<class>/*"


@dataclass(frozen=True)
class Listing:
    """The files of a data set: first the training images, then the test images."""

    root: Path
    classes: tuple[str, ...]
    paths: list[Path]
    labels: list[int]
    train_count: int


def load_folder(root: Path, resize: int | None = None) -> Dataset:
    """Reads `root`, from the cache if the same files were read before.

    Classes are the names of the folders, sorted. Without `resize` all images must have one size;
    with it each is scaled to resize x resize pixels (bilinear, antialiased; the aspect ratio is not
    kept).

    Raises UserError (exit 3) if root, train or test is missing, a class has no images or is only in
    one of train and test, a file can't be read, or sizes differ, (exit 6) if the images do not fit
    into memory.
    """
    listing = _list_images(root)
    digests = [digest(path) for path in track(listing.paths, "Checking the images")]
    key = _key(listing, digests, resize)
    with one_at_a_time(cache.lock_path(root)):
        dataset = cache.read(root, key, lambda images: _dataset(listing, images))
        if dataset is None:
            images = decode_all(listing.paths, digests, resize)
            dataset = _dataset(listing, images)
            cache.write(images, dataset.fingerprints, root, key)
    return dataset


def _dataset(listing: Listing, images: Tensor) -> Dataset:
    labels, cut = torch.tensor(listing.labels), listing.train_count
    train, test = Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:])
    return Dataset("folder", listing.classes, train, test)


# --- listing the files


def _list_images(root: Path) -> Listing:
    folders = [_class_folders(root, name) for name in ("train", "test")]
    classes = _common_classes(root, *(tuple(f.name for f in split) for split in folders))
    suffixes, ignored = image_suffixes(), list[Path]()
    paths, labels, counts = list[Path](), list[int](), list[int]()
    for split in folders:
        for label, folder in enumerate(split):
            found = _images_in(folder, suffixes, ignored)
            paths += found
            labels += [label] * len(found)
        counts.append(len(paths))
    if ignored:
        others = f" and {len(ignored) - 1} more" if len(ignored) > 1 else ""
        say(f"ignored, because the suffix is not an image's: {ignored[0]}{others}")
    return Listing(root, classes, paths, labels, counts[0])


def _class_folders(root: Path, split: str) -> list[Path]:
    for folder in (root, root / split):
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise UserError(f"{folder} {what}", LAYOUT, Exit.DATA)
    folders = [path for path in _visible(root / split) if path.is_dir()]
    if not folders:
        raise UserError(f"{root / split} contains no class folders", LAYOUT, Exit.DATA)
    return folders


def _common_classes(root: Path, train: tuple[str, ...], test: tuple[str, ...]) -> tuple[str, ...]:
    alone = {"train": set(train) - set(test), "test": set(test) - set(train)}
    differences = [f"only in {name}: {', '.join(sorted(c))}" for name, c in alone.items() if c]
    if differences:
        raise UserError(
            f"{root}: train and test have different classes; {'; '.join(differences)}",
            "make the same class folders in both",
            Exit.DATA,
        )
    return train


def _images_in(folder: Path, suffixes: set[str], ignored: list[Path]) -> list[Path]:
    """The images of one class, sorted by name; adds the other files to `ignored`."""
    found: list[Path] = []
    for path in _visible(folder):
        if path.is_dir():
            message = f"{path} is a folder inside a class folder"
            raise UserError(message, f"move it elsewhere; {LAYOUT}", Exit.DATA)
        if path.exists() and not path.is_file():  # a pipe or a device: reading might never end
            raise UserError(f"{path} is not a regular file", "remove it", Exit.DATA)
        (found if path.suffix.lower() in suffixes else ignored).append(path)
    if not found:
        message = f"{folder} contains no images"
        raise UserError(message, "add some, or remove the folder", Exit.DATA)
    return found


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from error


# --- the cache


def _key(listing: Listing, digests: list[bytes], resize: int | None) -> str:
    """SHA-256 of everything that the decoded tensors depend on."""
    total = hashlib.sha256(f"{FORMAT}\0{resize}\0".encode())
    for path, known in zip(listing.paths, digests, strict=True):
        # A file name has no zero byte and a digest has a fixed length: no two lists give one text.
        total.update(os.fsencode(path.relative_to(listing.root).as_posix()) + b"\0" + known)
    return total.hexdigest()
