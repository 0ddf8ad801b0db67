"""Decodes image files into one tensor of RGB pixels. docs/data.md describes the rules for users.

Pictures stand upright, as their EXIF data says. Grey is repeated in all three channels, transparent
pixels are laid over black, 16-bit grey keeps its upper eight bits, and only the first frame of an
animation is used. Knows nothing of folders, classes or caches.
"""

import contextlib
import hashlib
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError
from torch import Tensor

from sfl import host_memory
from sfl.errors import Exit, UserError
from sfl.progress import track
from sfl.units import bytes_text

UNREADABLE = bytes(32)  # in place of a digest
LISTED = 10  # broken files that one message names


class Unreadable(UserError):
    """A file that the system or Pillow can't read (exit 3); reason: why, in words."""

    def __init__(self, path: Path, error: Exception) -> None:
        if isinstance(error, UnidentifiedImageError):  # its text would name a buffer in memory
            self.reason = "Pillow does not know its image format"
        elif isinstance(error, OSError) and error.strerror:
            self.reason = error.strerror
        else:
            self.reason = " ".join(str(error).split()) or type(error).__name__
        self.path = path
        super().__init__(f"{path} can't be read: {self.reason}", "repair or remove it", Exit.DATA)


@dataclass
class Decoded:
    """images: (N, 3, H, W) uint8. The other fields name files by their places in what was given.

    kept: those that became the images; turned: those that were turned upright; narrow: 16-bit ones
    with values below 4,096 only, of which the upper eight bits are nearly black; broken: those that
    were left out, and why.
    """

    images: Tensor
    kept: list[int] = field(default_factory=list)
    turned: list[int] = field(default_factory=list)
    narrow: list[int] = field(default_factory=list)
    broken: dict[int, Unreadable] = field(default_factory=dict)


def image_suffixes() -> set[str]:
    """The suffixes of the picture formats that Pillow decodes, in lower case: {".png", ...}."""
    Image.preinit()  # registers the common formats first, so that Pillow tries them first
    return {ext for ext, name in Image.registered_extensions().items() if _decodes(name)}


def _decodes(name: str) -> bool:
    """Whether Pillow decodes a format, rather than only knowing its name, and it is of pictures."""
    opener = Image.OPEN.get(name, (None,))[0]
    stub = isinstance(opener, type) and issubclass(opener, ImageFile.StubImageFile)
    return opener is not None and not stub and Image.MIME.get(name, "image/").startswith("image/")


def digest(path: Path) -> bytes:
    """SHA-256 of the file; UNREADABLE if it can't be read."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError:
        return UNREADABLE


def decode_all(
    paths: Sequence[Path],
    digests: Sequence[bytes],
    resize: int | None,
    *,
    skip_broken: bool = False,
) -> Decoded:
    """Reads all images, in the order of `paths`.

    digests: the SHA-256 of each file, from `digest`.
    resize: the side in pixels to which each image is scaled (bilinear, antialiased; the aspect
    ratio is not kept); None: not scaled.
    skip_broken: whether files that can't be decoded are left out.

    Raises UserError (exit 3) if files can't be decoded (it names them), one has changed since
    `digest`, or differs in size from the first one, (exit 6) if the images do not fit into memory.
    """
    found = Decoded(torch.empty(0, 3, 0, 0, dtype=torch.uint8))
    files = zip(paths, digests, strict=True)
    for place, (path, known) in enumerate(track(files, "Decoding the images", len(paths))):
        try:
            image = _decode(path, known, resize)
        except Unreadable as error:
            found.broken[place] = error
            continue
        if not found.kept:
            found.images = _allocate(len(paths), image.pixels)
        first = found.images[0]
        if image.pixels.shape != first.shape:
            raise _sizes_differ(paths[found.kept[0]], first, path, image.pixels)
        found.images[len(found.kept)] = image.pixels
        found.kept.append(place)
        found.turned += [place] * image.turned
        found.narrow += [place] * image.narrow
    found.images = found.images[: len(found.kept)]
    if found.broken and not skip_broken:
        raise _all_broken(list(found.broken.values()))
    return found


def _all_broken(errors: Sequence[Unreadable]) -> UserError:
    hint = "repair or remove {}, or leave {} out with data.skip_broken: true"
    if len(errors) == 1:
        return UserError(errors[0].message, hint.format("it", "it"), Exit.DATA)
    named = [f"{error.path}: {error.reason}" for error in errors[:LISTED]]
    more = [f"and {len(errors) - LISTED:,} more"] if len(errors) > LISTED else []
    message = f"{len(errors):,} images can't be read: {'; '.join(named + more)}"
    return UserError(message, hint.format("them", "them"), Exit.DATA)


@dataclass(frozen=True)
class _Image:
    pixels: Tensor  # (3, H, W) uint8
    turned: bool
    narrow: bool


def _decode(path: Path, known: bytes, resize: int | None) -> _Image:
    """One image. Raises Unreadable; UserError (exit 3) if the file is not what `digest` read."""
    content = _read(path)
    if hashlib.sha256(content).digest() != known:  # the cache would keep it under a wrong key
        raise UserError(f"{path} changed while it was being read", "start again", Exit.DATA)
    image, turned, narrow = _open(path, content)
    size = None if resize is None else (resize, resize)
    return _Image(_pixels(image, size), turned, narrow)


def decode_scaled(path: Path, size: tuple[int, int]) -> tuple[Tensor, bool]:
    """One image, (3, H, W) uint8, scaled to size (H, W) as `decode_all` does; whether it had to be.

    Raises Unreadable.
    """
    image, _, _ = _open(path, _read(path))
    return _pixels(image, size), (image.height, image.width) != size


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(path, error) from error


def _open(path: Path, content: bytes) -> tuple[Image.Image, bool, bool]:
    """The image in RGB, upright; whether it was turned, and whether it is narrow."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            # An image of more than 89 megapixels is refused rather than warned of.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as opened:
                upright, turned = _upright(opened)
                return _to_rgb(upright), turned, _is_narrow(upright)
    except MemoryError:  # not the file's fault: it must not be left out for that
        raise
    except Exception as error:  # on a broken file, Pillow's parsers may raise any exception
        raise Unreadable(path, error) from error


def _pixels(image: Image.Image, size: tuple[int, int] | None) -> Tensor:
    """(3, H, W) uint8; size: (H, W), or None: not scaled."""
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


def _upright(image: Image.Image) -> tuple[Image.Image, bool]:
    """The image as its EXIF orientation says; whether there was anything to turn."""
    # Asked twice: a PNG may have its EXIF after the pixels, and Pillow turns a TIFF while it loads
    # it and then forgets the orientation.
    turned = _is_turned(image)
    image.load()
    if _is_turned(image):
        return ImageOps.exif_transpose(image), True
    return image, turned


def _is_turned(image: Image.Image) -> bool:
    with contextlib.suppress(Exception):  # EXIF that can't be read turns nothing
        return image.getexif().get(ExifTags.Base.Orientation) in range(2, 9)
    return False


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no fixed range; save it with 8 bits")
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image.convert("RGB")


def _is_narrow(image: Image.Image) -> bool:
    """Whether 16-bit grey holds 12 bits or fewer; an image of one value is none."""
    if not image.mode.startswith("I;16"):
        return False
    low, high = image.convert("I").getextrema()
    return low < high < 4096  # type: ignore[operator]


def _allocate(count: int, image: Tensor) -> Tensor:
    needed, free = count * image.numel(), host_memory.available_bytes()
    if free is not None and needed > free:
        raise UserError(
            f"{count:,} images of {image.shape[2]}x{image.shape[1]} take {bytes_text(needed)} of"
            f" memory, but {bytes_text(free)} are free",
            "scale them down with data.resize",
            Exit.RESOURCES,
        )
    return torch.empty((count, *image.shape), dtype=torch.uint8)


def _sizes_differ(first: Path, one: Tensor, second: Path, other: Tensor) -> UserError:
    return UserError(
        f"images differ in size: {first} is {one.shape[2]}x{one.shape[1]},"
        f" {second} is {other.shape[2]}x{other.shape[1]}",
        "scale all images to one size with data.resize, for example data.resize=32",
        Exit.DATA,
    )
