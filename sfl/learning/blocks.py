"""Blocks: a model cut in front of each of its layers with weights but the first.

A block is a layer with weights and all that comes behind it, up to the next one: normalisation,
ReLU, pooling, dropout. Its output is what the next layer with weights is given.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sfl.nn.weighted import claim, weighted_layers


@dataclass(frozen=True)
class Block:
    """One block of a model.

    layer: name of its layer with weights. shape: of its output for one image. parameters: names
    of all that learns in it.
    """

    layer: str
    shape: tuple[int, ...]
    parameters: frozenset[str]


def find_blocks(model: nn.Module, in_dimensions: tuple[int, int, int]) -> list[Block]:
    """The model's blocks in their order, from two images of (C, H, W) on the meta device.

    Raises ValueError, with a layer's name, where the model is no chain of blocks: cut in front of
    its layers, an error would still get from one block into another.
    """
    model = copy.deepcopy(model).to("meta").eval()
    cuts = Cuts(model)
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    dtype = next(model.parameters()).dtype
    logits = model(torch.empty(2, *in_dimensions, dtype=dtype, device="meta"))
    blocks: list[Block] = []
    elsewhere: set[str] = set()
    for layer, output in zip(weighted_layers(model), [*cuts.take(), logits], strict=True):
        gradients = torch.autograd.grad(
            output, list(learning.values()), torch.ones_like(output),
            retain_graph=True, allow_unused=True,
        )  # fmt: skip
        reached = {
            name for name, gradient in zip(learning, gradients, strict=True) if gradient is not None
        }
        if reached & elsewhere or not any(name.startswith(f"{layer}.") for name in reached):
            raise ValueError(
                f"{layer}: its block is left by more than one way: a shortcut, a layer that runs "
                "twice, or not in the order of the model's modules"
            )
        elsewhere |= reached
        blocks.append(Block(layer, tuple(output.shape[1:]), frozenset(reached)))
    return blocks


class Cuts:
    """Cuts a model into blocks: no gradient gets from one into the block before.

    Each layer with weights but the first is given x.detach(). Raises ValueError for a model with
    only one such layer, and for one that has a rule or a route already.
    """

    def __init__(self, model: nn.Module) -> None:
        self._cuts = [_Cut(name, layer) for name, layer in list(weighted_layers(model).items())[1:]]
        if not self._cuts:
            raise ValueError("only one layer with weights: no error is sent to another one")
        claim(weighted_layers(model), "a route")

    def take(self) -> list[Tensor]:
        """The outputs of all blocks but the last, of the forward pass before; forgets them."""
        return [cut.take() for cut in self._cuts]

    @contextlib.contextmanager
    def off(self) -> Iterator[None]:
        """Inside, the model is whole."""
        for cut in self._cuts:
            cut.closed = False
        try:
            yield
        finally:
            for cut in self._cuts:
                cut.closed = True


class _Cut:
    """In front of one layer: keeps what it is given, and gives it that without its history."""

    def __init__(self, name: str, layer: nn.Module) -> None:
        self.name, self.closed = name, True
        self.output: Tensor | None = None
        layer.register_forward_pre_hook(self.cut, with_kwargs=True)

    def cut(
        self, layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> tuple[tuple[Tensor], dict[str, Tensor]] | None:
        (x,) = (*inputs, *named.values())
        if not self.closed or not x.requires_grad:
            return None
        self.output = x
        return (x.detach(),), {}

    def take(self) -> Tensor:
        output, self.output = self.output, None
        if output is None:
            raise ValueError(f"{self.name}: is given nothing that depends on weights before it")
        return output
