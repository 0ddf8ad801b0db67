"""Modules that tracers keep whole, as they keep PyTorch's own."""

from typing import Any

from torch import nn
from torch.fx import Proxy, Tracer


class Whole(nn.Module):
    """A module that is one node in a graph of torch.fx, and refuses torch.jit.script in words.

    Its forward pass asks how its input lies in memory and such, which a Proxy can't answer.
    """

    def __call__(self, *args: Any, **named: Any) -> Any:
        for given in (*args, *named.values()):
            if isinstance(given, Proxy) and isinstance(given.tracer, Tracer):
                return _as_a_node(given.tracer, self, args, named)
        return super().__call__(*args, **named)

    def __prepare_scriptable__(self) -> nn.Module:
        """What torch.jit.script asks each module for before it reads its code."""
        raise NotImplementedError(
            f"torch.jit.script can't read {type(self).__name__}: export the model with "
            "torch.export, or with torch.jit.trace where TorchScript is needed"
        )


def _as_a_node(tracer: Tracer, module: nn.Module, args: Any, named: Any) -> Any:
    """Instead of running the module and its hooks: what calls the node will run them."""

    def node(*args: Any, **named: Any) -> Proxy:
        return tracer.create_proxy("call_module", tracer.path_of_module(module), args, named)

    return tracer.call_module(module, node, args, named)
