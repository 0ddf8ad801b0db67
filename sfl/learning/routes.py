"""Error routes: by which way the errors of a network's output reach its layers.

A route is joined to a model when it is made, before torch.compile. Blocks: sfl.learning.blocks.
"""

import contextlib
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from sfl.learning.blocks import Cuts, find_blocks
from sfl.learning.local_losses import Kind, LocalLoss, Loss
from sfl.nn.feedback.drawing import Draw, uniform
from sfl.nn.weighted import claim, weighted_layers

Size = tuple[int, int, int]


class Route:
    """Fills the gradients of a model's weights, and of its own."""

    def backward(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """The backward pass of a step: its loss (), computed from logits (B, classes), and the
        labels (B,).
        """
        loss.backward()

    def parameters(self) -> list[Tensor]:
        """Weights of its own that the optimizer moves."""
        return []

    def heads(self) -> dict[str, int]:
        """By a block's layer: how many weights of its own loss send the error back into it."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What resuming needs, as `<layer>.<name>`: the layer whose block it serves. The tensors
        themselves, to be copied into.
        """
        return {}

    def off(self) -> AbstractContextManager[None]:
        """Inside, the model is as it was before it had the route: loss.backward() gives the true
        gradients.
        """
        return contextlib.nullcontext()


class Chain(Route):
    """chain: through all layers above, as the chain rule has it."""


class Frozen(Route):
    """frozen: not at all; only the last block learns.

    All parameters outside it need no gradient from now on. Running means and variances of batch
    normalisation still follow the batches. Make it before the optimizer. Raises ValueError as
    `find_blocks` does.
    """

    def __init__(self, model: nn.Module, in_dimensions: Size) -> None:
        *_, last = find_blocks(model, in_dimensions)
        claim(weighted_layers(model), "a route")
        named = model.named_parameters()
        self._frozen = [p for n, p in named if p.requires_grad and n not in last.parameters]
        self._need_gradients(False)

    def _need_gradients(self, needed: bool) -> None:
        for parameter in self._frozen:
            parameter.requires_grad_(needed)

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        self._need_gradients(True)
        try:
            yield
        finally:
            self._need_gradients(False)


class DirectFeedback(Route):
    """dfa: from the output to each block, through fixed random weights (Nøkland 2016).

    e = dL/dlogits (B, classes). The gradient of a block's output h, of n units, is e P, with a
    fixed P (classes, n) of its own: a weight for each class and unit, and for each place of a map.
    ReLU, pooling, dropout and normalisation in the block differentiate as they are. The last block
    has its true gradient.

    P is drawn from U(±1/√n), as PyTorch draws a linear readout of h. So ‖e P‖ is ‖e‖/√3 on average,
    for all blocks. Backpropagation has the same at birth for the last h before a linear readout,
    and in SpatialDenseNet and RegularConvNet between 0.06 and 0.7 ‖e‖ for the others.

    draw: gives generators, as partial(sfl.learning.seeding.generator, seed) does. Raises
    ValueError as `find_blocks` does.
    """

    def __init__(self, model: nn.Module, in_dimensions: Size, draw: Draw) -> None:
        *blocks, last = find_blocks(model, in_dimensions)
        self._cuts = Cuts(model)
        weight = next(model.parameters())
        self._projections: dict[str, Tensor] = {}
        for place, block in enumerate(blocks):
            shape = (*last.shape, *block.shape)
            self._projections[block.layer] = weight.new_empty(shape, requires_grad=False)
            if weight.is_meta:
                continue  # nothing is drawn for a summary
            drawn = uniform(shape, weight.dtype, draw("projection", place))
            drawn *= 1 / math.sqrt(math.prod(block.shape))
            self._projections[block.layer].copy_(drawn)

    def backward(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        outputs = self._cuts.take()
        (error,) = torch.autograd.grad(loss, logits)
        gradients = [
            (error.to(projection.dtype) @ projection.flatten(1)).view(output.shape).to(output.dtype)
            for output, projection in zip(outputs, self._projections.values(), strict=True)
        ]
        torch.autograd.backward([logits, *outputs], [error, *gradients])

    def state(self) -> dict[str, Tensor]:
        return {f"{layer}.projection": p for layer, p in self._projections.items()}

    def off(self) -> AbstractContextManager[None]:
        return self._cuts.off()


class LocalLosses(Route):
    """local: each block but the last learns from a loss of its own (Nøkland & Eidnes 2019).

    kind, loss: see `LocalLoss`. The last block has the network's loss. No gradient is sent from a
    block to another. One optimizer serves all: what it does with a weight must not depend on those
    of other blocks, so that a global clip_norm isn't for it.

    The paper's losses look at a block before its pooling and dropout, these behind them. Raises
    ValueError as `find_blocks` does.
    """

    def __init__(
        self, model: nn.Module, in_dimensions: Size, draw: Draw, kind: Kind, loss: Loss
    ) -> None:
        *blocks, last = find_blocks(model, in_dimensions)
        self._cuts = Cuts(model)
        self._losses: dict[str, LocalLoss] = {}
        for place, block in enumerate(blocks):
            layer = model.get_submodule(block.layer)
            head = LocalLoss(layer, block.shape, last.shape[0], kind, loss, draw("head", place))
            self._losses[block.layer] = head

    def backward(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        outputs = self._cuts.take()
        losses = self._losses.values()
        local = [own(output, labels) for own, output in zip(losses, outputs, strict=True)]
        torch.autograd.backward([loss, *local])

    def parameters(self) -> list[Tensor]:
        return [weight for loss in self._losses.values() for weight in loss.parameters()]

    def heads(self) -> dict[str, int]:
        return {
            layer: sum(weight.numel() for weight in loss.parameters() if weight.dim() > 1)
            for layer, loss in self._losses.items()
        }

    def state(self) -> dict[str, Tensor]:
        return {
            f"{layer}.{name}": tensor
            for layer, loss in self._losses.items()
            for name, tensor in loss.state_dict().items()
        }

    def off(self) -> AbstractContextManager[None]:
        return self._cuts.off()
