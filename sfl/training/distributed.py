"""The process group of several workers, started by torchrun: opened and closed.

What the workers do together stands in sfl.learning.world.
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
LOST = ("gloo", "NCCL", "Connection closed", "Connection reset")  # in errors of a lost connection


@contextlib.contextmanager
def open_world(device: torch.device) -> Iterator[World]:
    """The workers that torchrun has started.

    Numbers on the CPU go over gloo, so that sending them waits for no GPU. Raises UserError: (exit
    2) for a device that can't be one of several, (exit 4) if the connection to the others is lost.
    """
    world = World(torchrun.count(), torchrun.rank())
    if world.size == 1:
        yield world
        return
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"train.device: {device.type}: torchrun needs cuda or cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, None, PATIENCE)
    try:
        yield world
    except (UserError, SystemExit) as leaving:
        # On a GPU, closing waits for the other workers, and only after Stopped do they close too.
        if device.type == "cpu" or isinstance(leaving, Stopped):
            traceback.clear_frames(leaving.__traceback__)
            _close()
        raise
    except RuntimeError as error:
        if not any(part in str(error) for part in LOST):
            raise
        raise UserError(
            f"worker {world.rank} lost the others: {textwrap.shorten(str(error), 120)}",
            "they say why; a run that was under way can be gone on with",
            Exit.RUN,
        ) from error
    _close()


def _close() -> None:
    # DistributedDataParallel is in a reference cycle and holds the group; a group that still exists
    # when Python ends aborts the process.
    gc.collect()
    dist.destroy_process_group()
