"""A stand-in for a CUDA graph, on the CPU."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

WAITING = ("_local_scalar_dense", "nonzero")  # parts of names of operations


class Recorded(TorchDispatchMode):
    """Records the operations of `body` with the very tensors and numbers that they were given.

    A replay calls them again and puts their results where they were: what a graph would freeze is
    frozen. Recording computes, unlike a graph's; so the first replay does nothing. Raises
    RuntimeError for what makes the host wait, as a recording on a GPU does.
    """

    def __init__(self, body: Callable[[], object], waiting: Sequence[str] = WAITING) -> None:
        super().__init__()
        self._waiting = waiting
        self._calls: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0
        with self:
            body()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        if any(name in str(function) for name in self._waiting):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        outputs = function(*arguments, **(keywords or {}))
        self._calls.append((function, arguments, keywords or {}, outputs))
        return outputs

    @torch.no_grad()
    def replay(self) -> None:
        self.replays += 1
        for function, arguments, keywords, outputs in self._calls if self.replays > 1 else ():
            again = function(*arguments, **keywords)
            for old, new in zip(
                pytree.tree_leaves(outputs), pytree.tree_leaves(again), strict=True
            ):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)
