"""Detects divergence: infinite or NaN losses, gradients or weights.

Each step is checked on the device. From the first bad step on, no step changes a weight: the fused
optimizers skip a step if a flag on the device is set (`found_inf`, made for mixed precision). So no
step waits for the device, and the weights stay those of the last good step.
"""

import math

import torch
from torch import Tensor, nn

from sfl.errors import Exit, UserError

HINT = "lower optimizer.lr, or set optimizer.clip_norm"


class Guard:
    """Checks the steps of one optimizer.

    Raises ValueError unless all its groups of parameters are fused.
    """

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        groups = optimizer.param_groups
        if not all(group.get("fused") for group in groups):
            raise ValueError(
                "the optimizer must be fused; sfl.learning.optimizers.build_optimizer makes one"
            )
        self._weights: list[Tensor] = [weight for group in groups for weight in group["params"]]
        device = self._weights[0].device
        self._diverged = torch.zeros((), device=device)
        self._step = torch.full((), -1, device=device, dtype=torch.int64)
        self._last_loss = torch.full((), math.nan, device=device)
        optimizer.found_inf = self._diverged  # type: ignore[attr-defined]

    def note(self, loss: Tensor, step: int) -> None:
        """Checks the loss () and the gradients, before the optimizer's step. Never waits."""
        # A sum is infinite or NaN if one of its terms is, and it is the cheapest check.
        sums = [weight.grad.sum() for weight in self._weights if weight.grad is not None]
        bad = ~torch.isfinite(torch.stack([loss.detach(), *sums]).sum())
        first = bad & (self._diverged == 0)
        self._step.copy_(torch.where(first, step, self._step))
        self._diverged.copy_(torch.maximum(self._diverged, bad))
        self._last_loss.copy_(torch.where(self._diverged == 0, loss.detach(), self._last_loss))

    def refuse(self, epoch: int, lr: float) -> None:
        """Raises UserError (exit 5) if a step was not finite. Waits for the device."""
        step = int(self._step)
        if step >= 0:
            raise _diverged(
                f"loss or gradients of epoch {epoch}, step {step + 1} are not finite "
                f"(lr {lr:g}, last finite loss {float(self._last_loss):g})"
            )


def refuse_weights(model: nn.Module, epoch: int) -> None:
    """Raises UserError (exit 5) if weights or running statistics are infinite or NaN.

    A step with finite gradients can still cause that; a good checkpoint must not be replaced then.
    """
    floats = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    if not bool(torch.isfinite(torch.stack([tensor.sum() for tensor in floats]).sum())):
        raise _diverged(f"the weights after epoch {epoch} are not finite")


def refuse_loss(loss: float, what: str) -> None:
    """Raises UserError (exit 5) if the loss is infinite or NaN; `what` names it."""
    if not math.isfinite(loss):
        raise _diverged(f"the {what} is {loss}")


def _diverged(what: str) -> UserError:
    return UserError(f"training diverged: {what}", HINT, Exit.DIVERGED)
