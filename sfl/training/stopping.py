"""Stops training on Ctrl-C, SIGTERM or SIGHUP: after the first, at a step's end; then at once.

The signal is kept in a global variable, because signals are sent to the whole process.
"""

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

from sfl import torchrun
from sfl.progress import say

# torchrun passes a signal on to ranks that may have received it, too. A second signal within this
# many seconds is taken for the same one.
FORWARDED = 5.0
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last: the terminal is gone
_asked: signal.Signals | None = None
_asked_at = 0.0


class Stopped(SystemExit):
    """Exits after a signal, with code 130 for Ctrl-C and 143 for SIGTERM and SIGHUP."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(128 + number)


@contextlib.contextmanager
def signals_noted() -> Iterator[None]:
    """Inside, the first signal is kept for `asked`; the second one exits at once.

    A signal that is ignored (by nohup, for example) stays ignored.
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():  # only that gets signals
        yield
        return
    _asked = None
    before = {number: signal.getsignal(number) for number in STOPPING}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(number, _note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        _asked = None


def asked() -> int:
    """The number of the signal that was received; 0 if none was."""
    return _asked or 0


def stop(number: int) -> None:
    """Says so and raises Stopped if `number` is a signal's; does nothing if it is 0."""
    if number:
        say("stopping and saving (a second signal stops at once) ...")
        raise Stopped(signal.Signals(number))


def _note(number: int, frame: FrameType | None) -> None:
    """Prints nothing: the signal may come while a line is printed, and wait for it for ever."""
    global _asked, _asked_at
    if _asked is not None:
        if number == signal.SIGHUP:  # both the shell and the system send it when a terminal goes
            return
        if torchrun.count() > 1 and time.monotonic() - _asked_at < FORWARDED:
            return
        sys.exit(128 + number)  # not Stopped: a half-done step can't be saved
    _asked = signal.SIGTERM if number == signal.SIGHUP else signal.Signals(number)
    _asked_at = time.monotonic()
