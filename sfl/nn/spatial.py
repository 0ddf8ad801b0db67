"""The layer without weight sharing: a convolution whose filters do not move.

Holds the functional forms and the SpatialFeatureLayer over them; knows no model, no data.

Shapes: B batch, C channels in, O channels out, H×W input, OH×OW output, kh×kw kernel, G groups.

Two storages, never to be mixed up:
  local  weight (OH, OW, O, C/G, kh, kw): only the weights inside the receptive fields exist.
  dense  weight (C, H, W, O, OH, OW): the notebook's. Zero outside the receptive fields when it is
         born, but nothing keeps it so: after one optimizer step it is a fully connected layer.
"""

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sfl.nn.operators import locally_connected
from sfl.nn.storage import local_to_dense
from sfl.nn.window import Padding, Pair, field_mask, pair, window_of

Storage = Literal["local", "dense"]
Init = Literal["receptive_field", "notebook"]
Bias = Literal["channel", "position"]


def expect_choice(setting: str, given: str, choices: object) -> None:
    """Raises ValueError where `given` is none of a Literal's values."""
    if given not in get_args(choices):
        raise ValueError(f"{setting} {given!r} is none of {', '.join(get_args(choices))}")


def spatial_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """A convolution in which every output position has weights of its own.

    x (B, C, H, W) or (C, H, W); weight (OH, OW, O, C/G, kh, kw); bias (O, OH, OW), (O,) or None
    → (B, O, OH, OW) or (O, OH, OW). stride, padding, dilation, groups: as in `F.conv2d`, of which
    this is the same where weight[oh, ow] is the same at every position.

    Raises ValueError, naming both numbers, where x and weight don't fit each other.
    """
    if x.dim() == 3:
        return spatial_conv2d(x[None], weight, bias, stride, padding, dilation, groups)[0]
    if x.dim() != 4:
        raise ValueError(f"input has {x.dim()} dimensions, expected the 4 of (B, C, H, W)")
    if weight.dim() != 6:
        raise ValueError(
            f"weight has {weight.dim()} dimensions, expected the 6 of (OH, OW, O, C, kh, kw)"
        )
    positions_h, positions_w, out_channels, channels, kh, kw = weight.shape
    _expect_groups(x.shape[1], out_channels, groups)
    if x.shape[1] != channels * groups:
        raise ValueError(f"input has {x.shape[1]} channels, the weights expect {channels * groups}")
    window, positions = window_of(x.shape[2:], (kh, kw), stride, padding, dilation)
    if positions != (positions_h, positions_w):
        raise ValueError(
            f"an input of {x.shape[2]}×{x.shape[3]} gives {positions[0]}×{positions[1]} positions, "
            f"the weights are for {positions_h}×{positions_w}"
        )
    if bias is not None:
        bias = _bias_map(bias, out_channels, positions)
    return locally_connected(x, weight, bias, window, groups)


def dense_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The notebook's form: every input feeds every unit, through one matrix product.

    x (B, C, H, W) or (C, H, W); weight (C, H, W, O, OH, OW); bias (O, OH, OW), (O,) or None
    → (B, O, OH, OW) or (O, OH, OW). Equal to
    `torch.tensordot(x, weight, dims=([1, 2, 3], [0, 1, 2])) + bias`.

    Raises ValueError, naming both shapes, where x and weight don't fit each other.
    """
    if x.dim() == 3:
        return dense_conv2d(x[None], weight, bias)[0]
    if x.shape[1:] != weight.shape[:3]:
        expected = tuple(weight.shape[:3])
        raise ValueError(f"input is {tuple(x.shape[1:])}, the weights expect {expected}")
    _, _, _, out_channels, positions_h, positions_w = weight.shape
    matrix = weight.flatten(3).flatten(0, 2)  # (C·H·W, O·OH·OW)
    flat = x.flatten(1)
    if bias is None:
        y = flat @ matrix
    else:
        each = _bias_map(bias, out_channels, (positions_h, positions_w))
        y = torch.addmm(each.flatten(), flat, matrix)
    return y.view(-1, out_channels, positions_h, positions_w)


def _bias_map(bias: Tensor, out_channels: int, positions: tuple[int, int]) -> Tensor:
    """A bias a channel (O,) or a unit (O, OH, OW) as (O, OH, OW)."""
    if bias.shape == (out_channels,):
        return bias[:, None, None].expand(-1, *positions)
    if bias.shape != (out_channels, *positions):
        expected = f"{(out_channels,)} or {(out_channels, *positions)}"
        raise ValueError(f"bias is {tuple(bias.shape)}, expected {expected}")
    return bias


def _expect_groups(channels: int, out_channels: int, groups: int) -> None:
    if groups < 1 or channels % groups or out_channels % groups:
        raise ValueError(
            f"groups must divide the channels in and out: {channels} and {out_channels} are not "
            f"divided by {groups}"
        )


class SpatialFeatureLayer(nn.Module):
    """A layer of filters that do not move: `nn.Conv2d` without weight sharing.

    in_dimensions: (C, H, W) of the input; a layer without sharing is tied to its input's size.
    out_channels, kernel_size, stride, padding, dilation, groups: as in `nn.Conv2d`; padding may be
        "same" or "valid".
    bias: True or "position" for one value a unit, (O, OH, OW); "channel" for one a channel, (O,),
        as a convolution has it; False for none.
    storage: "local" or "dense", see the top of this file.
    init: "receptive_field" draws from U(±√(6 / fan-in)), fan-in being the number of inputs that
        the unit really has (He et al. 2015, eq. 10; border-aware), with zero bias; "notebook"
        repeats the notebook, whose fan-in is kh·kw without the channels.

    Weights of inputs that are padding are zero, get no gradient and are not counted.

    Input (B, C, H, W) or (C, H, W), output likewise with (O, OH, OW). Raises ValueError for sizes
    that don't fit, and for an unknown bias, storage or init.
    """

    def __init__(
        self,
        in_dimensions: tuple[int, int, int],
        out_channels: int,
        kernel_size: Pair,
        bias: bool | Bias = True,
        *,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        storage: Storage = "local",
        init: Init = "receptive_field",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        expect_choice("storage", storage, Storage)
        expect_choice("init", init, Init)
        channels, height, width = in_dimensions
        _expect_groups(channels, out_channels, groups)
        self.in_dimensions, self.groups = (channels, height, width), groups
        self.kernel_size, self.stride, self.dilation = map(pair, (kernel_size, stride, dilation))
        self.padding = padding if isinstance(padding, str) else pair(padding)
        self.storage, self.init = storage, init
        self.window, positions = window_of((height, width), kernel_size, stride, padding, dilation)
        self.out_dimensions = (out_channels, *positions)
        local = (*positions, out_channels, channels // groups, *self.kernel_size)
        dense = (*self.in_dimensions, *self.out_dimensions)
        shape = local if storage == "local" else dense
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias: nn.Parameter | None = None
        if bias is not False:
            self.bias_per: Bias = "position" if bias is True else bias
            expect_choice("bias", self.bias_per, Bias)
            each = self.out_dimensions if self.bias_per == "position" else (out_channels,)
            self.bias = nn.Parameter(torch.empty(each, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the weights and bias anew as `init` says."""
        exists = self.field_mask().to(self.weight.device)[:, :, None, None]  # for (.., O, C, ..)
        out_channels, *positions = self.out_dimensions
        channels = self.in_dimensions[0] // self.groups
        if self.init == "notebook":
            fan_in = torch.full_like(exists, math.prod(self.kernel_size), dtype=self.weight.dtype)
        else:
            inputs = exists.sum(dim=(4, 5), keepdim=True, dtype=self.weight.dtype) * channels
            fan_in = inputs.clamp(min=1)  # a unit that sees nothing but padding has no weights
        local = self.weight.new_empty(*positions, out_channels, channels, *self.kernel_size)
        local.uniform_(-1, 1).mul_((6 / fan_in).sqrt()).mul_(exists)
        self.weight.copy_(
            local
            if self.storage == "local"
            else local_to_dense(local, self.in_dimensions, self.window, self.groups)
        )
        if self.bias is not None:
            # kaiming_uniform_(a=√5) of an (O, OH, OW) tensor is U(±1/√(OH·OW)).
            bound = 1 / math.sqrt(math.prod(positions)) if self.init == "notebook" else 0.0
            self.bias.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) or (C, H, W) → (B, O, OH, OW) or (O, OH, OW)."""
        if self.storage == "dense":
            return dense_conv2d(x, self.weight, self.bias)
        return spatial_conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )

    def field_mask(self) -> Tensor:
        """Which inputs of each unit's receptive field exist: (OH, OW, kh, kw) bool."""
        _, height, width = self.in_dimensions
        _, positions_h, positions_w = self.out_dimensions
        return field_mask((height, width), self.window, (positions_h, positions_w))

    def weight_count(self) -> int:
        """The weights that exist: those of missing (padding) inputs are not counted; no bias."""
        if self.storage == "dense":
            return self.weight.numel()
        fields = int(self.field_mask().sum())
        return fields * self.in_dimensions[0] // self.groups * self.out_dimensions[0]

    def dense_count(self) -> int:
        """The weights that the dense storage of this layer holds, without bias."""
        return math.prod(self.in_dimensions) * math.prod(self.out_dimensions)

    def extra_repr(self) -> str:
        shown = {
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
            "bias": False if self.bias is None else self.bias_per,
            "storage": self.storage,
            "init": self.init,
        }
        settings = ", ".join(f"{name}={value}" for name, value in shown.items())
        return f"{self.in_dimensions}, {self.out_dimensions[0]}, {settings}"
