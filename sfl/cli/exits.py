"""How a command ends: its exit code and, if it fails, one line that says why.

Knows no command: it is given the whole program as a function.
"""

import codecs
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
from sfl.cli.completion import COMPLETING
from sfl.errors import Exit, UserError
from sfl.shell import command


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
        # click and rich exit with 1 if nobody reads the output any more. Nothing of ours does,
        # but typer, to tell fish that it has nothing to offer.
        if ending.code == 1 and COMPLETING not in os.environ:
            _stop_writing()
        raise
    except BrokenPipeError:
        _stop_writing()
    except Exception as error:
        if debug:
            traceback.print_exc()
        _report(error)
        sys.exit(describe(error).exit_code)
    finally:
        for number in caught:  # from here on they end the process
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


def _catch_ending_signals() -> list[signal.Signals]:
    """SIGTERM and SIGHUP unwind as an exit; returns those of them that do.

    Under nohup SIGHUP stays ignored.
    """
    handlers = {signal.SIGTERM: _on_sigterm, signal.SIGHUP: _on_hangup}
    caught = []
    for number, handler in handlers.items():
        if signal.getsignal(number) is not signal.SIG_IGN:
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


# What a stream gets whose encoding lacks a character, as ASCII does: signs that look like it.
SIGNS = {
    "×": "x", "÷": "/", "±": "+-", "−": "-", "–": "-", "…": "...", "→": "->", "√": "sqrt",
    "≥": ">=", "≤": "<=", "‖": "|", "²": "^2", "Σ": "sum", "“": '"', "”": '"', "’": "'",
    "°": " deg", "∂": "d", "β": "beta", "�": "?", "↔": "<->", "↕": "^v", "\u00a0": " ",
    **dict(zip("▁▂▃▄▅▆▇█", "_.:-=+*#", strict=True)),
}  # fmt: skip
LOOKALIKES = "sfl.lookalikes"


def _lookalike(error: UnicodeError) -> tuple[str | bytes, int]:
    """For codecs.register_error: a sign that looks like it, else an escape such as \\xdf."""
    assert isinstance(error, UnicodeEncodeError)
    if sign := SIGNS.get(error.object[error.start]):
        return sign, error.start + 1
    return codecs.backslashreplace_errors(error)


codecs.register_error(LOOKALIKES, _lookalike)


def _prepare_streams() -> None:
    if torchrun.rank() > 0:  # all ranks have the result; rank 0 prints it
        sys.stdout = io.StringIO()
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the process that started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - stays open until the end
    for stream in (sys.stdout, sys.stderr):  # a name that is not UTF-8 can be printed
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=LOOKALIKES)
    sys.stderr = _Forgiving(sys.stderr)  # type: ignore[assignment]


def _report(error: Exception) -> None:
    """Prints the line of an error."""
    said = describe(error)
    if torchrun.rank() and said.exit_code is Exit.USAGE:  # rank 0 prints it for all
        return
    who = f" (worker {torchrun.rank()})" if torchrun.count() > 1 else ""
    start = "" if isinstance(error, typer.Abort) else f"error{who}: "
    if not sys.stderr.isatty():
        print(f"{start}{said}", file=sys.stderr)
        return
    from sfl.progress import laid_out

    line = f"{said.message} ({said.hint}):" if said.command else str(said)
    print(laid_out(f"{start}{line}", said.command), file=sys.stderr)


def _stop_writing() -> NoReturn:
    """Ends quietly if the reader of our output has gone, as in `sfl runs | head`."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
    sys.exit(Exit.DONE)


def describe(error: Exception) -> UserError:
    """An exception as one line for the user, with the exit code."""
    if isinstance(error, UserError):
        return error
    if hasattr(error, "format_message"):  # typer's own: an unknown option or command
        return _usage(error)
    if isinstance(error, typer.Abort):  # Ctrl-C, or no answer at all
        said, hint = "stopped, nothing was done", "--yes answers the question"
        return UserError(said, hint, Exit.INTERRUPTED)
    if _is_out_of_memory(error):
        hint = "a smaller data.batch_size or model needs less"
        return UserError("out of memory", hint, Exit.RESOURCES)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        where = error.filename or "standard output"
        return UserError(f"no space left on the disk: {where}", "", Exit.RESOURCES)
    if isinstance(error, PermissionError) and error.filename:  # in another user's home, say
        return UserError(f"{error.filename}: {error.strerror}", "", Exit.RUN)
    said = f"a bug of sfl: {type(error).__name__}: {textwrap.shorten(str(error), 300)}"
    return UserError(said, "--debug shows where", Exit.BUG)


def _usage(error: Exception) -> UserError:
    """typer's message, and which --help to read."""
    line = " ".join(str(error.format_message()).split())  # type: ignore[attr-defined]
    context = getattr(error, "ctx", None)
    if context is None:
        return UserError(line)
    then = command(*context.command_path.split()[1:], "--help")
    return UserError(line, "see what there is", command=then)


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
