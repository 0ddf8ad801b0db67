"""A running average of a model's weights and statistics over the steps of its training."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class Average:
    """Exponential moving average of all floating numbers of a model's state_dict.

    After step t = 1, 2, …: ā ← d ā + (1 − d) w, with d = min(decay, (1 + t) / (10 + t)): so short
    runs, and the first steps of long ones, average over about the last tenth of the steps alone.
    It begins as the weights do. Means and variances of batch normalisation are averaged likewise.

    Every number of it is on the model's device, t too: a step can be recorded as a CUDA graph.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._model, self._decay = model, decay
        own = self._own()
        self._averages = {name: tensor.clone() for name, tensor in own.items()}
        self._steps = torch.zeros((), device=next(iter(own.values())).device)

    def _own(self) -> dict[str, Tensor]:
        """The model's, which share its memory."""
        state = self._model.state_dict()
        return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}

    @torch.no_grad()
    def after_step(self) -> None:
        """After a step, of which everything is done. Never waits for the device."""
        self._steps += 1
        share = (9 / (10 + self._steps)).clamp(min=1 - self._decay)  # 9/(10+t) = 1 − (1+t)/(10+t)
        for name, own in self._own().items():
            self._averages[name].lerp_(own, share.to(own.dtype))

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Inside, the model has the averages; it is to be run, not trained."""
        own = self._own()
        before = {name: tensor.clone() for name, tensor in own.items()}
        _copy(own, self._averages)
        try:
            yield
        finally:
            _copy(own, before)

    def state(self) -> dict[str, Tensor]:
        """`steps`, and by the model's names, `model.<name>`, the averages."""
        averages = {f"model.{name}": tensor for name, tensor in self._averages.items()}
        return {"steps": self._steps, **averages}


@torch.no_grad()
def _copy(into: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    for name, tensor in into.items():
        tensor.copy_(tensors[name])
