"""The networks by name: the notebook's three, whose defaults are its graphs, and DeepNet.

Every model takes the same keywords, which are what `model:` takes in a YAML file:
  in_dimensions  (C, H, W) of an image        classes      number of classes
  layer          "conv" (weights shared) or "spatial" (SpatialFeatureLayer, not shared)
  storage, init  see sfl.nn.spatial; storage only with layer="spatial"
  same_start     every position of a spatial layer begins with one kernel, drawn as the twin's is:
                 with the same seed both compute the same at birth
  channels       channels out of each layer   kernel_sizes one number or pair per layer
  hidden_sizes   units of the hidden linear layers of the classifier
  dropout        before the first and the last linear layer
  dropout2d      of whole feature maps, before the last block
  norm           "channel" (BatchNorm: one scale, shift and statistics a channel), "position" (for
                 each unit its own, see sfl.nn.norm) or "none"
DeepNet has more of its own, see there. Switching `layer` and nothing else gives the twin: the same
graph with or without sharing.

A module's name counts operations, as the notebook's network did: `features.1` is normalisation and
ReLU, so `features.3` is next. Names, not places, are what state_dict and `get_submodule` go by.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from sfl.nn.models.deep import DeepNet
from sfl.nn.models.graphs import GRAPHS
from sfl.nn.models.stack import Network, Stack, expect_entries


class RegularConvNet(Network):
    """Six padded layers in three pooled blocks, then three linear layers: 5,852,170 weights."""

    graph = GRAPHS["RegularConvNet"]

    def build_features(self, stack: Stack, graph: Mapping[str, Any]) -> nn.Module:
        return _three_blocks(stack, graph, same_size=True, pooled=3)


class SpatialDenseNet(Network):
    """Six unpadded layers in three blocks, the first two pooled, then two linear layers.

    7,256,446 weights in local storage, 225,543,622 in the notebook's dense one.
    """

    graph = GRAPHS["SpatialDenseNet"]

    def build_features(self, stack: Stack, graph: Mapping[str, Any]) -> nn.Module:
        return _three_blocks(stack, graph, same_size=False, pooled=2)


class SimpleModel(Network):
    """One layer and a linear classifier: 171,010 weights in local storage, 13,873,510 in dense."""

    graph = GRAPHS["SimpleModel"]

    def build_features(self, stack: Stack, graph: Mapping[str, Any]) -> nn.Module:
        expect_entries(1, channels=graph["channels"], kernel_sizes=graph["kernel_sizes"])
        if stack.norm != "none":
            raise ValueError(f"norm: {stack.norm}: this model normalises nothing; its norm is none")
        stack.add_layer(graph["channels"][0], graph["kernel_sizes"][0])
        stack.add(nn.Dropout2d(graph["dropout2d"]))
        return nn.Sequential(stack.modules)


MODELS: dict[str, type[nn.Module]] = {
    model.__name__: model for model in (RegularConvNet, SpatialDenseNet, SimpleModel, DeepNet)
}


def build_model(name: str, **settings: object) -> nn.Module:
    """The model of that name; settings are the keywords at the top of this file, None = default.

    Raises ValueError for an unknown name or value and for sizes that don't fit, TypeError for
    other keywords.
    """
    if name not in MODELS:
        raise ValueError(f"no model is called {name!r}; there are {', '.join(MODELS)}")
    return MODELS[name](**{key: value for key, value in settings.items() if value is not None})


def _three_blocks(
    stack: Stack, graph: Mapping[str, Any], *, same_size: bool, pooled: int
) -> nn.Sequential:
    """Three blocks of layer, BatchNorm, ReLU, layer, ReLU; the first `pooled` end in a pool.

    The notebook normalises only the first of two layers.
    """
    channels, kernel_sizes = graph["channels"], graph["kernel_sizes"]
    expect_entries(6, channels=channels, kernel_sizes=kernel_sizes)
    for block in range(3):
        first, second = 2 * block, 2 * block + 1
        stack.add_layer(channels[first], kernel_sizes[first], same_size)
        stack.add_norm_relu()
        stack.add_layer(channels[second], kernel_sizes[second], same_size)
        if block < pooled:
            stack.add_relu_pool()
        else:
            stack.add_relu()
        if block == 1:
            stack.add(nn.Dropout2d(graph["dropout2d"]))
    return nn.Sequential(stack.modules)
