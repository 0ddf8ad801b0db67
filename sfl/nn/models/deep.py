"""A network of any depth: layer, normalisation, ReLU, as often as its lists say.

Its default is D-LOCAL of Neyshabur (2020, "Towards Learning Convolutions from Scratch", tables 1
and 3) with a = 15, its twin with layer="conv" is D-CONV.
"""

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F

from sfl.nn.engine import ReLUMaxPool2d, Whole, pooled
from sfl.nn.models.graphs import GRAPHS
from sfl.nn.models.stack import Dimensions, Network, Stack, classifier, expect_entries
from sfl.nn.spatial import expect_choice

Pool = Literal["stride", "max", "average"]
Shortcuts = Literal["none", "identity"]


class DeepNet(Network):
    """Padded layers, each with normalisation and a ReLU; then the hidden layers, likewise.

    channels, strides, kernel_sizes: of any length, of which an odd kernel keeps H×W at stride 1.
    pool: what makes maps smaller by the strides. "stride": the layers themselves. "max", "average":
        a pooling behind the ReLU, and the layer has stride 1. Max pools by 2 alone.
    shortcut: "identity": behind the first layer each two are a block, to whose output, in front of
        its normalisation, that of the block before is added (He et al. 2016, "Identity mappings"):
        its maps averaged to the new size, zeros for the channels that are new, so without weights.
        A last layer without a partner has none. "none": none.

    Layers in front of a normalisation have no bias. Of the default: 11,713,920 weights between
    units with those of padding, as the paper counts, 10,782,720 of them local.
    """

    graph = GRAPHS["DeepNet"]

    def build_features(self, stack: Stack, graph: Mapping[str, Any]) -> nn.Module:
        lists = {name: graph[name] for name in ("channels", "strides", "kernel_sizes")}
        count = len(lists["channels"])
        if not count:
            raise ValueError("channels is empty, at least one layer is needed")
        expect_entries(count, **lists)
        expect_choice("pool", graph["pool"], Pool)
        expect_choice("shortcut", graph["shortcut"], Shortcuts)
        bridged, before = graph["shortcut"] == "identity", stack.dimensions
        for place, (channels, stride, kernel_size) in enumerate(zip(*lists.values(), strict=True)):
            _, height, width = stack.dimensions
            if stride > min(height, width) > 1:
                raise ValueError(f"strides: {stride} leaves one corner of {height}×{width}")
            pooled = graph["pool"] != "stride" and stride > 1
            if place == count - 1 and graph["dropout2d"]:
                stack.add(nn.Dropout2d(graph["dropout2d"]))
            stack.add_layer(
                channels, kernel_size, True, 1 if pooled else stride, bias=stack.norm == "none"
            )
            if bridged and place and place % 2 == 0:
                stack.add(Shortcut(before, stack.dimensions))
            if place % 2 == 0:
                before = stack.dimensions
            stack.add_norm_relu(inplace=not bridged)
            if pooled:
                _add_pool(stack, graph["pool"], stride)
        return Features(stack.modules)

    def build_classifier(
        self, stack: Stack, graph: Mapping[str, Any], classes: int
    ) -> nn.Sequential:
        sizes, dropout = graph["hidden_sizes"], graph["dropout"]
        return classifier(stack.dimensions, sizes, classes, dropout, stack.norm != "none")


class Features(nn.Sequential):
    """Modules in a row, with shortcuts from the first, and from each shortcut, to the next one."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) → (B, C, H, W) of the last module."""
        kept: Tensor | None = None
        for module in self:
            x = module(x, kept) if isinstance(module, Shortcut) else module(x)
            if kept is None or isinstance(module, Shortcut):
                kept = x
        return x


class Shortcut(Whole):
    """Adds a block's input to its output, in place and without weights.

    before, after: (C, H, W) of the two. Raises ValueError where there are fewer channels after, or
    H and W are not divided by one whole number.
    """

    def __init__(self, before: Dimensions, after: Dimensions) -> None:
        super().__init__()
        self.before, self.after = before, after
        channels, height, _ = before
        self.factor = height // after[1]
        if channels > after[0] or (after[1] * self.factor, after[2] * self.factor) != before[1:]:
            given, wanted = ("×".join(map(str, size)) for size in (before, after))
            raise ValueError(
                f"shortcut: identity: from {given} to {wanted}: channels must not become fewer, "
                "and height and width must be divided by one whole number"
            )

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        """y (B, *after), x (B, *before) → y, changed in place."""
        x = average_pool(x, self.factor) if self.factor > 1 else x
        if x.shape == y.shape:
            return y.add_(x)
        y.narrow(1, 0, x.shape[1]).add_(x)
        return y

    def extra_repr(self) -> str:
        return f"{self.before}, {self.after}"


class AveragePool2d(Whole):
    """nn.AvgPool2d, which leaves the order in memory as it is."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) → (B, C, H/factor, W/factor), rounded down."""
        return average_pool(x, self.factor)

    def extra_repr(self) -> str:
        return f"{self.factor}"


def average_pool(x: Tensor, factor: int) -> Tensor:
    """F.avg_pool2d(x, factor) in the order in memory of x (B, C, H, W)."""
    return pooled(x, lambda image: F.avg_pool2d(image, factor))


def _add_pool(stack: Stack, pool: Pool, factor: int) -> None:
    channels, height, width = stack.dimensions
    if pool == "max" and factor != 2:
        raise ValueError(f"pool: max: only for strides of 1 and 2, not {factor}")
    if min(height, width) < factor:
        raise ValueError(f"pool: {pool} by {factor} leaves nothing of {height}×{width}")
    stack.add(ReLUMaxPool2d() if pool == "max" else AveragePool2d(factor))
    stack.dimensions = (channels, height // factor, width // factor)
