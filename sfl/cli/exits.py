"""Every way out of a command line: its exit code and, unless it is done, one line that says why.

Knows no command; `sfl.cli` gives it the whole program.
"""

import contextlib
import errno
import io
import os
import signal
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable
from typing import Any, NoReturn, TextIO

import typer

from sfl import torchrun
from sfl.errors import Exit, UserError


def run(program: Callable[[list[str]], object]) -> NoReturn:
    """Calls the program with the arguments of this process and exits as the design says.

    `--debug`, anywhere among the arguments, shows the traceback of an error before its line.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    signal.signal(signal.SIGTERM, _on_sigterm)
    warnings.showwarning = _one_line
    _prepare_streams()
    try:
        code = program(arguments)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else Exit.DONE)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except SystemExit as ending:
        # How click and rich end where nobody reads any more; nothing of ours exits with 1.
        if ending.code == 1:
            _stop_writing()
        raise
    except BrokenPipeError:
        _stop_writing()
    except Exception as error:
        if debug:
            traceback.print_exc()
        line, exit_code = describe(error)
        who = f" (worker {torchrun.rank()})" if torchrun.count() > 1 else ""
        if not (torchrun.rank() and exit_code is Exit.USAGE):  # the same mistake for all
            print(f"error{who}: {line}", file=sys.stderr)
        sys.exit(exit_code)
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # what is left to do is not ours


class _Forgiving:
    """Standard error whose reader may go away, or whose disk may fill, without harm to a run."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _prepare_streams() -> None:
    if torchrun.rank() > 0:  # all have the result, the first one prints it
        sys.stdout = io.StringIO()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as we live
    for stream in (sys.stdout, sys.stderr):  # a name of odd bytes must not stop a print
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stderr = _Forgiving(sys.stderr)  # type: ignore[assignment]


def _stop_writing() -> NoReturn:
    """`sfl runs | head`: what wasn't read wasn't wanted."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
    sys.exit(Exit.DONE)


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
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on the disk: {error.filename or 'standard output'}", Exit.RESOURCES
    message = textwrap.shorten(str(error), 300)
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
