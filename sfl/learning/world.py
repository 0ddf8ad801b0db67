"""Communication between the processes that train one model: sums, maxima, broadcasts.

PyTorch's DistributedDataParallel only averages gradients. Every process must call the functions
marked "Collective", in the same order; with one process they return at once.
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
    """The number of processes, and the rank of this one."""

    size: int = 1
    rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which writes all files."""
        return self.rank == 0

    def mine(self) -> slice:
        """The part of a sequence that this rank works on: every `size`-th element."""
        return slice(self.rank, None, self.size)

    def sum(self, numbers: Tensor) -> Tensor:
        """The sum over all ranks, in place and on the tensor's device. Collective."""
        if self.size > 1:
            dist.all_reduce(numbers)
        return numbers

    def gather(self, mine: Tensor, count: int) -> Tensor:
        """The whole (count, …) tensor, of which each rank has the part `mine()`. Collective."""
        if self.size == 1:
            return mine
        together = mine.new_zeros(count, *mine.shape[1:])
        together[self.mine()] = mine
        return self.sum(together)

    def largest(self, *numbers: int) -> list[int]:
        """The maximum of each number over all ranks, computed on the CPU. Collective."""
        if self.size == 1:
            return list(numbers)
        told = torch.tensor(numbers)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return [int(number) for number in told]

    def wait(self) -> None:
        """Returns when every rank has called it. Collective."""
        self.largest(0)

    def all_of(self, mine: dict[str, Any]) -> list[dict[str, Any]]:
        """The values of every rank, in the order of ranks. Collective."""
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
        """Copies the weights and statistics of rank 0 to every rank. Collective."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                told = tensor.contiguous()  # NCCL requires contiguous tensors
                dist.broadcast(told, 0)
                tensor.copy_(told)

    def parallel(self, model: nn.Module, *, sync_batchnorm: bool = False) -> nn.Module:
        """The model in DistributedDataParallel: gradients are means over the ranks. Collective."""
        if self.size == 1:
            return model
        if sync_batchnorm:
            model = synchronized(model)
        return nn.parallel.DistributedDataParallel(model)


ALONE = World()
