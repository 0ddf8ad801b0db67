"""What a model holds and costs, layer by layer: from one forward pass on the meta device."""

import copy
import math
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfl.nn.feedback.attach import FeedbackSummary, summarize_feedback
from sfl.nn.norm import UnitBatchNormReLU
from sfl.nn.spatial import SpatialFeatureLayer


@dataclass(frozen=True)
class LayerSummary:
    """One layer of a model. Shapes are of one image, with its parts in front if the model takes it
    apart for a layer; counts include the bias.

    weights: those that exist. bytes: of memory that their tensors take; a local layer with padding
    has room for weights that don't exist. dense: what the layer would hold if every input fed
    every unit with a weight of its own (None where it has no such weights). flops: of a forward
    pass of one image, two for each multiply-add of the convolutions and matrix products (those
    with the zeros of the padding included); nothing else is counted. learns: false where its
    weights never change, and where it has none.
    """

    name: str
    kind: str
    out_shape: tuple[int, ...]
    weights: int
    bytes: int
    dense: int | None
    flops: int
    sharing: str
    learns: bool = True


@dataclass(frozen=True)
class ModelSummary:
    """All layers of a model, in the order in which they run."""

    layers: tuple[LayerSummary, ...]
    activations: int  # numbers that the layers put out for one image, each in memory of its own
    feedback: FeedbackSummary | None = None  # of a backward rule, or of an error route
    step_flops: int | None = None  # of a training step, an image, where it isn't backpropagation's

    @property
    def weights(self) -> int:
        return sum(layer.weights for layer in self.layers)

    @property
    def bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers)

    @property
    def learning(self) -> int:
        """How many of the weights ever change."""
        return sum(layer.weights for layer in self.layers if layer.learns)

    @property
    def learning_bytes(self) -> int:
        return sum(layer.bytes for layer in self.layers if layer.learns)

    @property
    def flops(self) -> int:
        return sum(layer.flops for layer in self.layers)

    @property
    def training_flops(self) -> int:
        """Of a step, an image: each product again for its weights and again for its input.

        No gradient goes on before the first layer that learns: its input needs none.
        """
        if self.step_flops is not None:
            return self.step_flops
        learning = [layer.flops for layer in self.layers if layer.learns and layer.flops]
        return self.flops + 2 * sum(learning) - sum(learning[:1])

    def to_dict(self) -> dict[str, object]:
        """Sums and layers as plain values."""
        beside = {} if self.feedback is None else {"feedback_weights": self.feedback.weights}
        return {
            "weights": self.weights,
            "weight_bytes": self.bytes,
            **beside,
            "flops_per_image": self.flops,
            "training_flops_per_image": self.training_flops,
            "layers": [dict(layer.__dict__) for layer in self.layers],
        }


def summarize(
    model: nn.Module, in_dimensions: tuple[int, int, int], rule: str = "backprop"
) -> ModelSummary:
    """Runs one image of (C, H, W) through a copy of the model on the meta device.

    rule: the backward rule by which it is to learn.
    """
    model = copy.deepcopy(model).to("meta").eval()
    layers: list[LayerSummary] = []
    activations = 0

    def note(
        name: str, module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor],
        output: Tensor,
    ) -> None:  # fmt: skip
        nonlocal activations
        x = (*inputs, *named.values())[0]
        # An in-place ReLU puts its output where its input was.
        if x.untyped_storage() is not output.untyped_storage():
            activations += output.numel()
        layers.append(_layer(name, module, x, output))

    for name, module in model.named_modules():
        # PyTorch's own would load its compiler on the meta device, which takes a second.
        if isinstance(module, nn.Linear):
            module.forward = partial(_linear, module)  # type: ignore[method-assign]
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | UnitBatchNormReLU):
            module.forward = _same_size  # type: ignore[method-assign, assignment]
        if not list(module.children()) and not isinstance(module, nn.Identity):
            module.register_forward_hook(partial(note, name), with_kwargs=True)
    with torch.no_grad():
        model(torch.empty(1, *in_dimensions, device="meta"))
    return ModelSummary(tuple(layers), activations, summarize_feedback(model, rule))


def check_batch(model: nn.Module, in_dimensions: tuple[int, int, int], images: int) -> None:
    """Runs a training batch of so many images of (C, H, W) through a copy on the meta device.

    Raises ValueError that names the layer which can't be trained on such a batch, and why.
    """
    model = copy.deepcopy(model).to("meta").train()
    running = ""

    def note(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal running
        running = f"{name} {type(module).__name__}"

    for name, module in model.named_modules():
        if not list(module.children()):
            module.register_forward_pre_hook(partial(note, name))
    try:
        with torch.no_grad():
            model(torch.empty(images, *in_dimensions, device="meta"))
    except ValueError as error:
        raise ValueError(f"{running}: {error}") from None


def _linear(module: nn.Linear, x: Tensor) -> Tensor:
    if x.shape[-1] != module.in_features:
        return F.linear(x, module.weight)  # which raises, and says why
    return x.new_empty(*x.shape[:-1], module.out_features)


def _same_size(x: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _layer(name: str, module: nn.Module, x: Tensor, y: Tensor) -> LayerSummary:
    weights = sum(p.numel() for p in module.parameters())
    size = sum(p.numel() * p.element_size() for p in module.parameters())
    inputs, units = x.numel(), y.numel()
    dense, sharing, products = None, "", 0
    if isinstance(module, SpatialFeatureLayer):
        bias = 0 if module.bias is None else module.bias.numel()
        weights = module.weight_count() + bias
        dense, sharing = module.dense_count() + bias, f"none, {module.storage}"
        products = module.weight.numel() * units // math.prod(module.out_dimensions)
    elif isinstance(module, nn.Conv2d):
        dense = inputs * units + (units if module.bias is not None else 0)
        places = units // module.out_channels
        sharing, products = f"each weight at {places} places", module.weight.numel() * places
    elif isinstance(module, nn.Linear):
        dense, sharing, products = weights, "none", module.weight.numel() * units // y.shape[-1]
    learns = any(p.requires_grad for p in module.parameters())
    shape = tuple(y.shape[1:] if y.shape[:1] == (1,) else y.shape)
    return LayerSummary(
        name, type(module).__name__, shape, weights, size, dense, 2 * products,
        sharing, learns,
    )  # fmt: skip
