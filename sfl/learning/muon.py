"""Muon: steps that are orthogonal matrices (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

torch.optim.Muon is for matrices alone; this one takes a local layer's weights as one matrix for
each position, so that no position's step depends on another's.
"""

import math
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, by Jordan et al.
ITERATIONS = 5
SIZE = 0.2  # root mean square of a step's numbers / lr, as AdamW's (Liu et al. 2025, eq. 4)


class Muon(torch.optim.Optimizer):
    """Muon for the groups that are called `orthogonal`, AdamW for all others.

    With the momentum m ← μ m + (1 − μ) g of the gradient g, Nesterov's form u = μ m + (1 − μ) g,
    and its orthogonalised matrix O:  w ← (1 − lr · decay) w − lr · 0.2 √max(rows, columns) · O.
    A convolution's matrix is (O, C/G·kh·kw), a local layer's at each position (O, kh·kw·C/G).
    0.2 √max gives a step the size that AdamW's has, so that one lr serves both.

    Like the fused optimizers it changes no weight where `found_inf`, a flag on the device, is set.

    groups: of parameters; an orthogonal one holds weights of linear layers, convolutions and local
    layers. betas: of AdamW.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        groups: list[dict[str, Any]],
        lr: float,
        *,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self._adamw = torch.optim.AdamW(groups, lr, betas, weight_decay=weight_decay, fused=True)
        super().__init__(
            groups, {**self._adamw.defaults, "momentum": momentum, "orthogonal": False}
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step on the gradients that there are."""
        for group in self.param_groups:
            for weight in group["params"] if group["orthogonal"] else ():
                if weight.grad is not None:
                    self._move(weight, group)
        self._adamw.param_groups = [g for g in self.param_groups if not g["orthogonal"]]
        self._adamw.state = self.state
        self._adamw.found_inf = self.found_inf  # type: ignore[attr-defined]
        self._adamw.step()

    def _move(self, weight: Tensor, group: dict[str, Any]) -> None:
        gradient, state, mu = weight.grad, self.state[weight], group["momentum"]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        momentum = state["momentum_buffer"].lerp_(gradient, 1 - mu)
        matrices = _matrices(gradient.lerp(momentum, mu))
        size = SIZE * math.sqrt(max(matrices.shape[-2:]))
        step = orthogonalized(matrices).to(weight.dtype).reshape(weight.shape)
        moved = weight * (1 - group["lr"] * group["weight_decay"]) - step * (group["lr"] * size)
        if self.found_inf is not None:
            moved = torch.where(self.found_inf == 0, moved, weight)
        weight.copy_(moved)


def _matrices(weight: Tensor) -> Tensor:
    """(N, rows, columns): of a local layer's (OH, OW, O, kh, kw, C/G), (OH·OW, O, kh·kw·C/G)."""
    if weight.dim() == 6:
        return weight.flatten(0, 1).flatten(2)
    return weight.flatten(1)[None]


def orthogonalized(matrices: Tensor) -> Tensor:
    """U Vᵀ of each matrix U S Vᵀ of (N, rows, columns), about: its singular values lie between 0.7
    and 1.2 where S isn't tiny beside the largest one. Zero columns stay zero.

    Under torch.autocast its products and the result are in bfloat16, as by Jordan et al.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: Tensor = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x
