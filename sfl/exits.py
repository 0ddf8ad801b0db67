"""Every way out of a command line: its exit code and, unless it is done, one line that says why.

Knows no command; `sfl.cli` gives it the whole program.
"""

import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from typing import NoReturn

import typer

from sfl.errors import Exit, UserError


def run(program: Callable[[list[str]], object]) -> NoReturn:
    """Calls the program with the arguments of this process and exits as the design says.

    `--debug`, anywhere among the arguments, shows the traceback of an error before its line.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    signal.signal(signal.SIGTERM, _on_sigterm)
    warnings.showwarning = _one_line
    for stream in (sys.stdout, sys.stderr):  # a name of odd bytes must not stop a print
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = program(arguments)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else Exit.DONE)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:  # `sfl runs | head`: what wasn't read wasn't wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(Exit.DONE)
    except Exception as error:
        if debug:
            traceback.print_exc()
        line, exit_code = describe(error)
        print(f"error: {line}", file=sys.stderr)
        sys.exit(exit_code)


def describe(error: Exception) -> tuple[str, Exit]:
    """An exception as a line for the user, and what the process exits with."""
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # typer's own: an option or command that there isn't
        return _usage(error), Exit.USAGE
    if isinstance(error, typer.Abort):  # a question answered by no, Ctrl-C, or nobody
        return "stopped, nothing was done (--yes doesn't ask)", Exit.INTERRUPTED
    if _is_out_of_memory(error):
        return "out of memory (a smaller data.batch_size or model needs less)", Exit.RESOURCES
    message = " ".join(str(error).split())
    return f"a bug of sfl: {type(error).__name__}: {message} (--debug shows where)", Exit.BUG


def _usage(error: Exception) -> str:
    """typer's message, and the command whose --help says what is right."""
    line = " ".join(str(error.format_message()).split())  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    return f"{line} ({context.command_path} --help shows what there is)" if context else line


def _one_line(message: Warning | str, *place: object, **more: object) -> None:
    """A warning for whoever typed a command: without the line of code that gave it."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _on_sigterm(number: int, frame: object) -> NoReturn:
    sys.exit(Exit.TERMINATED)  # unwinds: a run says how to go on with it


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from sfl.training.memory import is_out_of_memory

    return is_out_of_memory(error)
