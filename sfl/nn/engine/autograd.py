"""Where gradients written by hand don't serve, and the same is composed of PyTorch's operations.

What is computed in one pass has one gradient, of plain tensors. Compilers, tracers, the transforms
of torch.func and forward-mode derivatives ask for more.
"""

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def needs_every_rule() -> bool:
    """Whether a transform of torch.func or forward mode is at work.

    Operators of one's own have no rules for these; forward mode would be silently zero.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def is_traced(x: Tensor) -> bool:
    """Whether x is no plain tensor (fake, batched), or something records what is done with it."""
    if torch.compiler.is_compiling():  # before all that a compiler can't follow
        return True
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    recorded = tracing or torch._C._len_torch_dispatch_stack() > 0
    return type(x) not in (Tensor, nn.Parameter) or recorded or needs_every_rule()
