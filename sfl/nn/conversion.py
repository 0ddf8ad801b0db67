"""A network without weight sharing from one that has it: its convolutions become spatial layers."""

import copy
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sfl.nn.spatial import SpatialFeatureLayer

Size = tuple[int, int, int]


def without_sharing(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy of the model with a SpatialFeatureLayer in place of each of its `nn.Conv2d`.

    It computes the same as the model did, until it is trained. example: an input (B, C, H, W) of
    the model; one forward pass finds the size of each layer's input, to which it is tied from then
    on. A convolution that isn't used stays as it is.

    Raises ValueError for a convolution that is used with inputs of different sizes, for one whose
    padding isn't of zeros, and for a subclass of `nn.Conv2d` that computes something of its own.
    """
    sizes: dict[str, Size] = {}
    scratch = copy.deepcopy(model).eval()  # a forward pass in training would change statistics
    for name, module in scratch.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_pre_hook(partial(_note, sizes, name), with_kwargs=True)
    with torch.no_grad():
        scratch(example)

    model = copy.deepcopy(model)
    for name, size in sizes.items():
        conv = model.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        layer = SpatialFeatureLayer.from_conv(conv, size)
        if conv is model:
            return layer
        for alias, module in list(model.named_modules(remove_duplicate=False)):
            if module is conv:  # the same convolution may stand in several places
                model.set_submodule(alias, layer)
    return model


def _note(
    sizes: dict[str, Size], name: str, conv: nn.Conv2d, inputs: tuple[Tensor, ...], named: Any
) -> None:
    """Before a convolution runs: notes the (C, H, W) of its input, or raises ValueError."""
    own = type(conv)
    if own.forward is not nn.Conv2d.forward or own._conv_forward is not nn.Conv2d._conv_forward:
        raise ValueError(f"{name} is a {own.__name__}, which isn't known to be a mere convolution")
    channels, height, width = (*inputs, *named.values())[0].shape[-3:]
    size = (channels, height, width)
    if sizes.setdefault(name, size) != size:
        raise ValueError(
            f"{name} is used with inputs of {sizes[name]} and {size}; without sharing a layer is "
            "tied to one size"
        )
