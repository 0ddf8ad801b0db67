"""Error routes: by which way the errors of a network's output reach its layers."""

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Route(Protocol):
    """Fills the gradients of a model's weights, and of its own."""

    def backward(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        """The backward pass of a step, from its loss ()."""

    def parameters(self) -> list[Tensor]:
        """Weights of its own that the optimizer moves."""

    def state(self) -> dict[str, Tensor]:
        """What resuming needs, by name."""

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Puts back what `state` gave."""


class Chain:
    """chain: through all layers above, as the chain rule has it."""

    def backward(self, loss: Tensor, logits: Tensor, labels: Tensor) -> None:
        loss.backward()

    def parameters(self) -> list[Tensor]:
        return []

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        pass
