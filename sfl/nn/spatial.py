"""The layer without weight sharing: a convolution whose filters do not move.

Holds the functional forms and the SpatialFeatureLayer over them; knows no model, no data.

Shapes: B batch, C channels in, O channels out, H×W input, OH×OW output, kh×kw kernel,
L = OH·OW positions, K = C·kh·kw inputs in a unit's receptive field.

Two storages, never to be mixed up:
  local  weight (OH, OW, O, C, kh, kw): only the weights inside the receptive fields exist.
  dense  weight (C, H, W, O, OH, OW): the notebook's. Zero outside the receptive fields when it is
         born, but nothing keeps it so: after one optimizer step it is a fully connected layer.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Storage = Literal["local", "dense"]
Init = Literal["receptive_field", "notebook"]
Pair = int | tuple[int, int]


def pair(value: Pair) -> tuple[int, int]:
    """(v, v) for a number, the pair itself for a pair."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def expect_choice(setting: str, given: str, choices: object) -> None:
    """Raises ValueError where `given` is none of a Literal's values."""
    if given not in get_args(choices):
        raise ValueError(f"{setting} {given!r} is none of {', '.join(get_args(choices))}")


def output_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """Positions along one axis. Raises ValueError where the kernel doesn't fit the input."""
    if kernel < 1 or stride < 1 or padding < 0:
        raise ValueError(
            "kernel and stride must be at least 1 and padding at least 0, "
            f"not {kernel}, {stride} and {padding}"
        )
    if kernel > size + 2 * padding:
        raise ValueError(
            f"a kernel of {kernel} is larger than its input of {size}"
            + (f" + 2·{padding} padding" if padding else "")
        )
    return (size + 2 * padding - kernel) // stride + 1


def spatial_conv2d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, stride: Pair = 1, padding: Pair = 0
) -> Tensor:
    """A convolution in which every output position has weights of its own.

    x (B, C, H, W); weight (OH, OW, O, C, kh, kw); bias (O, OH, OW) or None → (B, O, OH, OW).
    The same as `F.conv2d` where weight[oh, ow] is the same at every position.

    Raises ValueError, naming both numbers, where x and weight don't fit each other.
    """
    if x.dim() != 4:
        raise ValueError(f"input has {x.dim()} dimensions, expected the 4 of (B, C, H, W)")
    _expect_fit(weight, x.shape[1:], stride, padding)
    batch, channels = x.shape[:2]
    positions_h, positions_w, out_channels, _, kh, kw = weight.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    # The batch goes innermost, so that each position is one product (O, K) × (K, B).
    x = F.pad(x, (pw, pw, ph, ph)).permute(1, 2, 3, 0).contiguous()  # (C, H, W, B)
    # Slices, because the backward pass of Tensor.unfold takes longer than all the products.
    last_h, last_w = sh * (positions_h - 1) + 1, sw * (positions_w - 1) + 1
    taps = [x[:, i : i + last_h : sh, j : j + last_w : sw] for i in range(kh) for j in range(kw)]
    fields = torch.stack(taps, dim=1).permute(2, 3, 0, 1, 4)  # (OH, OW, C, kh·kw, B)
    fields = fields.reshape(-1, channels * kh * kw, batch)  # (L, K, B)
    y = torch.bmm(weight.flatten(0, 1).flatten(2), fields)  # (L, O, B)
    y = y.view(positions_h, positions_w, out_channels, batch).permute(3, 2, 0, 1)
    return y if bias is None else y + bias


def dense_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The notebook's form: every input feeds every unit, through one matrix product.

    x (B, C, H, W); weight (C, H, W, O, OH, OW); bias (O, OH, OW) or None → (B, O, OH, OW).
    Equal to `torch.tensordot(x, weight, dims=([1, 2, 3], [0, 1, 2])) + bias`.

    Raises ValueError, naming both shapes, where x and weight don't fit each other.
    """
    if x.shape[1:] != weight.shape[:3]:
        expected = tuple(weight.shape[:3])
        raise ValueError(f"input is {tuple(x.shape[1:])}, the weights expect {expected}")
    matrix = weight.flatten(3).flatten(0, 2)  # (C·H·W, O·OH·OW)
    flat = x.flatten(1)
    y = flat @ matrix if bias is None else torch.addmm(bias.flatten(), flat, matrix)
    return y.view(-1, *weight.shape[3:])


def field_mask(size: tuple[int, int], kernel: Pair, stride: Pair = 1, padding: Pair = 0) -> Tensor:
    """Which inputs of each receptive field exist: (OH, OW, kh, kw) bool; False is padding."""
    inside = []
    for extent, k, s, p in zip(size, pair(kernel), pair(stride), pair(padding), strict=True):
        first = torch.arange(output_size(extent, k, s, p), device="cpu") * s - p
        index = first[:, None] + torch.arange(k, device="cpu")  # (positions, k)
        inside.append((index >= 0) & (index < extent))
    rows, columns = inside
    return rows[:, None, :, None] & columns[None, :, None, :]


def local_to_dense(
    weight: Tensor, in_dimensions: tuple[int, int, int], stride: Pair = 1, padding: Pair = 0
) -> Tensor:
    """Local weights (OH, OW, O, C, kh, kw) as dense ones (C, H, W, O, OH, OW), zero elsewhere.

    Raises ValueError, naming both numbers, where the weights are not for such an input.
    """
    _expect_fit(weight, in_dimensions, stride, padding)
    positions_h, positions_w, out_channels, channels, kh, kw = weight.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    _, height, width = in_dimensions
    dense = weight.new_zeros(channels, height, width, out_channels, positions_h, positions_w)
    for oh in range(positions_h):
        top = oh * sh - ph
        rows = slice(max(top, 0), min(top + kh, height))
        for ow in range(positions_w):
            left = ow * sw - pw
            columns = slice(max(left, 0), min(left + kw, width))
            field = weight[oh, ow].permute(1, 2, 3, 0)  # (C, kh, kw, O)
            dense[:, rows, columns, :, oh, ow] = field[
                :, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left
            ]
    return dense


def _expect_fit(weight: Tensor, in_dimensions: Sequence[int], stride: Pair, padding: Pair) -> None:
    """Raises ValueError where local weights are not for an input of (C, H, W)."""
    positions_h, positions_w, _, channels, kh, kw = weight.shape
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    given_channels, height, width = in_dimensions
    if given_channels != channels:
        raise ValueError(f"input has {given_channels} channels, the weights expect {channels}")
    positions = (output_size(height, kh, sh, ph), output_size(width, kw, sw, pw))
    if positions != (positions_h, positions_w):
        raise ValueError(
            f"an input of {height}×{width} gives {positions[0]}×{positions[1]} positions, "
            f"the weights are for {positions_h}×{positions_w}"
        )


class SpatialFeatureLayer(nn.Module):
    """A layer of filters that do not move: `nn.Conv2d` without weight sharing.

    in_dimensions: (C, H, W) of the input; a layer without sharing is tied to its input's size.
    out_channels, kernel_size, stride, padding: as in `nn.Conv2d`.
    bias: one value per unit, (O, OH, OW).
    storage: "local" or "dense", see the top of this file.
    init: "receptive_field" draws from U(±√(6 / fan-in)), fan-in being the number of inputs that
        the unit really has (He et al. 2015, eq. 10; border-aware), with zero bias; "notebook"
        repeats the notebook, whose fan-in is kh·kw without the channels.

    Input (B, C, H, W), output (B, O, OH, OW). Raises ValueError for sizes that don't fit,
    and for an unknown storage or init.
    """

    def __init__(
        self,
        in_dimensions: tuple[int, int, int],
        out_channels: int,
        kernel_size: Pair,
        bias: bool = True,
        *,
        stride: Pair = 1,
        padding: Pair = 0,
        storage: Storage = "local",
        init: Init = "receptive_field",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        expect_choice("storage", storage, Storage)
        expect_choice("init", init, Init)
        channels, height, width = in_dimensions
        self.in_dimensions = (channels, height, width)
        self.kernel_size, self.stride, self.padding = pair(kernel_size), pair(stride), pair(padding)
        self.storage, self.init = storage, init
        (kh, kw), (sh, sw), (ph, pw) = self.kernel_size, self.stride, self.padding
        positions = (output_size(height, kh, sh, ph), output_size(width, kw, sw, pw))
        self.out_dimensions = (out_channels, *positions)
        shape = (
            (*positions, out_channels, channels, kh, kw)
            if storage == "local"
            else (*self.in_dimensions, *self.out_dimensions)
        )
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias = (
            nn.Parameter(torch.empty(self.out_dimensions, device=device, dtype=dtype))
            if bias
            else None
        )
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the weights and bias anew as `init` says."""
        kh, kw = self.kernel_size
        exists = self.field_mask().to(self.weight.device)[:, :, None, None]  # for (.., O, C, ..)
        channels = self.in_dimensions[0]
        if self.init == "notebook":
            fan_in = torch.full_like(exists, kh * kw, dtype=self.weight.dtype)
        else:
            inputs = exists.sum(dim=(4, 5), keepdim=True, dtype=self.weight.dtype) * channels
            fan_in = inputs.clamp(min=1)  # a unit that sees nothing but padding has no weights
        out_channels, positions_h, positions_w = self.out_dimensions
        local = self.weight.new_empty(positions_h, positions_w, out_channels, channels, kh, kw)
        local.uniform_(-1, 1).mul_((6 / fan_in).sqrt()).mul_(exists)
        self.weight.copy_(
            local
            if self.storage == "local"
            else local_to_dense(local, self.in_dimensions, self.stride, self.padding)
        )
        if self.bias is not None:
            # kaiming_uniform_(a=√5) of an (O, OH, OW) tensor is U(±1/√(OH·OW)).
            bound = 1 / math.sqrt(positions_h * positions_w) if self.init == "notebook" else 0.0
            self.bias.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) → (B, O, OH, OW)."""
        if self.storage == "dense":
            return dense_conv2d(x, self.weight, self.bias)
        return spatial_conv2d(x, self.weight, self.bias, self.stride, self.padding)

    def field_mask(self) -> Tensor:
        """Which inputs of each unit's receptive field exist: (OH, OW, kh, kw) bool."""
        _, height, width = self.in_dimensions
        return field_mask((height, width), self.kernel_size, self.stride, self.padding)

    def weight_count(self) -> int:
        """The weights that exist: those of missing (padding) inputs are not counted; no bias."""
        if self.storage == "dense":
            return self.weight.numel()
        return int(self.field_mask().sum()) * self.in_dimensions[0] * self.out_dimensions[0]

    def dense_count(self) -> int:
        """The weights that the dense storage of this layer holds, without bias."""
        return math.prod(self.in_dimensions) * math.prod(self.out_dimensions)

    def extra_repr(self) -> str:
        return (
            f"{self.in_dimensions}, {self.out_dimensions[0]}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, bias={self.bias is not None}, "
            f"storage={self.storage}, init={self.init}"
        )
