"""Windows: how the kernel of a convolution or a locally connected layer lies over its input.

Conv2d's arguments (kernel size, stride, padding, dilation) put into numbers, checked; which inputs
of a field exist. Knows no weights.

Shapes: H×W input, OH×OW positions (outputs), kh×kw kernel.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

import torch
from torch import Tensor

Pair = int | tuple[int, int]
Ends = tuple[Pair, Pair]  # ((top, bottom), (left, right)); a number where both ends are alike
Padding = int | Ends | str  # "same" or "valid", as in nn.Conv2d


@dataclass(frozen=True)
class Window:
    """A kernel's size and steps along (height, width); `padding` is that before the first input."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def numbers(self) -> tuple[int, ...]:
        """All eight, in this order."""
        return (*self.kernel, *self.stride, *self.padding, *self.dilation)

    def reach(self, positions: tuple[int, int]) -> tuple[int, int]:
        """How many inputs, padding included, so many positions span along each axis."""
        height, width = (
            (p - 1) * s + (k - 1) * d + 1 if p else 0
            for p, s, k, d in zip(positions, self.stride, self.kernel, self.dilation, strict=True)
        )
        return height, width


def whole(value: Any) -> int:
    """A whole number of any library's as an int. Raises TypeError for others, and for bool."""
    if isinstance(value, bool):
        raise TypeError(f"{value} is no number")
    return index(value)


def pair(value: Any, name: str = "it", each: Callable[[Any], Any] = whole) -> Any:
    """(v, v) for a number, (v, w) for a pair of them. Raises ValueError for anything else."""
    try:
        first, second = value if isinstance(value, Iterable) else (value, value)
        return (each(first), each(second))
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} is {value!r}, expected a whole number or a pair of them"
        ) from None


def ends(padding: Any) -> Ends:
    """A pair as `pair` gives it, of which each may be a pair in its turn: (before, after), if those
    differ.
    """
    both: Ends = pair(padding, "padding", _end)
    return both


def _end(given: Any) -> Any:
    before, after = pair(given)
    return before if before == after else (before, after)


def image_size(given: Any) -> tuple[int, int, int]:
    """(C, H, W) as whole numbers. Raises ValueError for anything else."""
    try:
        channels, height, width = map(whole, given)
    except (TypeError, ValueError):
        raise ValueError(f"in_dimensions is {given!r}, expected (C, H, W)") from None
    return channels, height, width


def window_of(
    size: Sequence[int], kernel: Pair, stride: Pair = 1, padding: Padding = 0, dilation: Pair = 1
) -> tuple[Window, tuple[int, int]]:
    """The window over an input of `size` (H, W), and its positions (OH, OW).

    padding: a number, a pair, "valid" (none) or "same" (as much as keeps H×W at stride 1; what is
    odd goes to the end), as in `nn.Conv2d`; or ((top, bottom), (left, right)).

    Raises ValueError, naming the numbers, for what is not positive or doesn't fit.
    """
    kernels, strides = pair(kernel, "kernel_size"), pair(stride, "stride")
    dilations = pair(dilation, "dilation")
    if min(kernels + strides + dilations) < 1:
        raise ValueError(
            "kernel, stride and dilation must be at least 1, not "
            f"{_text(kernels)}, {_text(strides)} and {_text(dilations)}"
        )
    rows, columns = _ends(padding, kernels, strides, dilations)
    sizes = list(zip(size, kernels, strides, (sum(rows), sum(columns)), dilations, strict=True))
    positions_h, positions_w = (_positions(*sizes_of_axis) for sizes_of_axis in sizes)
    return Window(kernels, strides, (rows[0], columns[0]), dilations), (positions_h, positions_w)


def field_mask(size: Sequence[int], window: Window, positions: tuple[int, int]) -> Tensor:
    """Which inputs of each receptive field exist: (OH, OW, kh, kw) bool on the CPU; False: padding.

    size: (H, W) of the input.
    """
    rows, columns = ((i >= 0) & (i < n) for i, n in _indices(size, window, positions))
    return rows[:, None, :, None] & columns[None, :, None, :]


def field_uses(size: Sequence[int], window: Window, positions: tuple[int, int]) -> Tensor:
    """How many positions see each input of each receptive field: (OH, OW, kh, kw) int64 on the CPU.

    size: (H, W) of the input. 0: padding.
    """
    along = []
    for seen, inputs in _indices(size, window, positions):
        inside = (seen >= 0) & (seen < inputs)
        counts = torch.bincount(seen[inside], minlength=inputs)
        along.append(counts[seen.clamp(0, inputs - 1)] * inside)
    rows, columns = along
    return rows[:, None, :, None] * columns[None, :, None, :]


def _indices(
    size: Sequence[int], window: Window, positions: tuple[int, int]
) -> Iterator[tuple[Tensor, int]]:
    """Along each axis: the inputs of each field (positions, taps), and how many there are."""
    for axis in (0, 1):
        first = torch.arange(positions[axis], device="cpu") * window.stride[axis]
        taps = torch.arange(window.kernel[axis], device="cpu") * window.dilation[axis]
        yield first[:, None] + taps - window.padding[axis], size[axis]


def _ends(
    padding: Padding, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """What is added along each axis, before and after."""
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError(f"padding {padding!r} is none of same, valid, a number, a pair")
        if padding == "valid":
            return (0, 0), (0, 0)
        if stride != (1, 1):
            raise ValueError(f"padding 'same' keeps the size at stride 1 only, not {_text(stride)}")
        rows, columns = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)
    top_bottom, left_right = map(pair, ends(padding))
    if min(top_bottom + left_right) < 0:
        raise ValueError(f"padding must be at least 0, not {padding}")
    return top_bottom, left_right


def _positions(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Along one axis, with `padding` at both ends together."""
    extent = dilation * (kernel - 1) + 1
    if extent > size + padding:
        dilated = f", dilated to {extent}," if dilation > 1 else ""
        padded = f" + {padding} padding" if padding else ""
        raise ValueError(
            f"a kernel of {kernel}{dilated} is larger than its input of {size}{padded}"
        )
    return (size + padding - extent) // stride + 1


def _text(values: tuple[int, int]) -> str:
    return f"{values[0]}×{values[1]}" if values[0] != values[1] else str(values[0])
