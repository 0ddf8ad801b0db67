"""The layer without weight sharing: a convolution whose filters do not move.

Shapes: B batch, C channels in, O channels out, H×W input, OH×OW output, kh×kw kernel, G groups.

Two storages, never to be mixed up:
  local  weight (OH, OW, O, kh, kw, C/G): only the weights inside the receptive fields exist.
  dense  weight (C, H, W, O, OH, OW): the notebook's. Zero outside the receptive fields when it is
         born, but nothing keeps it so: after one optimizer step it is a fully connected layer.
"""

import copy
import math
from typing import Any, Literal, Self, get_args

import torch
from torch import Tensor, nn

from sfl.nn import keras
from sfl.nn.engine import Whole
from sfl.nn.functional import dense_conv2d, expect_convolution, expect_groups, spatial_conv2d
from sfl.nn.storage import (
    dense_to_local,
    local_to_dense,
    share_beside,
    shared_filter,
    sharing_distance,
)
from sfl.nn.window import Ends, Padding, Pair, ends, field_mask, image_size, window_of

Storage = Literal["local", "dense"]
Init = Literal["receptive_field", "notebook"]
Bias = Literal["channel", "position"]


def expect_choice(setting: str, given: str, choices: object) -> None:
    """Raises ValueError where `given` is none of a Literal's values."""
    if given not in get_args(choices):
        raise ValueError(f"{setting} {given!r} is none of {', '.join(get_args(choices))}")


class SpatialFeatureLayer(Whole):
    """A layer of filters that do not move: `nn.Conv2d` without weight sharing.

    in_dimensions: (C, H, W) of the input; a layer without sharing is tied to its input's size.
    out_channels, kernel_size, stride, padding, dilation, groups: as in `nn.Conv2d`; padding may be
        "same" or "valid", and also ((top, bottom), (left, right)).
    bias: True or "position" for one value a unit, (O, OH, OW); "channel" for one a channel, (O,),
        as a convolution has it; False for none. padding_mode: "zeros", no other.
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
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        bias: bool | Bias | None = True,
        padding_mode: str = "zeros",
        *,
        storage: Storage = "local",
        init: Init = "receptive_field",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        expect_choice("storage", storage, Storage)
        expect_choice("init", init, Init)
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode {padding_mode!r}: only zeros can be padded with")
        if dtype is not None and not dtype.is_floating_point:
            raise ValueError(f"dtype is {dtype}, expected one of real numbers, as torch.float32")
        channels, height, width = image_size(in_dimensions)
        if min(channels, out_channels) < 1:
            raise ValueError(f"channels must be at least 1, not {channels} in, {out_channels} out")
        expect_groups(channels, out_channels, groups)
        self.in_dimensions, self.groups = (channels, height, width), groups
        self.in_channels, self.out_channels, self.padding_mode = channels, out_channels, "zeros"
        self.window, positions = window_of((height, width), kernel_size, stride, padding, dilation)
        self.kernel_size, self.stride = self.window.kernel, self.window.stride
        self.padding: str | Ends = padding if isinstance(padding, str) else ends(padding)
        self.dilation, self.storage, self.init = self.window.dilation, storage, init
        self.out_dimensions = (out_channels, *positions)
        local = (*positions, out_channels, *self.kernel_size, channels // groups)
        shape = local if storage == "local" else (*self.in_dimensions, *self.out_dimensions)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        self.bias: nn.Parameter | None = None
        if bias:
            self.bias_per: Any = bias if isinstance(bias, str) else "position"
            expect_choice("bias", self.bias_per, Bias)
            each = self.out_dimensions if self.bias_per == "position" else (out_channels,)
            self.bias = nn.Parameter(torch.empty(each, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the weights and bias anew as `init` says."""
        if self.weight.is_meta:  # nothing to draw
            return
        exists = self.field_mask().to(self.weight.device)[:, :, None, None]  # of (O, C/G)
        out_channels, *positions = self.out_dimensions
        channels = self.in_dimensions[0] // self.groups
        if self.init == "notebook":
            fan_in = torch.full_like(exists, math.prod(self.kernel_size), dtype=self.weight.dtype)
        else:
            inputs = exists.sum(dim=(4, 5), keepdim=True, dtype=self.weight.dtype) * channels
            fan_in = inputs.clamp(min=1)  # a unit that sees nothing but padding has no weights
        # Drawn as (OH, OW, O, C/G, kh, kw), so that a seed gives the weights that it always gave.
        filters = self.weight.new_empty(*positions, out_channels, channels, *self.kernel_size)
        filters.uniform_(-1, 1).mul_((6 / fan_in).sqrt()).mul_(exists)
        weight = filters.movedim(3, -1)
        if self.storage == "dense":
            weight = local_to_dense(weight, self.in_dimensions, self.window, self.groups)
        self.weight.copy_(weight)
        if self.bias is not None:
            # kaiming_uniform_(a=√5) of an (O, OH, OW) tensor is U(±1/√(OH·OW)).
            bound = 1 / math.sqrt(math.prod(positions)) if self.init == "notebook" else 0.0
            self.bias.uniform_(-bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """input (B, C, H, W) or (C, H, W) → (B, O, OH, OW) or (O, OH, OW), in memory alike; of
        dense storage contiguous.

        Raises ValueError for an input of another size, naming both.
        """
        if self.storage == "dense":
            return dense_conv2d(input, self.weight, self.bias)
        y = spatial_conv2d(
            input, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups
        )
        size = input.shape[-3:]
        if size != self.in_dimensions:  # with a stride, as many positions; other weights
            given, expected = ("×".join(map(str, s)) for s in (size, self.in_dimensions))
            raise ValueError(f"input is {given}, the layer's weights are for {expected}")
        return y

    def field_mask(self) -> Tensor:
        """Which inputs of each unit's receptive field exist: (OH, OW, kh, kw) bool."""
        _, positions_h, positions_w = self.out_dimensions
        return field_mask(self.in_dimensions[1:], self.window, (positions_h, positions_w))

    def weight_count(self) -> int:
        """The weights that exist: those of missing (padding) inputs are not counted; no bias."""
        return self.weight.numel() if self.storage == "dense" else self.weights_inside()

    def weights_inside(self) -> int:
        """The weights inside the receptive fields, of either storage."""
        return int(self.field_mask().sum()) * self.in_channels // self.groups * self.out_channels

    def dense_count(self) -> int:
        """The weights that the dense storage of this layer holds, without bias."""
        return math.prod(self.in_dimensions) * math.prod(self.out_dimensions)

    @classmethod
    def from_conv(
        cls, conv: nn.Conv2d, in_dimensions: tuple[int, int, int], storage: Storage = "local"
    ) -> Self:
        """A layer that computes what `conv` computes, each position with filters of its own.

        Hooks on it are left behind. Raises ValueError for a module that computes something else,
        for a padding that is not of zeros, and for sizes that don't fit.
        """
        expect_convolution(conv, in_dimensions[0])
        names = ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
        settings: dict[str, Any] = {name: getattr(conv, name) for name in names}
        settings |= {"device": conv.weight.device, "dtype": conv.weight.dtype}
        settings["bias"] = conv.bias is not None
        layer: Self = nn.utils.skip_init(cls, in_dimensions, conv.out_channels, **settings)
        with torch.no_grad():
            exists = layer.field_mask().to(conv.weight.device)[:, :, None, None]
            layer.weight.copy_((conv.weight * exists).movedim(3, -1))
            if layer.bias is not None and conv.bias is not None:
                layer.bias.copy_(conv.bias[:, None, None])
        layer.train(conv.training)
        if storage != "local":
            layer = layer.with_storage(storage)[0]
        layer.weight.requires_grad_(conv.weight.requires_grad)
        if layer.bias is not None and conv.bias is not None:
            layer.bias.requires_grad_(conv.bias.requires_grad)
        return layer

    @classmethod
    def from_keras(
        cls,
        kernel: object,
        bias: object,
        in_dimensions: tuple[int, int, int],
        kernel_size: Pair,
        *,
        strides: Pair = 1,
        padding: str = "valid",
        data_format: str = "channels_last",
    ) -> Self:
        """A layer that computes what a LocallyConnected2D of Keras 2 does, without its activation.

        kernel, bias: what its get_weights() gives, of any of its three implementations; bias None
            where it has none.
        in_dimensions: (C, H, W), of either data_format: this layer takes (B, C, H, W).
        kernel_size, strides, padding, data_format: Keras' own, as in its config.

        Raises ValueError where they don't fit each other.
        """
        state, ends = keras.local_state(
            kernel, bias, in_dimensions, kernel_size, strides, padding, data_format
        )
        weight = state["weight"]
        settings: Any = {"stride": strides, "padding": ends, "bias": bias is not None}
        settings |= {"device": weight.device, "dtype": weight.dtype}
        layer: Self = nn.utils.skip_init(
            cls, in_dimensions, weight.shape[2], kernel_size, **settings
        )
        layer.load_state_dict(state)
        return layer

    def to_conv(self) -> tuple[nn.Conv2d, float]:
        """The convolution whose filter is the mean over positions, and the `sharing_distance`.

        A bias a position becomes its mean, too. Raises ValueError for dense storage, and for
        padding that is not alike at both ends.
        """
        if any(isinstance(ends, tuple) for ends in self.padding):
            raise ValueError(f"padding is {self.padding}, a Conv2d's is alike at both ends")
        sizes = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
        like: Any = {"device": self.weight.device, "dtype": self.weight.dtype}
        like["bias"] = self.bias is not None
        conv = nn.Conv2d(self.in_channels, self.out_channels, *sizes, **like)  # type: ignore[arg-type]
        distance = self.sharing_distance()
        with torch.no_grad():
            exists = self.field_mask().to(self.weight.device)
            conv.weight.copy_(shared_filter(self.weight, exists).movedim(-1, 1))
            if self.bias is not None and conv.bias is not None:
                conv.bias.copy_(self.bias if self.bias.dim() == 1 else self.bias.mean((1, 2)))
        return conv, distance

    @torch.no_grad()
    def sharing_distance(self) -> float:
        """Σ‖w − w̄‖² / Σ‖w‖² over the weights that exist, w̄ their mean over positions.

        0: one filter is shared; 1: the mean is zero. Raises ValueError for dense storage.
        """
        if self.storage == "dense":
            raise ValueError("dense storage has no filters; see with_storage('local')")
        return sharing_distance(self.weight, self.field_mask().to(self.weight.device))

    def filters(self) -> Tensor:
        """The weights inside the receptive fields as filters, of either storage.

        (OH, OW, O, C/G, kh, kw): at each position what a convolution's weight would be. Of local
        storage a view.
        """
        return self._local_weight().movedim(-1, 3)

    def _local_weight(self) -> Tensor:
        if self.storage == "local":
            return self.weight
        return dense_to_local(self.weight, self.window, self.groups)

    @torch.no_grad()
    def outside_share(self) -> float:
        """The share of Σ‖w‖² outside the receptive fields, the notebook's leak: 0 at birth, and 0
        in local storage.
        """
        return 0.0 if self.storage == "local" else share_beside(self.weight, self._local_weight())

    @torch.no_grad()
    def with_storage(self, storage: Storage) -> tuple[Self, float]:
        """A copy in that storage, and the share of Σ‖w‖² that it leaves behind.

        That is what lies outside the receptive fields: 0 unless dense weights become local.
        """
        expect_choice("storage", storage, Storage)
        other = copy.deepcopy(self)
        if storage == self.storage:
            return other, 0.0
        other.storage = storage
        if storage == "dense":
            weight = local_to_dense(self.weight, self.in_dimensions, self.window, self.groups)
        else:
            weight = dense_to_local(self.weight, self.window, self.groups)
        other.weight = nn.Parameter(weight, requires_grad=self.weight.requires_grad)
        return other, share_beside(self.weight, weight) if storage == "local" else 0.0

    def extra_repr(self) -> str:
        bias = False if self.bias is None else self.bias_per
        return (
            f"{self.in_dimensions}, {self.out_dimensions[0]}, kernel_size={self.kernel_size}, "
            f"stride={self.stride}, padding={self.padding}, dilation={self.dilation}, "
            f"groups={self.groups}, bias={bias}, storage={self.storage}, init={self.init}"
        )
