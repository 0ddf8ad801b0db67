"""Detects divergence: infinite or NaN losses, gradients or weights.

Each step is checked on the device. From the first bad step on, no step changes a weight: the fused
optimizers skip a step if a flag on the device is set (`found_inf`, made for mixed precision). So no
step waits for the device, and the weights stay those of the last good step.
"""

import math

import torch
from torch import Tensor, nn

from sfl.errors import DIVERGED, Exit, UserError

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
        # The flag, and how many steps there were since the first bad one, itself included.
        self._state = torch.zeros(2, device=device)
        self._kept = torch.tensor([0.0, 1.0], device=device)
        self._last_loss = torch.full((), math.nan, device=device)
        self._flag, self._bad_steps = self._state
        optimizer.found_inf = self._flag  # type: ignore[attr-defined]
        # There the fused optimizers take the flag and ignore it.
        self._waits = device.type == "mps"

    def note(self, loss: Tensor) -> None:
        """Checks the loss () and the gradients, before the optimizer's step. Never waits.

        Its tensors stay the same ones, and it launches nine kernels on a GPU.
        """
        loss = loss.detach()
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        # A norm is infinite or NaN if one of its numbers is; minus itself it is 0 otherwise.
        norm = nn.utils.get_total_norm([loss, *gradients])
        # Once a step was bad, all that follow are, too: 0 differs from their number.
        bad = (norm - norm).ne(self._bad_steps)
        torch.where(bad, self._last_loss, loss, out=self._last_loss)
        torch.addcmul(bad, self._state, self._kept, out=self._state)  # (bad, bad steps + bad)

    def allows_step(self) -> bool:
        """Whether the optimizer's step may be taken; where it skips bad ones by itself, always."""
        return not self._waits or not bool(self._flag)

    def refuse(self, epoch: int, lr: float, steps: int) -> None:
        """Raises UserError (exit 5) if one of the epoch's steps so far was not finite. Waits for
        the device.
        """
        bad_steps = int(self._bad_steps)
        if bad_steps:
            last = float(self._last_loss)
            before = f"last finite loss {last:g}" if last == last else "no finite loss before"
            raise _diverged(
                f"loss or gradients of epoch {epoch}, step {steps - bad_steps + 1} are not finite "
                f"(lr {lr:g}, {before})"
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
    return UserError(f"{DIVERGED}: {what}", HINT, Exit.DIVERGED)
