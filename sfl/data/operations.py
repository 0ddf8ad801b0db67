"""The operations of TrivialAugment and RandAugment on many images, each with its own strength.

Each changes its images in place, without a loop over them and without waiting for the device. The
pixels are those of torchvision's function of the same name, to one grey level; nearest
interpolation, black outside, as there by default.

images: (B, C, H, W) uint8, C 1 or 3. given: (B, 6) float32, what the operation needs: of an affine
map the matrix, of the others one number in its first column.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Operation = Callable[[Tensor, Tensor], object]


def identity(images: Tensor, given: Tensor) -> None:
    """Nothing."""


def affine(images: Tensor, given: Tensor) -> None:
    """ShearX, ShearY, TranslateX, TranslateY, Rotate: pixel (x, y) is taken from
    (a x + b y + c, d x + e y + f) for the matrix (a, b, c, d, e, f); (0, 0) is the image's centre.
    """
    batch, channels, height, width = images.shape
    xs = torch.arange(width, device=images.device) - (width - 1) / 2
    ys = torch.arange(height, device=images.device)[:, None] - (height - 1) / 2
    a, b, c, d, e, f = given[:, :, None, None].unbind(1)
    columns = (a * xs + b * ys + (c + (width - 1) / 2)).round_()
    rows = (d * xs + e * ys + (f + (height - 1) / 2)).round_()
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    places = torch.where(inside, rows * width + columns, 0).long().view(batch, 1, -1)
    found = images.flatten(2).gather(2, places.expand(-1, channels, -1)).view(images.shape)
    torch.mul(found, inside[:, None], out=images)


def brightness(images: Tensor, given: Tensor) -> None:
    """Times a factor."""
    images.copy_(images.mul(_first(given)).clamp_(max=255))


def color(images: Tensor, given: Tensor) -> None:
    """From grey (0) over the image (1) to stronger colours."""
    _blend(images, grey(images), given)


def contrast(images: Tensor, given: Tensor) -> None:
    """From the mean grey of the image (0) over the image (1) to more contrast."""
    _blend(images, grey(images).mean((1, 2, 3), keepdim=True), given)


def sharpness(images: Tensor, given: Tensor) -> None:
    """From a blurred image (0) over the image (1) to a sharper one; its border stays."""
    if min(images.shape[2:]) <= 2:
        return
    inner = images[:, :, 1:-1, 1:-1]
    whole = images.short()
    rows = whole[:, :, :-2] + whole[:, :, 1:-1] + whole[:, :, 2:]
    sums = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * whole[:, :, 1:-1, 1:-1]
    _blend(inner, sums.div(13).round_(), given)


def posterize(images: Tensor, given: Tensor) -> None:
    """Keeps the upper bits of each value: those of the mask."""
    images &= _first(given).to(torch.uint8)


def solarize(images: Tensor, given: Tensor) -> None:
    """Inverts the values from a threshold on."""
    images ^= (images >= _first(given).to(torch.uint8)).to(torch.uint8) * 255


def autocontrast(images: Tensor, given: Tensor) -> None:
    """Stretches the values of each channel to 0 … 255; a channel of one value stays."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = low == high
    low = low.masked_fill(flat, 0).float()
    scale = 255 / high.sub(low).masked_fill_(flat, 255)
    images.copy_(images.sub(low).mul_(scale).clamp_(0, 255))


def equalize(images: Tensor, given: Tensor) -> None:
    """Makes the histogram of each channel even, with a table for its 256 values."""
    values = images.flatten(2).long()
    counts = values.new_zeros(*values.shape[:2], 256)
    counts.scatter_add_(2, values, torch.ones_like(values))
    last = counts.gather(2, values.amax(2, keepdim=True))
    step = values.shape[2] - last
    step //= 255
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    images.copy_(table.to(torch.uint8).gather(2, values).view(images.shape))


def grey(images: Tensor) -> Tensor:
    """(B, 1, H, W) float32, whole numbers: the luminance of (B, 3, H, W) uint8."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = images.split(1, 1)
    light: Tensor = (red * 0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114)
    return light.floor_()


def _blend(images: Tensor, other: Tensor, given: Tensor) -> None:
    """factor · images + (1 - factor) · other, limited to 0 … 255 and rounded down."""
    factor = _first(given)
    images.copy_(((images - other).mul_(factor).add_(other)).clamp_(0, 255))


def _first(given: Tensor) -> Tensor:
    return given[:, :1, None, None]
