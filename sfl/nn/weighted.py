"""The layers of a model that have weights between units: those that rules and routes are about."""

from torch import nn

from sfl.nn.spatial import SpatialFeatureLayer

Weighted = nn.Conv2d | nn.Linear | SpatialFeatureLayer


def weighted_layers(model: nn.Module) -> dict[str, Weighted]:
    """Conv2d, Linear and SpatialFeatureLayer by name, in the model's order: the last one is its
    readout, and the input of the first are the images.
    """
    kinds = (nn.Conv2d, nn.Linear, SpatialFeatureLayer)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
