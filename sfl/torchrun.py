"""Which of several workers this process is, as torchrun says in the environment.

Knows no torch: who prints is decided before anything is imported.
"""

import os

from sfl.errors import UserError


def count() -> int:
    """How many workers there are, on all machines together; 1 without torchrun."""
    return _number("WORLD_SIZE", 1)


def rank() -> int:
    """This worker's number, from 0: the first one writes and speaks."""
    return _number("RANK", 0)


def local_rank() -> int:
    """Its number among those of this machine: which of the GPUs is its own."""
    return _number("LOCAL_RANK", 0)


def refuse_several(command: str) -> None:
    """Raises UserError (exit 2) for a command that several workers would do several times."""
    if count() > 1:
        raise UserError(f"torchrun is for sfl train alone, not for sfl {command}")


def _number(name: str, alone: int) -> int:
    # Other launchers leave such variables, too, and mean nothing by them for us.
    return int(os.environ.get(name, alone)) if "TORCHELASTIC_RUN_ID" in os.environ else alone
