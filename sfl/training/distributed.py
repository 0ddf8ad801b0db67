"""Opens and closes the process group of the processes that torchrun started, and checks them."""

import contextlib
import gc
import textwrap
import traceback
from collections.abc import Iterator
from datetime import timedelta
from importlib.metadata import version

import torch
import torch.distributed as dist

from sfl import torchrun
from sfl.config.schema import Config
from sfl.data.dataset import Dataset
from sfl.errors import Exit, UserError
from sfl.learning.world import World
from sfl.training.stopping import Stopped

TIMEOUT = timedelta(hours=2)  # one process of a machine may need long to read the images
LOST = ("gloo", "NCCL", "Connection closed", "Connection reset")  # in errors of a lost connection


@contextlib.contextmanager
def open_world(device: torch.device) -> Iterator[World]:
    """The World of all processes; opens their process group, and closes it at the end.

    Messages that control training use gloo on the CPU, so that none waits for a GPU. Raises
    UserError (exit 2) if torchrun can't use the device, (exit 4) if the other ranks have exited.
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
    dist.init_process_group(backend, None, TIMEOUT)
    try:
        yield world
    except (UserError, SystemExit) as leaving:
        # On a GPU, closing waits for the other ranks; only after Stopped do they close, too.
        if device.type == "cpu" or isinstance(leaving, Stopped):
            traceback.clear_frames(leaving.__traceback__)
            _close()
        raise
    except RuntimeError as error:
        if not any(part in str(error) for part in LOST):
            raise
        raise UserError(
            f"rank {world.rank} lost the other ranks: {textwrap.shorten(str(error), 120)}",
            "see their messages; a run that had started can be resumed",
            Exit.RUN,
        ) from error
    _close()


def check_workers(config: Config, device: torch.device, world: World) -> None:
    """Raises UserError (exit 2) for what several workers, or the only one, can't do."""
    if config.data.batch_size < world.size:
        raise UserError(
            f"data.batch_size: {config.data.batch_size} images can't be divided among "
            f"{world.size} workers"
        )
    if world.size > 1 and config.learn.route == "local":
        raise UserError(
            "learn.route: local compares the images of a batch, of which each of "
            f"{world.size} processes would have a part; train with one"
        )
    if config.train.sync_batchnorm and device.type != "cuda":
        raise UserError(
            f"train.sync_batchnorm: PyTorch has it for CUDA devices, not for {device.type}"
        )


def refuse_other_workers(config: Config, precision: str, dataset: Dataset, world: World) -> None:
    """Raises UserError (exit 3) where workers would not train the same thing."""
    told = {"settings": config.to_dict(share=True), "precision": precision}
    told |= {"images": dataset.describe(), "version of sfl": version("sfl")}
    for rank, other in enumerate(world.all_of(told)):
        different = [key for key, value in told.items() if other[key] != value]
        if different:
            raise UserError(
                f"worker {rank} has other {' and '.join(different)} than worker {world.rank}",
                "all machines need the same config, images and train.precision",
                Exit.DATA,
            )


def _close() -> None:
    # DistributedDataParallel has a reference cycle that keeps the group alive; a group that is
    # still open when Python exits aborts the process.
    gc.collect()
    dist.destroy_process_group()
