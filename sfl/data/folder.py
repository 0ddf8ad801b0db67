"""A data set from a folder of images: train/<class>/* and test/<class>/*.

Decoded once, then kept in one safetensors file that is named by the SHA-256 of everything it was
made from, so that it can't be stale. Knows nothing of batches or models.

What counts as an image: every file directly in a class folder whose suffix is one that Pillow
reads (.png, .jpg, .webp, .bmp, .tiff, .ppm, ...); such a file must decode. Other files (notes.txt,
Thumbs.db) are passed over, and the first is named. Hidden files and folders don't count at all.
A folder inside a class folder is an error: what lies there would be lost unnoticed.
Images become RGB: grey is repeated, what is transparent turns black, 16-bit grey keeps its upper
eight bits, of an animation the first frame is taken. EXIF orientation is not applied (nor is it
in torchvision's ImageFolder).
"""

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sfl.data.dataset import Dataset, Split
from sfl.display import say, track
from sfl.errors import Exit, UserError
from sfl.files import atomic_path

if TYPE_CHECKING:
    from PIL.Image import Image

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
    digests = [_digest(path) for path in track(listing.paths, "Checking the images")]
    key = _key(listing, digests, resize)
    dataset = _read_cache(listing, key)
    if dataset is None:
        images = _decode_all(listing, digests, resize)
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
    suffixes, passed_over = _image_suffixes(), list[Path]()
    paths, labels, counts = list[Path](), list[int](), list[int]()
    for split in folders:
        for label, folder in enumerate(split):
            found = _images_in(folder, suffixes, passed_over)
            paths += found
            labels += [label] * len(found)
        counts.append(len(paths))
    if passed_over:
        say(f"passed over {len(passed_over)} files that are no images, such as {passed_over[0]}")
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
    differences = [
        f"only in {name}: {', '.join(sorted(set(mine) - set(other)))}"
        for name, mine, other in (("train", train, test), ("test", test, train))
        if set(mine) - set(other)
    ]
    if differences:
        raise UserError(
            f"{root}: train and test have different classes; {'; '.join(differences)}",
            "give both the same class folders",
            Exit.DATA,
        )
    return train


def _images_in(folder: Path, suffixes: set[str], passed_over: list[Path]) -> list[Path]:
    """The images of one class, sorted by name; what else lies there goes to `passed_over`."""
    found = []
    for path in _visible(folder):
        if path.suffix.lower() in suffixes and path.is_file():
            found.append(path)
        elif path.is_dir():
            message = f"{path} is a folder inside a class folder"
            raise UserError(message, f"move it elsewhere; {LAYOUT}", Exit.DATA)
        else:
            passed_over.append(path)
    if not found:
        raise UserError(f"{folder} has no images in it", "add some, or remove it", Exit.DATA)
    return found


def _visible(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise _unreadable(folder, error) from error


def _image_suffixes() -> set[str]:
    from PIL import Image

    Image.preinit()  # registers the common formats first, so that files are tried as those first
    return {ext for ext, name in Image.registered_extensions().items() if name in Image.OPEN}


# --- what identifies them


def _digest(path: Path) -> bytes:
    return hashlib.sha256(_read(path)).digest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    return UserError(f"{path} can't be read: {reason}", "repair or remove it", Exit.DATA)


def _key(listing: Listing, digests: list[bytes], resize: int | None) -> str:
    """SHA-256 over all that the decoded tensors depend on."""
    total = hashlib.sha256(f"{FORMAT}\0{resize}\0".encode())
    for path, digest in zip(listing.paths, digests, strict=True):
        # A file name has no zero byte and a digest has a fixed length, so nothing can run together.
        total.update(os.fsencode(path.relative_to(listing.root).as_posix()) + b"\0" + digest)
    return total.hexdigest()


# --- decoding


def _decode_all(listing: Listing, digests: list[bytes], resize: int | None) -> Tensor:
    """All images, (N, 3, H, W) uint8, in the order of the listing."""
    images: Tensor | None = None
    pairs = list(zip(listing.paths, digests, strict=True))
    for place, (path, digest) in enumerate(track(pairs, "Decoding the images")):
        image = _decode(path, digest, resize)
        if images is None:
            images = _allocate(len(pairs), image)
        elif image.shape != images.shape[1:]:
            raise _sizes_differ(listing.paths[0], images[0], path, image)
        images[place] = image
    assert images is not None, "a listing has at least one image"
    return images


def _decode(path: Path, digest: bytes, resize: int | None) -> Tensor:
    """One image, (3, H, W) uint8."""
    from PIL import Image

    content = _read(path)
    if hashlib.sha256(content).digest() != digest:  # or the cache would keep it under a wrong key
        raise UserError(f"{path} changed while it was being read", "start again", Exit.DATA)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = _to_rgb(opened)
    except Exception as error:  # Pillow's parsers raise whatever a broken file makes them trip over
        raise _unreadable(path, error) from error
    if resize is not None:
        image = image.resize((resize, resize), Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


def _to_rgb(image: "Image") -> "Image":
    from PIL import Image

    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no fixed range; save it with 8 bits")
    if image.mode.startswith("I;16"):
        return image.point(lambda value: value / 256).convert("L").convert("RGB")
    if "transparency" in image.info or "a" in image.mode.lower():
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image.convert("RGB")


def _allocate(count: int, image: Tensor) -> Tensor:
    try:
        return torch.empty((count, *image.shape), dtype=torch.uint8)
    except RuntimeError as error:
        raise UserError(
            f"{count} images of {image.shape[2]}x{image.shape[1]} need"
            f" {count * image.numel() / 1e9:.1f} GB of memory, more than there is",
            "scale them down with data.resize",
            Exit.RESOURCES,
        ) from error


def _sizes_differ(first: Path, one: Tensor, second: Path, other: Tensor) -> UserError:
    return UserError(
        f"images differ in size: {first} is {one.shape[2]}x{one.shape[1]},"
        f" {second} is {other.shape[2]}x{other.shape[1]}",
        "data.resize: 32 would scale all to 32x32",
        Exit.DATA,
    )


# --- the cache


def _cache_folders(root: Path) -> tuple[Path, Path]:
    """Beside the images, so that it goes when they go; where that can't be written, the user's."""
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / ".sfl-cache", user / "sfl"


def _read_cache(listing: Listing, key: str) -> Dataset | None:
    for folder in _cache_folders(listing.root):
        path = folder / f"{key}.safetensors"
        if path.is_file():
            dataset = _open_cache(listing, path)
            if dataset is not None:
                return dataset
            say(f"{path} is damaged; decoding the images again")
    return None


def _open_cache(listing: Listing, path: Path) -> Dataset | None:
    """The data set in a cache file, or None if it is not what was once written there."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            written, images = file.metadata(), file.get_tensor("images")
    except (OSError, SafetensorError):
        return None
    if len(images) != len(listing.paths):
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
        return _remove_old(folder)
    say("the decoded images could not be cached: the next start decodes them again")


def _remove_old(folder: Path) -> None:
    caches = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    for path in caches[:-KEPT_CACHES]:
        path.unlink(missing_ok=True)
