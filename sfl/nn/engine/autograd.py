"""Where gradients written by hand don't serve, and PyTorch's own rules must take over.

What is computed in one pass here has one gradient, of plain tensors. A compiler, a transform of
torch.func, forward mode or a gradient of a gradient asks for more; for them the same is composed of
PyTorch's own operations.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def needs_every_rule() -> bool:
    """Whether a transform of torch.func or forward mode is at work.

    Operators of one's own have no rules for these; forward mode would be silently zero.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_traced(x: Tensor) -> bool:
    """Whether x is no plain tensor (fake, batched), or something records what is done with it.

    Modes of torch functions don't count: torch.device is one.
    """
    if torch.compiler.is_compiling():  # before all that a compiler can't follow
        return True
    recorded = torch._C._len_torch_dispatch_stack() > 0 or torch._C._get_tracing_state() is not None
    return type(x) not in (Tensor, nn.Parameter) or recorded or needs_every_rule()


def needs_composition(dy: Tensor) -> bool:
    """Whether the gradient shall have one itself, or dy is many gradients at once."""
    functorch = torch._C._functorch
    many = functorch.is_functorch_wrapped_tensor(dy) or functorch.is_legacy_batchedtensor(dy)
    return torch.is_grad_enabled() or many


def derivatives(
    form: Callable[..., Tensor], ctx: Any, dy: Tensor, *inputs: Tensor
) -> tuple[Tensor | None, ...]:
    """The gradients of `form`, as something that has gradients itself."""
    with torch.enable_grad():
        y = form(*inputs)
    needed = [i for i, need in enumerate(ctx.needs_input_grad[: len(inputs)]) if need]
    found = torch.autograd.grad(y, [inputs[i] for i in needed], dy, create_graph=True)
    by_place = dict(zip(needed, found, strict=True))
    return tuple(by_place.get(i) for i in range(len(inputs)))
