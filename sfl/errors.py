"""The one exception that a user sees as a line of text, and the exit codes.

Knows nothing of the rest of sfl: everything may import it.
"""

import os
from enum import IntEnum

# How the user calls us, for lines that say what to type next; scripts/sfl sets it to its own path.
PROGRAM = os.environ.get("SFL_PROGRAM", "sfl")


class Exit(IntEnum):
    """What a process of ours exits with (docs/commands.md lists them)."""

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
    """Something the user can mend: printed as one line, without a traceback.

    message: what was given, where, and what is allowed.
    hint: what to do next; printed behind the message.
    exit_code: what the process exits with.
    """

    def __init__(self, message: str, hint: str = "", exit_code: Exit = Exit.USAGE) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message
