"""The layers of a model that have weights between units: those that rules and routes are about."""

import copy
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from sfl.nn.functional import has_own_forward
from sfl.nn.spatial import SpatialFeatureLayer

Weighted = nn.Conv2d | nn.Linear | SpatialFeatureLayer
KINDS = (nn.Conv2d, nn.Linear, SpatialFeatureLayer)


def weighted_layers(model: nn.Module) -> dict[str, Weighted]:
    """Conv2d, Linear and SpatialFeatureLayer by name, in the model's order: the last one is its
    readout, and the input of the first are the images.
    """
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, KINDS)}


def passed_by_errors(model: nn.Module, in_dimensions: tuple[int, int, int]) -> dict[str, Weighted]:
    """Those of `weighted_layers` whose input depends on what learns, by one image of (C, H, W) on
    the meta device: through their weights errors are sent back.
    """
    copied = copy.deepcopy(model).to("meta").eval()
    passed: set[str] = set()

    def note(
        name: str, layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> None:
        if any(x.requires_grad for x in (*inputs, *named.values())):
            passed.add(name)

    for name, layer in weighted_layers(copied).items():
        layer.register_forward_pre_hook(partial(note, name), with_kwargs=True)
    with torch.enable_grad():
        copied(torch.empty(1, *in_dimensions, device="meta"))
    return {name: layer for name, layer in weighted_layers(model).items() if name in passed}


def expect_no_others(model: nn.Module, norms: tuple[type[nn.Module], ...]) -> None:
    """Raises ValueError, with its name, for a module with weights of its own that is neither such
    a layer nor one of the normalisations, and for such a layer with a forward of its own.
    """
    known = (*KINDS, *norms)
    for name, module in model.named_modules():
        kind = next((kind for kind in known if isinstance(module, kind)), None)
        if kind is None and list(module.parameters(recurse=False)):
            raise ValueError(
                f"{name or 'the model'}: what a {type(module).__name__} does with weights of its "
                f"own is not known, as it is of {', '.join(kind.__name__ for kind in known)}"
            )
        if kind in KINDS and has_own_forward(module, kind):
            raise ValueError(
                f"{name or 'the model'}: a {kind.__name__} with a forward of its own; what that "
                "does with the weights is not known"
            )


def claim(layers: Mapping[str, nn.Module], way: str) -> None:
    """Notes on each layer the way by which errors reach it; "" only checks.

    Raises ValueError, with its name, for a layer that has such a note.
    """
    for name, layer in layers.items():
        if there := vars(layer).get("errors_by"):
            raise ValueError(f"{name}: has {there} already; make the model anew for another way")
    for layer in layers.values():
        vars(layer)["errors_by"] = way
