"""The products of a layer with weights that needn't be its own: forward, and of the input gradient.

The only place that knows the kinds of layer: nn.Conv2d, nn.Linear and SpatialFeatureLayer, local
and dense. Weights have the shape of the layer's own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.grad import conv2d_input

from sfl.nn.engine import locally_connected_input_gradient
from sfl.nn.functional import dense_conv2d, spatial_conv2d
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.weighted import Weighted
from sfl.nn.window import window_of


def input_gradient(layer: Weighted, weight: Tensor, dy: Tensor, x: Tensor) -> Tensor:
    """The gradient of the layer's input x if `weight` were its weights: Wᵀ dy with W replaced.

    dy: the gradient of its output. Of x, with or without a batch, nothing but the shape is used.
    """
    if x.dim() == 3 and not isinstance(layer, nn.Linear):
        return input_gradient(layer, weight, dy[None], x[None])[0]
    if isinstance(layer, SpatialFeatureLayer) and layer.storage == "local":
        x = x.to(dy.dtype)
        return locally_connected_input_gradient(dy, weight, x, layer.window, layer.groups)
    weight = weight.to(dy.dtype)
    if isinstance(layer, nn.Linear):
        return dy @ weight
    if isinstance(layer, nn.Conv2d):
        return _conv_input_gradient(layer, weight, dy, x.shape)
    matrix = weight.flatten(3).flatten(0, 2)  # dense: (C·H·W, O·OH·OW)
    return (dy.flatten(1) @ matrix.t()).view(x.shape)


def _conv_input_gradient(conv: nn.Conv2d, weight: Tensor, dy: Tensor, size: torch.Size) -> Tensor:
    batch, channels, height, width = size
    settings = (conv.kernel_size, conv.stride, conv.padding, conv.dilation)
    window, positions = window_of((height, width), *settings)  # type: ignore[arg-type]
    # Where padding "same" adds more at the end than at the start, the end counts as input.
    padded = [
        max(inside, reach - 2 * start)
        for inside, reach, start in zip(
            (height, width), window.reach(positions), window.padding, strict=True
        )
    ]
    dx: Tensor = conv2d_input(
        (batch, channels, *padded), weight, dy, window.stride, window.padding, window.dilation,
        conv.groups,
    )  # fmt: skip
    return dx[:, :, :height, :width]


def response(layer: Weighted, weight: Tensor, x: Tensor) -> Tensor:
    """What the layer puts out for a batch x with these weights and without bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight)
    if isinstance(layer, SpatialFeatureLayer) and layer.storage == "dense":
        return dense_conv2d(x, weight)
    settings = (None, layer.stride, layer.padding, layer.dilation, layer.groups)
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(x, weight, *settings)  # type: ignore[arg-type]
    return spatial_conv2d(x, weight, *settings)  # type: ignore[arg-type]
