"""Several workers that train one model: sums over all of them, agreeing, one model for all.

PyTorch's DistributedDataParallel averages their gradients; here is the rest. A single worker sends
and waits for nothing. All workers must call the collective functions, in the same order.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sfl.errors import Exit
from sfl.nn.engine import synchronized


@dataclass(frozen=True)
class World:
    """How many workers there are, and which of them this one is."""

    size: int = 1
    rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes the files."""
        return self.rank == 0

    def mine(self) -> slice:
        """The places of this worker among all of something: every `size`-th."""
        return slice(self.rank, None, self.size)

    def sum(self, numbers: Tensor) -> Tensor:
        """Their sum over the workers, in place and on their device. Collective."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def gather(self, mine: Tensor, count: int) -> Tensor:
        """(count, …) of which each worker has the places `self.mine()`. Collective."""
        if self.size == 1:
            return mine
        together = mine.new_zeros(count, *mine.shape[1:])
        together[self.mine()] = mine
        return self.sum(together)

    def largest(self, *numbers: int) -> list[int]:
        """The largest of each over the workers; waits for them, not for a device. Collective."""
        if self.size == 1:
            return list(numbers)
        told = torch.tensor(numbers)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return [int(number) for number in told]

    def wait(self) -> None:
        """Until all workers have called it. Collective."""
        self.largest(0)

    def all_of(self, mine: dict[str, Any]) -> list[dict[str, Any]]:
        """Every worker's plain values, by rank. Collective."""
        told = [mine] * self.size
        if self.size > 1:
            dist.all_gather_object(told, mine)
        return told

    def from_first(self, make: Callable[[], str]) -> str:
        """Rank 0's value, sent to all; if rank 0 fails, every rank exits. Collective."""
        if self.size == 1:
            return make()
        told = [""]
        try:
            told = [make()] if self.is_first else told
        finally:
            dist.broadcast_object_list(told, device=torch.device("cpu"))
        if not told[0]:
            raise SystemExit(Exit.RUN)  # rank 0 prints the reason
        return told[0]

    def copy_first(self, model: nn.Module) -> None:
        """Copies rank 0's weights and statistics into the model of every rank. Collective."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                told = tensor.contiguous()  # NCCL takes no other order in memory
                dist.broadcast(told, 0)
                tensor.copy_(told)

    def parallel(self, model: nn.Module, *, sync_batchnorm: bool = False) -> nn.Module:
        """The same model, whose gradients are means over the workers. Collective."""
        if self.size == 1:
            return model
        if sync_batchnorm:
            model = synchronized(model)
        return nn.parallel.DistributedDataParallel(model)


ALONE = World()
