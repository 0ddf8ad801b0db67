"""The notebook's three networks, as plain modules; their defaults are the notebook's graphs.

Every model takes the same keywords, which are what `model:` takes in a YAML file:
  in_dimensions  (C, H, W) of an image        classes      number of classes
  layer          "conv" (weights shared) or "spatial" (SpatialFeatureLayer, not shared)
  storage, init  see sfl.nn.spatial; storage only with layer="spatial"
  channels       channels out of each layer   kernel_sizes one number or pair per layer
  hidden_sizes   units of the hidden linear layers of the classifier
  dropout        before the first and the last linear layer
  dropout2d      of whole feature maps, before the last block
  norm           "channel" (BatchNorm: one scale, shift and statistics a channel), "position" (for
                 each unit its own, see sfl.nn.norm) or "none"
Switching `layer` and nothing else gives the twin: the same graph with or without sharing.

A module's name counts operations, as the notebook's network did: `features.1` is normalisation and
ReLU, so `features.3` is next. Names, not places, are what state_dict and `get_submodule` go by.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from sfl.nn.engine import BatchNormReLU, ReLUMaxPool2d, batch_innermost
from sfl.nn.models.graphs import GRAPHS
from sfl.nn.norm import UnitBatchNormReLU
from sfl.nn.spatial import Init, SpatialFeatureLayer, Storage, expect_choice
from sfl.nn.window import Pair, pair, window_of

Layer = Literal["conv", "spatial"]
Norm = Literal["channel", "position", "none"]
Dimensions = tuple[int, int, int]


class _Network(nn.Module):
    """What the three have in common. Keywords that are None have the values of `graph`."""

    graph: ClassVar[dict[str, Any]]

    def __init__(
        self,
        *,
        in_dimensions: Dimensions = (3, 32, 32),
        classes: int = 10,
        layer: Layer | None = None,
        storage: Storage | None = None,
        init: Init = "receptive_field",
        channels: Sequence[int] | None = None,
        kernel_sizes: Sequence[Pair] | None = None,
        hidden_sizes: Sequence[int] | None = None,
        dropout: float | None = None,
        dropout2d: float | None = None,
        norm: Norm | None = None,
    ) -> None:
        super().__init__()
        given = {
            "layer": layer, "channels": channels, "kernel_sizes": kernel_sizes,
            "hidden_sizes": hidden_sizes, "dropout": dropout, "dropout2d": dropout2d, "norm": norm,
        }  # fmt: skip
        graph = self.graph | {key: value for key, value in given.items() if value is not None}
        stack = _Stack(in_dimensions, graph["layer"], storage, init, graph["norm"])
        # Local layers are fastest in this order, and put out what is given in it in the same.
        self.batch_innermost = stack.layer == "spatial" and stack.storage == "local"
        self._add_features(stack, graph["channels"], graph["kernel_sizes"], graph["dropout2d"])
        self.features = nn.Sequential(stack.modules)
        self.classifier = _classifier(
            stack.dimensions, graph["hidden_sizes"], classes, graph["dropout"]
        )

    def _add_features(
        self, stack: "_Stack", channels: list[int], kernel_sizes: list[Pair], dropout2d: float
    ) -> None:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W), normalised → logits (B, classes)."""
        if self.batch_innermost:
            x = batch_innermost(x)
        logits: Tensor = self.classifier(self.features(x))
        return logits


class RegularConvNet(_Network):
    """Six padded layers in three pooled blocks, then three linear layers: 5,852,170 weights."""

    graph = GRAPHS["RegularConvNet"]

    def _add_features(self, stack: "_Stack", *sizes: Any) -> None:
        stack.add_blocks(*sizes, same_size=True, pooled=3)


class SpatialDenseNet(_Network):
    """Six unpadded layers in three blocks, the first two pooled, then two linear layers.

    7,256,446 weights in local storage, 225,543,622 in the notebook's dense one.
    """

    graph = GRAPHS["SpatialDenseNet"]

    def _add_features(self, stack: "_Stack", *sizes: Any) -> None:
        stack.add_blocks(*sizes, same_size=False, pooled=2)


class SimpleModel(_Network):
    """One layer and a linear classifier: 171,010 weights in local storage, 13,873,510 in dense."""

    graph = GRAPHS["SimpleModel"]

    def _add_features(
        self, stack: "_Stack", channels: list[int], kernel_sizes: list[Pair], dropout2d: float
    ) -> None:
        _expect_entries(1, channels=channels, kernel_sizes=kernel_sizes)
        if stack.norm != "none":
            raise ValueError(f"norm: {stack.norm}: this model normalises nothing; its norm is none")
        stack.add_layer(channels[0], kernel_sizes[0])
        stack.add(nn.Dropout2d(dropout2d))


MODELS: dict[str, type[nn.Module]] = {
    model.__name__: model for model in (RegularConvNet, SpatialDenseNet, SimpleModel)
}


def build_model(name: str, **settings: object) -> nn.Module:
    """The model of that name; settings are the keywords at the top of this file, None = default.

    Raises ValueError for an unknown name or value and for sizes that don't fit, TypeError for
    other keywords.
    """
    if name not in MODELS:
        raise ValueError(f"no model is called {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name](**{key: value for key, value in settings.items() if value is not None})


class _Stack:
    """Modules under construction, and the (C, H, W) that comes out of the last of them."""

    def __init__(
        self,
        in_dimensions: Dimensions,
        layer: Layer,
        storage: Storage | None,
        init: Init,
        norm: Norm,
    ) -> None:
        expect_choice("layer", layer, Layer)
        expect_choice("init", init, Init)
        expect_choice("norm", norm, Norm)
        if layer == "conv" and storage is not None:
            raise ValueError("storage is a setting of layer: spatial; a conv layer has none")
        self.modules: OrderedDict[str, nn.Module] = OrderedDict()
        self.operations = 0
        self.dimensions = in_dimensions
        self.layer, self.storage, self.init, self.norm = layer, storage or "local", init, norm

    def add(self, module: nn.Module, operations: int = 1) -> None:
        """A module that does so many operations in a row; its name is the first one's number."""
        self.modules[str(self.operations)] = module
        self.operations += operations

    def add_layer(self, out_channels: int, kernel_size: Pair, same_size: bool = False) -> None:
        """A conv or a spatial layer; same_size pads so that an odd kernel keeps H×W."""
        channels, height, width = self.dimensions
        kh, kw = kernel = pair(kernel_size)
        padding = ((kh - 1) // 2, (kw - 1) // 2) if same_size else (0, 0)
        _, size = window_of((height, width), kernel, 1, padding)
        if self.layer == "conv":
            conv = nn.Conv2d(channels, out_channels, kernel, padding=padding)
            if self.init == "receptive_field":
                nn.init.kaiming_uniform_(conv.weight, nonlinearity="relu")  # U(±√(6 / fan-in))
                assert conv.bias is not None
                nn.init.zeros_(conv.bias)
            self.add(conv)
        else:
            settings: Any = {"padding": padding, "storage": self.storage, "init": self.init}
            self.add(SpatialFeatureLayer(self.dimensions, out_channels, kernel, **settings))
        self.dimensions = (out_channels, *size)

    def add_blocks(
        self,
        channels: Sequence[int],
        kernel_sizes: Sequence[Pair],
        dropout2d: float,
        *,
        same_size: bool,
        pooled: int,
    ) -> None:
        """Three blocks of layer, BatchNorm, ReLU, layer, ReLU; the first `pooled` end in a pool.

        The notebook normalises only the first of two layers.
        """
        _expect_entries(6, channels=channels, kernel_sizes=kernel_sizes)
        for block in range(3):
            first, second = 2 * block, 2 * block + 1
            self.add_layer(channels[first], kernel_sizes[first], same_size)
            self.add_norm_relu()
            self.add_layer(channels[second], kernel_sizes[second], same_size)
            if block < pooled:
                self.add_relu_pool()
            else:
                self.add(nn.ReLU(inplace=True))
            if block == 1:
                self.add(nn.Dropout2d(dropout2d))

    def add_norm_relu(self) -> None:
        """Two operations also where nothing is normalised: the layers' names stay the same."""
        if self.norm == "channel":
            self.add(BatchNormReLU(self.dimensions[0]), operations=2)
        elif self.norm == "position":
            self.add(UnitBatchNormReLU(self.dimensions), operations=2)
        else:
            self.add(nn.ReLU(inplace=True), operations=2)

    def add_relu_pool(self) -> None:
        channels, height, width = self.dimensions
        if min(height, width) < 2:
            raise ValueError(f"2×2 pooling needs an input of at least 2×2, not {height}×{width}")
        self.add(ReLUMaxPool2d(), operations=2)
        self.dimensions = (channels, height // 2, width // 2)


def _classifier(
    dimensions: Dimensions, hidden_sizes: Sequence[int], classes: int, dropout: float
) -> nn.Sequential:
    """Flatten, dropout, hidden linear layers with ReLU, dropout, the logits."""
    channels, height, width = dimensions
    modules: list[nn.Module] = [nn.Flatten(), nn.Dropout(dropout)]
    sizes = [channels * height * width, *hidden_sizes]
    for size_in, size_out in pairwise(sizes):
        modules += [nn.Linear(size_in, size_out), nn.ReLU(inplace=True)]
    if hidden_sizes:
        modules.append(nn.Dropout(dropout))
    return nn.Sequential(*modules, nn.Linear(sizes[-1], classes))


def _expect_entries(count: int, **lists: Sequence[object]) -> None:
    for name, values in lists.items():
        if len(values) != count:
            raise ValueError(f"{name} has {len(values)} entries, this model has {count} layers")
