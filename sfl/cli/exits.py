"""How a command ends: its exit code and, if it fails, one line that says why.

Knows no command: it is given the whole program as a function.
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
    """Calls the program with the arguments of this process, and exits.

    With `--debug`, anywhere among the arguments, an error's traceback is printed before its line.
    """
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    debug = len(arguments) < len(sys.argv) - 1
    caught = _catch_ending_signals()
    warnings.showwarning = _one_line
    _prepare_streams()
    try:
        code = program(arguments)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else Exit.DONE)
    except KeyboardInterrupt:
        sys.exit(Exit.INTERRUPTED)
    except SystemExit as ending:
        # click and rich exit with 1 if nobody reads the output any more. Nothing of ours does.
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
        if not (torchrun.rank() and exit_code is Exit.USAGE):  # rank 0 prints it for all
            print(f"error{who}: {line}", file=sys.stderr)
        sys.exit(exit_code)
    finally:
        for number in caught:  # from here on they end the process
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


def _catch_ending_signals() -> list[int]:
    """SIGTERM and SIGHUP unwind as an exit; returns those of them that do.

    Windows has no SIGHUP, and under nohup it stays ignored.
    """
    handlers = {signal.SIGTERM: _on_sigterm, getattr(signal, "SIGHUP", None): _on_hangup}
    caught = []
    for number, handler in handlers.items():
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)
            caught.append(number)
    return caught


class _Forgiving:
    """Standard error that ignores write errors: a closed pipe or a full disk must not end a run."""

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
    if torchrun.rank() > 0:  # all ranks have the result; rank 0 prints it
        sys.stdout = io.StringIO()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the process that started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - stays open until the end
    for stream in (sys.stdout, sys.stderr):  # a name that is not UTF-8 can be printed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    sys.stderr = _Forgiving(sys.stderr)  # type: ignore[assignment]


def _stop_writing() -> NoReturn:
    """Ends quietly if the reader of our output has gone, as in `sfl runs | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
    sys.exit(Exit.DONE)


def describe(error: Exception) -> tuple[str, Exit]:
    """An exception as one line for the user, and the exit code."""
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if hasattr(error, "format_message"):  # typer's own: an unknown option or command
        return _usage(error), Exit.USAGE
    if isinstance(error, typer.Abort):  # the answer was no, Ctrl-C, or none at all
        return "stopped, nothing was done (--yes answers the question)", Exit.INTERRUPTED
    if _is_out_of_memory(error):
        return "out of memory (a smaller data.batch_size or model needs less)", Exit.RESOURCES
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no space left on the disk: {error.filename or 'standard output'}", Exit.RESOURCES
    message = textwrap.shorten(str(error), 300)
    return f"a bug of sfl: {type(error).__name__}: {message} (--debug shows where)", Exit.BUG


def _usage(error: Exception) -> str:
    """typer's message, and which --help to read."""
    line = " ".join(str(error.format_message()).split())  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    return f"{line} ({context.command_path} --help shows what there is)" if context else line


def _one_line(message: Warning | str, *place: object, **more: object) -> None:
    """Prints a warning as one line, without the line of code that it is from."""
    print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)


def _on_sigterm(number: int, frame: object) -> NoReturn:
    sys.exit(Exit.TERMINATED)  # as an exception: a run says how to resume it


def _on_hangup(number: int, frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # it comes twice when a terminal goes
    _on_sigterm(number, frame)


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from sfl.training.memory import is_out_of_memory

    return is_out_of_memory(error)
