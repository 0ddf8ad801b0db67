"""What the networks are built with: their common keywords, and a stack of modules that grows.

Knows no network by name.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from sfl.nn.engine import BatchNormReLU, ReLUMaxPool2d, batch_innermost
from sfl.nn.norm import UnitBatchNormReLU
from sfl.nn.spatial import Init, SpatialFeatureLayer, Storage, expect_choice
from sfl.nn.window import Pair, pair, window_of

Layer = Literal["conv", "spatial"]
Norm = Literal["channel", "position", "none"]
Dimensions = tuple[int, int, int]


class Network(nn.Module):
    """What all networks have in common; their keywords are listed in sfl.nn.models.networks.

    graph: the values of keywords that are None or not given, and with them the names of those that
    the network has. Raises TypeError for others.
    """

    graph: ClassVar[Mapping[str, Any]]

    def __init__(
        self,
        *,
        in_dimensions: Dimensions = (3, 32, 32),
        classes: int = 10,
        storage: Storage | None = None,
        init: Init = "receptive_field",
        same_start: bool = False,
        **given: Any,
    ) -> None:
        super().__init__()
        if others := given.keys() - self.graph.keys():
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(others))}")
        graph = {**self.graph, **{k: value for k, value in given.items() if value is not None}}
        stack = Stack(in_dimensions, graph["layer"], storage, init, graph["norm"], same_start)
        # Local layers are fastest in this order, and put out what is given in it in the same.
        self.batch_innermost = stack.layer == "spatial" and stack.storage == "local"
        self.features = self.build_features(stack, graph)
        self.classifier = self.build_classifier(stack, graph, classes)

    def build_features(self, stack: "Stack", graph: Mapping[str, Any]) -> nn.Module:
        """All before the classifier, from (B, C, H, W) to (B, *stack.dimensions)."""
        raise NotImplementedError

    def build_classifier(
        self, stack: "Stack", graph: Mapping[str, Any], classes: int
    ) -> nn.Sequential:
        """From what comes out of the features to logits (B, classes)."""
        return classifier(stack.dimensions, graph["hidden_sizes"], classes, graph["dropout"])

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W), normalised → logits (B, classes)."""
        if self.batch_innermost:
            x = batch_innermost(x)
        logits: Tensor = self.classifier(self.features(x))
        return logits


class Stack:
    """Modules under construction, and the (C, H, W) that comes out of the last of them."""

    def __init__(
        self,
        in_dimensions: Dimensions,
        layer: Layer,
        storage: Storage | None,
        init: Init,
        norm: Norm,
        same_start: bool = False,
    ) -> None:
        expect_choice("layer", layer, Layer)
        expect_choice("init", init, Init)
        expect_choice("norm", norm, Norm)
        if layer == "conv" and storage is not None:
            raise ValueError("storage is a setting of layer: spatial; a conv layer has none")
        if layer == "conv" and same_start:
            raise ValueError("same_start is for layer: spatial; a conv layer has one kernel anyway")
        self.modules: OrderedDict[str, nn.Module] = OrderedDict()
        self.operations = 0
        self.dimensions = in_dimensions
        self.layer, self.storage, self.init, self.norm = layer, storage or "local", init, norm
        self.same_start = same_start

    def add(self, module: nn.Module, operations: int = 1) -> None:
        """A module that does so many operations in a row; its name is the first one's number."""
        self.modules[str(self.operations)] = module
        self.operations += operations

    def add_layer(
        self,
        out_channels: int,
        kernel_size: Pair,
        same_size: bool = False,
        stride: int = 1,
        bias: bool = True,
    ) -> None:
        """A conv or a spatial layer; same_size pads so that an odd kernel keeps H×W, or with a
        stride s leaves H/s×W/s, rounded up.
        """
        channels, height, width = self.dimensions
        kh, kw = kernel = pair(kernel_size)
        padding = ((kh - 1) // 2, (kw - 1) // 2) if same_size else (0, 0)
        _, size = window_of((height, width), kernel, stride, padding)
        settings: Any = {"stride": stride, "padding": padding, "bias": bias}
        if self.layer == "spatial" and not self.same_start:
            settings |= {"storage": self.storage, "init": self.init}
            self.add(SpatialFeatureLayer(self.dimensions, out_channels, kernel, **settings))
        else:
            conv = nn.Conv2d(channels, out_channels, kernel, **settings)
            if self.init == "receptive_field":
                nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")  # U(±√(6 / fan-in))
                if conv.bias is not None:
                    nn.init.zeros_(conv.bias)
            self.add(conv if self.layer == "conv" else self._without_sharing(conv))
        self.dimensions = (out_channels, *size)

    def _without_sharing(self, conv: nn.Conv2d) -> SpatialFeatureLayer:
        layer = SpatialFeatureLayer.from_conv(conv, self.dimensions, self.storage)
        layer.init = self.init
        return layer

    def add_norm_relu(self, *, inplace: bool = True) -> None:
        """Two operations also where nothing is normalised: the layers' names stay the same.

        inplace: whether nobody else needs what the last layer put out.
        """
        if self.norm == "channel":
            self.add(BatchNormReLU(self.dimensions[0]), operations=2)
        elif self.norm == "position":
            self.add(UnitBatchNormReLU(self.dimensions), operations=2)
        else:
            self.add_relu(2, inplace=inplace)

    def add_relu(self, operations: int = 1, *, inplace: bool = True) -> None:
        # A dense layer puts out a view: in place of one the gradient would be copied as a whole.
        self.add(nn.ReLU(inplace=inplace and self.storage != "dense"), operations=operations)

    def add_relu_pool(self) -> None:
        channels, height, width = self.dimensions
        if min(height, width) < 2:
            raise ValueError(f"2×2 pooling needs an input of at least 2×2, not {height}×{width}")
        self.add(ReLUMaxPool2d(), operations=2)
        self.dimensions = (channels, height // 2, width // 2)


def classifier(
    dimensions: Dimensions,
    hidden_sizes: Sequence[int],
    classes: int,
    dropout: float,
    normalised: bool = False,
) -> nn.Sequential:
    """Flatten, dropout, hidden linear layers with ReLU, dropout, the logits.

    normalised: with batch normalisation in front of each ReLU, and no bias in front of that.
    """
    modules: list[nn.Module] = [nn.Flatten(), nn.Dropout(dropout)]
    sizes = [math.prod(dimensions), *hidden_sizes]
    for size_in, size_out in pairwise(sizes):
        modules.append(nn.Linear(size_in, size_out, bias=not normalised))
        modules += [nn.BatchNorm1d(size_out)] if normalised else []
        modules.append(nn.ReLU(inplace=True))
    if hidden_sizes:
        modules.append(nn.Dropout(dropout))
    return nn.Sequential(*modules, nn.Linear(sizes[-1], classes))


def expect_entries(count: int, **lists: Sequence[object]) -> None:
    for name, values in lists.items():
        if len(values) != count:
            layers = "1 layer" if count == 1 else f"{count} layers"
            raise ValueError(f"{name}: {len(values)} given, this model has {layers}")
