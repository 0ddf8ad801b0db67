"""Decodes image files into one tensor of RGB pixels.

Grey is repeated in all three channels, transparent pixels are laid over black, 16-bit grey keeps
its upper eight bits, and only the first frame of an animation is used. EXIF orientation is not
applied (as in torchvision's ImageFolder). Knows nothing of folders, classes or caches.
"""

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from sfl import host_memory
from sfl.errors import Exit, UserError
from sfl.progress import track


def image_suffixes() -> set[str]:
    """The suffixes of the formats that Pillow reads, in lower case: {".png", ".jpg", ...}."""
    Image.preinit()  # registers the common formats first, so that Pillow tries them first
    return {ext for ext, name in Image.registered_extensions().items() if name in Image.OPEN}


def digest(path: Path) -> bytes:
    """SHA-256 of the file. Raises UserError (exit 3) if it can't be read."""
    return hashlib.sha256(_read(path)).digest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> UserError:
    """The UserError for a file that the system or Pillow can't read."""
    reason: object = error
    if isinstance(error, UnidentifiedImageError):  # its text would name a buffer in memory
        reason = "Pillow does not know its image format"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return UserError(f"{path} can't be read: {reason}", "repair or remove it", Exit.DATA)


def decode_all(paths: Sequence[Path], digests: Sequence[bytes], resize: int | None) -> Tensor:
    """Reads all images, (N, 3, H, W) uint8, in the order of `paths`; there must be at least one.

    digests: the SHA-256 of each file, from `digest`.
    resize: the side in pixels to which each image is scaled (bilinear, antialiased; the aspect
    ratio is not kept); None: not scaled.

    Raises UserError (exit 3) if a file can't be decoded, has changed since `digest`, or differs in
    size from the first one, (exit 6) if the images do not fit into memory.
    """
    first = _decode(paths[0], digests[0], resize)
    images = _allocate(len(paths), first)
    files = zip(paths, digests, strict=True)
    for place, (path, known) in enumerate(track(files, "Decoding the images", len(paths))):
        image = _decode(path, known, resize)
        if image.shape != first.shape:
            raise _sizes_differ(paths[0], first, path, image)
        images[place] = image
    return images


def _decode(path: Path, known: bytes, resize: int | None) -> Tensor:
    """One image, (3, H, W) uint8."""
    content = _read(path)
    if hashlib.sha256(content).digest() != known:  # the cache would keep it under a wrong key
        raise UserError(f"{path} changed while it was being read", "start again", Exit.DATA)
    return _pixels(_opened(path, content), None if resize is None else (resize, resize))


def decode_scaled(path: Path, size: tuple[int, int]) -> tuple[Tensor, bool]:
    """One image, (3, H, W) uint8, scaled to size (H, W) as `decode_all` does; whether it had to be.

    Raises UserError (exit 3) if it can't be read.
    """
    image = _opened(path, _read(path))
    return _pixels(image, size), (image.height, image.width) != size


def _opened(path: Path, content: bytes) -> Image.Image:
    """The image in RGB."""
    try:
        with Image.open(io.BytesIO(content)) as opened:
            return _to_rgb(opened)
    except Exception as error:  # on a broken file, Pillow's parsers may raise any exception
        raise unreadable(path, error) from error


def _pixels(image: Image.Image, size: tuple[int, int] | None) -> Tensor:
    """(3, H, W) uint8; size: (H, W), or None: not scaled."""
    if size is not None:
        image = image.resize(size[::-1], Image.Resampling.BILINEAR)
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.view(image.height, image.width, 3).permute(2, 0, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {image.mode} have no fixed range; save it with 8 bits")
    if image.mode.startswith("I;16"):
        return image.convert("I").point(lambda value: value / 256).convert("L").convert("RGB")
    if "transparency" in image.info or image.mode in ("RGBA", "RGBa", "LA", "La", "PA"):
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "black"), image).convert("RGB")
    return image.convert("RGB")


def _allocate(count: int, image: Tensor) -> Tensor:
    needed, free = count * image.numel(), host_memory.available_bytes()
    if free is not None and needed > free:
        raise UserError(
            f"{count:,} images of {image.shape[2]}x{image.shape[1]} take {needed / 1e9:.1f} GB of"
            f" memory, but {free / 1e9:.1f} GB are free",
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
