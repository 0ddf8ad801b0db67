"""UserError, which is shown to the user as one line, and the exit codes.

Imports nothing of sfl, so that every module may import it.
"""

import os
from enum import IntEnum

# The program's name in messages that say what to type next; scripts/sfl sets it to its own path.
PROGRAM = os.environ.get("SFL_PROGRAM", "sfl")

DIVERGED = "training diverged"  # how the message of an error with exit code 5 begins


class Exit(IntEnum):
    """The exit codes (docs/commands.md explains them)."""

    DONE = 0
    BUG = 1
    USAGE = 2
    DATA = 3
    RUN = 4
    DIVERGED = 5
    RESOURCES = 6
    WORSE = 7
    INTERRUPTED = 130
    TERMINATED = 143


class UserError(Exception):
    """An error that the user can fix: printed as one line, without a traceback.

    message: what was given, where, and what is allowed.
    hint: what to do next; printed in brackets after the message.
    exit_code: the exit code of the process.
    command: the command that the hint speaks of, from `shell.command`; printed after it.
    """

    def __init__(
        self, message: str, hint: str = "", exit_code: Exit = Exit.USAGE, command: str = ""
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code
        self.command = command

    def __str__(self) -> str:
        hint = f"{self.hint}: {self.command}" if self.command else self.hint
        return f"{self.message} ({hint})" if hint else self.message
