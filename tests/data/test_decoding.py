"""One image to RGB pixels: values by hand for every kind of image that Pillow tells apart."""

import hashlib
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

from sfl import host_memory
from sfl.data import decoding
from sfl.errors import Exit, UserError


def decode(*paths: Path, resize: int | None = None) -> Tensor:
    return decoding.decode_all(paths, [decoding.digest(path) for path in paths], resize).images


def save(image: Image.Image, path: Path, **options: Any) -> Path:
    image.save(path, **options)
    return path


def palette(colours: list[int], pixels: list[int]) -> Image.Image:
    image = Image.new("P", (len(pixels), 1))
    image.putpalette(colours)
    image.putdata(pixels)
    return image


def sixteen_bits(values: list[int]) -> Image.Image:
    return Image.frombytes("I;16", (len(values), 1), struct.pack(f"<{len(values)}H", *values))


def test_colour_is_kept_and_rows_and_columns_are_not_exchanged(tmp_path: Path) -> None:
    image = Image.new("RGB", (3, 2), (1, 2, 3))
    image.putpixel((2, 0), (10, 20, 30))
    images = decode(save(image, tmp_path / "a.png"))
    assert images.shape == (1, 3, 2, 3) and images.dtype == torch.uint8
    assert images[0, :, 0, 2].tolist() == [10, 20, 30]
    assert images[0, :, 1, 2].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (Image.new("L", (1, 1), 7), {}, [7, 7, 7]),
        (Image.new("1", (1, 1), 1), {}, [255, 255, 255]),
        (Image.new("LA", (1, 1), (200, 0)), {}, [0, 0, 0]),
        (Image.new("RGBA", (1, 1), (10, 20, 30, 255)), {}, [10, 20, 30]),
        (Image.new("RGBA", (1, 1), (10, 20, 30, 0)), {}, [0, 0, 0]),
        (Image.new("RGB", (1, 1), (10, 20, 30)), {"transparency": (10, 20, 30)}, [0, 0, 0]),
        (palette([1, 2, 3, 40, 50, 60], [1]), {}, [40, 50, 60]),
        (palette([1, 2, 3, 40, 50, 60], [1]), {"transparency": b"\xff\x00"}, [0, 0, 0]),
        (palette([1, 2, 3, 40, 50, 60], [0]), {"transparency": b"\xff\x00"}, [1, 2, 3]),
        (sixteen_bits([0x80FF]), {}, [0x80, 0x80, 0x80]),
    ],
)
def test_every_kind_of_pixel_becomes_rgb(
    tmp_path: Path, image: Image.Image, options: dict[str, object], expected: list[int]
) -> None:
    assert decode(save(image, tmp_path / "a.png", **options)).flatten().tolist() == expected


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "ppm", "tiff", "webp"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = save(Image.new("RGB", (2, 2), (255, 0, 0)), tmp_path / f"a.{suffix}", lossless=True)
    assert f".{suffix}" in decoding.image_suffixes()
    assert decode(path)[0, :, 1, 1].tolist() == [255, 0, 0]


def test_a_suffix_may_lie(tmp_path: Path) -> None:
    save(Image.new("RGB", (1, 1), (1, 2, 3)), tmp_path / "a.png").rename(tmp_path / "a.jpg")
    assert decode(tmp_path / "a.jpg").flatten().tolist() == [1, 2, 3]


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    first, second = Image.new("L", (1, 1), 0), Image.new("L", (1, 1), 255)
    path = save(first, tmp_path / "a.gif", save_all=True, append_images=[second])
    assert decode(path).flatten().tolist() == [0, 0, 0]


def test_resize_is_an_antialiased_square(tmp_path: Path) -> None:
    stripes = Image.new("L", (8, 4))
    stripes.putdata([0, 0, 0, 0, 255, 255, 255, 255] * 4)
    path = save(stripes, tmp_path / "a.png")
    # A triangle of four pixels either way: weights 5 7 7 5 | 3 1 of 28 eighths, so 4/28 of 255.
    assert decode(path, resize=2)[0, 0].tolist() == [[36, 219], [36, 219]]
    assert decode(path, resize=1)[0, 0].tolist() == [[128]]


def test_several_images_keep_their_order(tmp_path: Path) -> None:
    paths = [save(Image.new("L", (1, 1), i), tmp_path / f"{i}.png") for i in (5, 3, 4)]
    assert decode(*paths)[:, 0, 0, 0].tolist() == [5, 3, 4]


def test_images_of_different_sizes_are_both_named(tmp_path: Path) -> None:
    first = save(Image.new("L", (4, 2)), tmp_path / "first.png")
    other = save(Image.new("L", (2, 4)), tmp_path / "other.png")
    with pytest.raises(UserError) as caught:
        decode(first, first, other)
    assert caught.value.exit_code == Exit.DATA
    expected = f"{first} is 4x2, {other} is 2x4 (scale all images to one size with data.resize"
    assert expected in str(caught.value)
    assert decode(first, other, resize=3).shape == (2, 3, 3, 3)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "does not know its image format"),
        (b"not an image", "does not know its image format"),
        ("cut", "truncated"),
    ],
)
def test_an_unreadable_image_is_named(tmp_path: Path, content: bytes | str, reason: str) -> None:
    path = save(Image.effect_noise((16, 16), 50), tmp_path / "a.bmp")
    path.write_bytes(path.read_bytes()[:-20] if isinstance(content, str) else content)
    with pytest.raises(UserError, match=reason) as caught:
        decode(path)
    assert caught.value.exit_code == Exit.DATA
    assert str(caught.value).startswith(f"{path} can't be read: ")
    assert "\n" not in str(caught.value)


def test_pixels_without_a_fixed_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mode F have no fixed range"):
        decode(save(Image.new("F", (1, 1), 0.5), tmp_path / "a.tiff"))


def test_a_file_that_changed_since_it_was_hashed_is_refused(tmp_path: Path) -> None:
    path = save(Image.new("L", (1, 1)), tmp_path / "a.png")
    with pytest.raises(UserError, match="changed while it was being read"):
        decoding.decode_all([path], [hashlib.sha256(b"before").digest()], None)


def test_too_many_images_for_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(Image.new("L", (4, 2)), tmp_path / "a.png")
    monkeypatch.setattr(host_memory, "available_bytes", lambda: 23)
    with pytest.raises(
        UserError, match=r"1 images of 4x2 take 24 B of memory, but 23 B are free"
    ) as caught:
        decode(path)
    assert caught.value.exit_code == Exit.RESOURCES


def turned(path: Path, orientation: int) -> Path:
    """A red pixel at the left end of a dark row, stored as a camera held askew stores it."""
    image = Image.new("RGB", (3, 1))
    image.putpixel((0, 0), (255, 0, 0))
    stored = {
        1: image,
        3: image.transpose(Image.Transpose.ROTATE_180),
        6: image.transpose(Image.Transpose.ROTATE_90),
        8: image.transpose(Image.Transpose.ROTATE_270),
    }[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return save(stored, path, exif=exif, lossless=True)


@pytest.mark.parametrize("suffix", ["png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pictures_stand_upright_as_their_exif_data_says(
    tmp_path: Path, suffix: str, orientation: int
) -> None:
    path = turned(tmp_path / f"a.{suffix}", orientation)
    found = decoding.decode_all([path], [decoding.digest(path)], None)
    assert found.images[0].tolist() == [[[255, 0, 0]], [[0, 0, 0]], [[0, 0, 0]]]
    assert found.turned == ([0] if orientation > 1 else [])


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    path = save(Image.new("L", (8, 4), 9), tmp_path / "a.jpg", exif=exif)
    assert decode(path).shape == (1, 3, 8, 4)


def test_sixteen_bits_that_hold_twelve_are_noticed(tmp_path: Path) -> None:
    values = {"narrow": [0, 4095], "wide": [0, 4096], "of one value": [7, 7]}
    paths = [save(sixteen_bits(two), tmp_path / f"{name}.png") for name, two in values.items()]
    found = decoding.decode_all(paths, [decoding.digest(path) for path in paths], None)
    assert found.narrow == [0]


def test_all_broken_images_are_named_at_once_or_left_out(tmp_path: Path) -> None:
    good = save(Image.new("L", (16, 16), 7), tmp_path / "good.jpg")
    paths = [tmp_path / "gone.png", good]
    for number in range(decoding.LISTED + 1):
        paths.append(tmp_path / f"{number}.jpg")
        paths[-1].write_bytes(good.read_bytes()[:-2])  # as a copy that broke off leaves it
    digests = [decoding.digest(path) for path in paths]
    with pytest.raises(UserError) as caught:
        decoding.decode_all(paths, digests, None)
    message = str(caught.value)
    assert message.startswith(f"12 images can't be read: {paths[0]}: No such file or directory; ")
    assert f"{paths[2]}: image file is truncated" in message and "9.jpg" not in message
    assert "; and 2 more (repair or remove them, or leave them out with data.skip" in message
    found = decoding.decode_all(paths, digests, None, skip_broken=True)
    assert found.kept == [1] and len(found.images) == 1 and len(found.broken) == 12


def test_an_image_beyond_pillows_limit_is_named_and_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(Image.new("L", (8, 8)), tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 63)
    with pytest.raises(UserError, match=r"64 pixels\) exceeds limit of 63") as caught:
        decode(path)
    assert str(caught.value).startswith(f"{path} can't be read: ")


def test_suffixes_are_of_pictures_that_can_be_decoded() -> None:
    found = decoding.image_suffixes()
    assert {".png", ".jpg", ".jpeg", ".webp", ".tif", ".ppm", ".tga"} <= found
    assert not {".h5", ".hdf", ".mpg", ".mpeg", ".grib", ".bufr", ".wmf", ".eps", ".pdf"} & found


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_exif_data_that_cannot_be_read_turns_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    save(Image.new("L", (2, 1), 7), path, exif=b"Exif\0\0no TIFF header", lossless=True)
    assert decode(path).flatten().tolist() == [7] * 6


def test_no_file_is_left_out_for_what_is_not_its_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(Image.new("L", (1, 1)), tmp_path / "a.png")
    with pytest.raises(UserError, match="changed while it was being read"):
        decoding.decode_all([path], [hashlib.sha256(b"before").digest()], None, skip_broken=True)

    def exhaust(image: Image.Image) -> Image.Image:
        raise MemoryError

    monkeypatch.setattr(decoding, "_to_rgb", exhaust)
    with pytest.raises(MemoryError):
        decoding.decode_all([path], [decoding.digest(path)], None, skip_broken=True)
