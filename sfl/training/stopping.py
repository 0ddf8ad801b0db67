"""Stopping when asked to: the first Ctrl-C or SIGTERM is noted, and obeyed where nothing is lost.

A second one leaves at once. Signals belong to the process, so the note does, too.
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

# Seconds in which torchrun passes on what its workers may have got themselves: the same request.
FORWARDED = 5.0
_asked: signal.Signals | None = None
_asked_at = 0.0


class Stopped(SystemExit):
    """The way out after a signal: exit code 130 for Ctrl-C, 143 for SIGTERM."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(128 + number)


@contextlib.contextmanager
def signals_noted() -> Iterator[None]:
    """While inside, the first signal is noted for `asked`; the second leaves at once.

    A signal that whoever started us has ignored stays so (nohup).
    """
    global _asked
    if threading.current_thread() is not threading.main_thread():  # where no signal arrives
        yield
        return
    _asked = None
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
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
    """The number of the signal that has come; 0: none has."""
    return _asked or 0


def stop(number: int) -> None:
    """Raises Stopped if that is a signal's number."""
    if number:
        raise Stopped(signal.Signals(number))


def _note(number: int, frame: FrameType | None) -> None:
    global _asked, _asked_at
    if _asked is not None:
        if torchrun.count() > 1 and time.monotonic() - _asked_at < FORWARDED:
            return
        sys.exit(128 + number)  # not Stopped: in mid-step there is nothing to save
    _asked, _asked_at = signal.Signals(number), time.monotonic()
    say("stopping after this step, to save it (once more: at once) ...")
