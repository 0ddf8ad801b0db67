"""Sleep: local weights are pulled towards their mean over positions (Pogodin et al. 2021).

Sharing in time: between two sleeps nothing crosses positions.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from sfl.nn.feedback.attach import Feedback
from sfl.nn.spatial import SpatialFeatureLayer
from sfl.nn.storage import shared_filter

Kernels = Literal["one", "k2"]


class Sleep:
    """After every `every`-th step: w ← w + strength · (w̄ − w) in all local layers of a model.

    w̄: the mean of a filter's weight over the positions where its input exists; weights of padding
    stay zero. A bias a position is pulled likewise. So are the optimizer's moments of both, which
    would pull the weights apart again. 1 as strength: the filters are equal afterwards.

    kernels: "one", a mean over all positions; "k2", kh·kw means: of positions whose row has the
    same remainder by kh and whose column has the same by kw. Without dilation their fields don't
    overlap; it is the paper's own form.
    Raises ValueError for settings out of range, a model without local layers, and dense storage.
    """

    def __init__(
        self,
        model: nn.Module,
        every: int,
        strength: float = 1.0,
        kernels: Kernels = "one",
    ) -> None:
        if every < 1 or not 0 < strength <= 1 or kernels not in get_args(Kernels):
            raise ValueError(
                f"every {every} must be at least 1, strength {strength} above 0 and at most 1, "
                f"kernels {kernels!r} one of {', '.join(get_args(Kernels))}"
            )
        self.every, self.strength, self.kernels = every, strength, kernels
        modules = dict(model.named_modules())
        self.layers = {n: m for n, m in modules.items() if isinstance(m, SpatialFeatureLayer)}
        if not self.layers:
            raise ValueError("no local layer: there are no filters to be pulled together")
        for name, layer in self.layers.items():
            if layer.storage == "dense":
                raise ValueError(f"{name}: dense storage has no filters to be pulled together")
        # Made once: to send them to a GPU again would have each step that sleeps wait for it.
        self._exists = {n: m.field_mask().to(m.weight.device) for n, m in self.layers.items()}

    @torch.no_grad()
    def after_step(
        self, optimizer: torch.optim.Optimizer, step: int, feedback: Feedback | None = None
    ) -> bool:
        """After the optimizer's step of that number, counted from 0 over the whole run.

        feedback: the model's backward rules. Feedback weights that the optimizer moves (kp) sleep
        with the layer's, so that their difference goes on shrinking. Returns whether it slept.
        """
        if (step + 1) % self.every:
            return False
        for name, layer in self.layers.items():
            pools = layer.kernel_size if self.kernels == "k2" else (1, 1)
            exists = self._exists[name]
            rule = feedback.rules.get(name) if feedback else None
            for weight in [layer.weight, *(rule.parameters() if rule else [])]:
                for tensor in _with_moments(weight, optimizer):
                    pull(tensor, exists, self.strength, pools)
            if layer.bias is not None and layer.bias.dim() == 3:
                everywhere = exists.new_ones(*exists.shape[:2], 1, 1)
                for tensor in _with_moments(layer.bias, optimizer):
                    local = tensor.movedim(0, -1)[..., None, None, None]  # weights of one input
                    pull(local, everywhere, self.strength, pools)
        return True


def pull(local: Tensor, exists: Tensor, strength: float, pools: tuple[int, int]) -> None:
    """Pulls weights in local form (OH, OW, O, kh, kw, C/G) towards the means over pools, in place.

    exists: (OH, OW, kh, kw) bool. pools: a pool are the positions that have the same row modulo
    the first number, and the same column modulo the second.
    """
    for row in range(pools[0]):
        for column in range(pools[1]):
            pool = (slice(row, None, pools[0]), slice(column, None, pools[1]))
            weights, there = local[pool], exists[pool]
            weights.lerp_(shared_filter(weights, there), strength)
            weights.mul_(there[:, :, None, :, :, None])


def sleeps(every: int, first: int, stop: int) -> int:
    """The number of sleeps after the steps first, …, stop − 1, counted from 0."""
    return stop // every - first // every


def _with_moments(weight: Tensor, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """A weight, and what the optimizer keeps for each number of it."""
    moments = optimizer.state.get(weight, {}).values()
    alike = [m for m in moments if isinstance(m, Tensor) and m.shape == weight.shape]
    return [weight, *alike]
