"""Several workers that train one model, started by torchrun: what they do together.

PyTorch's DistributedDataParallel averages their gradients; here is what it leaves open: sums over
all workers, agreeing when to stop, and a model that all have as the first has it. A worker that is
alone waits for nobody. Collective functions must be called by all workers, in the same order.
"""

import contextlib
import gc
import textwrap
import traceback
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist

from sfl import torchrun
from sfl.errors import Exit, UserError
from sfl.learning.world import World
from sfl.training.stopping import Stopped

PATIENCE = timedelta(hours=2)  # the first worker of a machine may read images for long


@contextlib.contextmanager
def open_world(device: torch.device) -> Iterator[World]:
    """The workers that torchrun has started, for as long as it is open.

    Messages about the training's course go over the CPU, so that no GPU is waited for. Raises
    UserError: (exit 2) where the device can't be one of several, (exit 4) where others have gone.
    """
    world = World(torchrun.count(), torchrun.rank())
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
