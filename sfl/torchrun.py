"""This process's rank, and the number of processes, from torchrun's environment variables.

Does not import torch: `progress` needs the rank before torch is imported.
"""

import os

from sfl.errors import UserError


def count() -> int:
    """The number of processes on all machines together; 1 without torchrun."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """This process's number, from 0. Rank 0 writes the files and prints."""
    return _number("RANK", 0)


def local_rank() -> int:
    """This process's number on its machine, which is also the number of its GPU."""
    return _number("LOCAL_RANK", 0)


def local_count() -> int:
    """The number of processes on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def refuse_several(command: str) -> None:
    """Raises UserError (exit 2) under torchrun, where each process would run the command."""
    if count() > 1:
        raise UserError(f"torchrun works only with sfl train, not with sfl {command}")


def _number(name: str, alone: int) -> int:
    # Other launchers set RANK and WORLD_SIZE, too; only torchrun sets TORCHELASTIC_RUN_ID.
    return int(os.environ.get(name, alone)) if "TORCHELASTIC_RUN_ID" in os.environ else alone
