"""One image file to RGB pixels, and many of one size to one tensor.

Images become RGB: grey is repeated, what is transparent turns black, 16-bit grey keeps its upper
eight bits, of an animation the first frame is taken. EXIF orientation is not applied (nor is it
in torchvision's ImageFolder). Knows nothing of folders, classes or caches.
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
    Image.preinit()  # registers the common formats first, so that files are tried as those first
    return {ext for ext, name in Image.registered_extensions().items() if name in Image.OPEN}


def digest(path: Path) -> bytes:
    """SHA-256 of the file. Raises UserError (exit 3)."""
    return hashlib.sha256(_read(path)).digest()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> UserError:
    """A file that the system or Pillow refuses, as a line for the user."""
    reason: object = error
    if isinstance(error, UnidentifiedImageError):  # whose text names a buffer of ours
        reason = "it has no image format that Pillow knows"
    elif isinstance(error, OSError) and error.strerror:
        reason = error.strerror
    return UserError(f"{path} can't be read: {reason}", "repair or remove it", Exit.DATA)


def decode_all(paths: Sequence[Path], digests: Sequence[bytes], resize: int | None) -> Tensor:
    """Reads all images, (N, 3, H, W) uint8, in the order of the paths, of which there is one.

    digests: the SHA-256 of each file, as `digest` gave it earlier.
    resize: the side in pixels to which each is scaled (bilinear, antialiased, aspect not kept).

    Raises UserError (exit 3): a file that can't be decoded, has changed, or differs in size from
    the first. (Exit 6): too many for the memory.
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
    if hashlib.sha256(content).digest() != known:  # or the cache would keep it under a wrong key
        raise UserError(f"{path} changed while it was being read", "start again", Exit.DATA)
    try:
        with Image.open(io.BytesIO(content)) as opened:
            image = _to_rgb(opened)
    except Exception as error:  # Pillow's parsers raise whatever a broken file makes them trip over
        raise unreadable(path, error) from error
    if resize is not None:
        image = image.resize((resize, resize), Image.Resampling.BILINEAR)
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
            f" memory, {free / 1e9:.1f} GB are free",
            "scale them down with data.resize",
            Exit.RESOURCES,
        )
    return torch.empty((count, *image.shape), dtype=torch.uint8)


def _sizes_differ(first: Path, one: Tensor, second: Path, other: Tensor) -> UserError:
    return UserError(
        f"images differ in size: {first} is {one.shape[2]}x{one.shape[1]},"
        f" {second} is {other.shape[2]}x{other.shape[1]}",
        "data.resize: 32 would scale all to 32x32",
        Exit.DATA,
    )
