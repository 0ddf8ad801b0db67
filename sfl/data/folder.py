"""A data set from a folder of images: train/<class>/* and test/<class>/*.

Decoded once, then kept in one safetensors file that is named by the SHA-256 of everything it was
made from, so that it can't be stale. Knows nothing of batches or models.

What counts as an image: every file directly in a class folder whose suffix is one that Pillow
reads (.png, .jpg, .webp, .bmp, .tiff, .ppm, ...); such a file must decode. Other files (notes.txt,
Thumbs.db) are passed over, and the first is named. Hidden files and folders don't count at all.
A folder inside a class folder is an error: what lies there would be lost unnoticed.
"""

import contextlib
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from sfl.data.dataset import Dataset, Split
from sfl.data.decoding import decode_all, digest, image_suffixes, unreadable
from sfl.errors import Exit, UserError
from sfl.files import atomic_path, one_at_a_time
from sfl.progress import say, track

FORMAT = "sfl folder cache 1"  # change it when the same files would give other tensors
KEPT_CACHES = 4  # in one cache folder: enough to go to and fro between a few sizes
LAYOUT = "data.root is the folder that holds train/<class>/* and test/<class>/*"


@dataclass(frozen=True)
class Listing:
    """Which files make up a data set: those of train first, then those of test."""

    root: Path
    classes: tuple[str, ...]
    paths: list[Path]
    labels: list[int]
    train_count: int


def load_folder(root: Path, resize: int | None = None) -> Dataset:
    """Reads `root`, from the cache if these very files were read before.

    Classes are the names of the folders, sorted. Without `resize` all images must have one size;
    with it each is scaled to resize x resize pixels (bilinear, antialiased, aspect not kept).

    Raises UserError (exit 3): no root, train or test; a class without images, or in only one of
    the two; a file that can't be read; images of different sizes. (Exit 6): too large for memory.
    """
    listing = _list_images(root)
    digests = [digest(path) for path in track(listing.paths, "Checking the images")]
    key = _key(listing, digests, resize)
    with one_at_a_time(_lock_path(root)):
        dataset = _read_cache(listing, key)
        if dataset is None:
            images = decode_all(listing.paths, digests, resize)
            dataset = _dataset(listing, images)
            _write_cache(images, dataset.fingerprints, root, key)
    return dataset


def _dataset(listing: Listing, images: Tensor) -> Dataset:
    labels, cut = torch.tensor(listing.labels), listing.train_count
    train, test = Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:])
    return Dataset("folder", listing.classes, train, test)


# --- which files


def _list_images(root: Path) -> Listing:
    folders = [_class_folders(root, name) for name in ("train", "test")]
    classes = _common_classes(root, *(tuple(f.name for f in split) for split in folders))
    suffixes, passed_over = image_suffixes(), list[Path]()
    paths, labels, counts = list[Path](), list[int](), list[int]()
    for split in folders:
        for label, folder in enumerate(split):
            found = _images_in(folder, suffixes, passed_over)
            paths += found
            labels += [label] * len(found)
        counts.append(len(paths))
    if passed_over:
        others = f" and {len(passed_over) - 1} more" if len(passed_over) > 1 else ""
        say(f"passed over, being no image by its suffix: {passed_over[0]}{others}")
    return Listing(root, classes, paths, labels, counts[0])


def _class_folders(root: Path, split: str) -> list[Path]:
    for folder in (root, root / split):
        if not folder.is_dir():
            what = "is not a folder" if folder.exists() else "does not exist"
            raise UserError(f"{folder} {what}", LAYOUT, Exit.DATA)
    folders = [path for path in _visible(root / split) if path.is_dir()]
    if not folders:
        raise UserError(f"{root / split} has no class folders in it", LAYOUT, Exit.DATA)
    return folders


def _common_classes(root: Path, train: tuple[str, ...], test: tuple[str, ...]) -> tuple[str, ...]:
    alone = {"train": set(train) - set(test), "test": set(test) - set(train)}
    differences = [f"only in {name}: {', '.join(sorted(c))}" for name, c in alone.items() if c]
    if differences:
        raise UserError(
            f"{root}: train and test have different classes; {'; '.join(differences)}",
            "give both the same class folders",
            Exit.DATA,
        )
    return train


def _images_in(folder: Path, suffixes: set[str], passed_over: list[Path]) -> list[Path]:
    """The images of one class, sorted by name; what else lies there goes to `passed_over`."""
    found: list[Path] = []
    for path in _visible(folder):
        if path.is_dir():
            message = f"{path} is a folder inside a class folder"
            raise UserError(message, f"move it elsewhere; {LAYOUT}", Exit.DATA)
        if path.exists() and not path.is_file():  # a pipe or a device: reading might never end
            raise UserError(f"{path} is no file", "remove it", Exit.DATA)
        (found if path.suffix.lower() in suffixes else passed_over).append(path)
    if not found:
        raise UserError(f"{folder} has no images in it", "add some, or remove it", Exit.DATA)
    return found


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise unreadable(folder, error) from error


# --- what identifies them


def _key(listing: Listing, digests: list[bytes], resize: int | None) -> str:
    """SHA-256 over all that the decoded tensors depend on."""
    total = hashlib.sha256(f"{FORMAT}\0{resize}\0".encode())
    for path, known in zip(listing.paths, digests, strict=True):
        # A file name has no zero byte and a digest has a fixed length, so nothing can run together.
        total.update(os.fsencode(path.relative_to(listing.root).as_posix()) + b"\0" + known)
    return total.hexdigest()


# --- the cache


def _cache_folders(root: Path) -> list[Path]:
    """Beside the images, so that it goes when they go; where that can't be written, the user's."""
    folders = [root / ".sfl-cache"]
    with contextlib.suppress(RuntimeError):  # not every user has a home folder
        user = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        folders.append(Path(user) / "sfl")
    return folders


def _lock_path(root: Path) -> Path:
    """Where the cache will be, or beside it: one process decodes for all that would read it."""
    if os.access(root, os.W_OK):
        return root / ".sfl.lock"
    folder = _cache_folders(root)[-1]
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder / ".sfl.lock"


def _read_cache(listing: Listing, key: str) -> Dataset | None:
    for folder in _cache_folders(listing.root):
        path = folder / f"{key}.safetensors"
        if path.is_file():
            dataset = _open_cache(listing, path)
            if dataset is not None:
                return dataset
            say(f"{path} is damaged or not readable; decoding the images again")
    return None


def _open_cache(listing: Listing, path: Path) -> Dataset | None:
    """The data set in a cache file, or None if it is not what was once written there."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            written, images = file.metadata(), file.get_tensor("images")
    except (OSError, SafetensorError):
        return None
    if images.dtype != torch.uint8 or images.dim() != 4:
        return None
    dataset = _dataset(listing, images)
    return dataset if dataset.fingerprints == written else None


def _write_cache(images: Tensor, fingerprints: dict[str, str], root: Path, key: str) -> None:
    """Keeps what was decoded. That it can't be kept is a pity, not an error."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    for folder in _cache_folders(root):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(folder / f"{key}.safetensors") as temporary:
                save_file({"images": images}, temporary, metadata=fingerprints)
        except (OSError, UserError, SafetensorError):
            continue
        _remove_old(folder)
        return
    say("the decoded images could not be cached: the next start decodes them again")


def _remove_old(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another process may be removing the same ones
        caches = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
        for path in caches[:-KEPT_CACHES]:
            path.unlink()
