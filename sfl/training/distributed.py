"""Several workers that train one model, started by torchrun: what they do together.

PyTorch's DistributedDataParallel averages their gradients; here is what it leaves open: sums over
all workers, agreeing when to stop, and a model that all have as the first has it. A worker that is
alone waits for nobody. Collective functions must be called by all workers, in the same order.
"""

import contextlib
import gc
import textwrap
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sfl import workers
from sfl.errors import Exit, UserError
from sfl.training.stopping import Stopped

PATIENCE = timedelta(hours=2)  # the first worker of a machine may read images for long


@dataclass(frozen=True)
class World:
    """How many workers there are, and which of them this one is."""

    size: int = 1
    rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this one writes what all have made."""
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
        """Until all have come here. Collective."""
        self.largest(0)

    def all_of(self, mine: dict[str, Any]) -> list[dict[str, Any]]:
        """What each worker gave, plain values. Collective."""
        told = [mine] * self.size
        if self.size > 1:
            dist.all_gather_object(told, mine)
        return told

    def from_first(self, make: Callable[[], str]) -> str:
        """What the first worker made; where it can't, all leave. Collective."""
        if self.size == 1:
            return make()
        told = [""]
        try:
            told = [make()] if self.is_first else told
        finally:
            dist.broadcast_object_list(told, device=torch.device("cpu"))
        if not told[0]:
            raise SystemExit(Exit.RUN)  # the first one says why
        return told[0]

    def copy_first(self, model: nn.Module) -> None:
        """Gives all the weights and statistics of the first. Collective."""
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
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return nn.parallel.DistributedDataParallel(model)


ALONE = World()


@contextlib.contextmanager
def open_world(device: torch.device) -> Iterator[World]:
    """The workers that torchrun has started, for as long as it is open.

    Messages about the training's course go over the CPU, so that no GPU is waited for. Raises
    UserError: (exit 2) where the device can't be one of several, (exit 4) where others have gone.
    """
    world = World(workers.count(), workers.rank())
    if world.size == 1:
        yield world
        return
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"train.device: {device.type}: torchrun needs cuda or cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", None, PATIENCE
    )
    try:
        yield world
    except (UserError, SystemExit) as leaving:
        # On a GPU closing waits for the others, who leave, too, after Stopped alone.
        if device.type == "cpu" or isinstance(leaving, Stopped):
            traceback.clear_frames(leaving.__traceback__)
            _close()
        raise
    except RuntimeError as error:
        text = str(error)
        if not any(
            part in text for part in ("gloo", "NCCL", "Connection closed", "Connection reset")
        ):
            raise
        raise UserError(
            f"worker {world.rank} lost the others: {textwrap.shorten(text, 120)}",
            "they say why; a run that was under way can be gone on with",
            Exit.RUN,
        ) from error
    _close()


def _close() -> None:
    # DistributedDataParallel holds itself, and so the group; one that outlives Python aborts it.
    gc.collect()
    dist.destroy_process_group()
