"""What SIGINT does to a command of ``txbroker``."""

from __future__ import annotations

import os
import signal

INTERRUPTED = 130  # the exit status after SIGINT, as shells say it


def end_at_once() -> None:
    """Let SIGINT end the process: nothing has begun yet that would have to be undone."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def raise_interrupts() -> None:
    """Let SIGINT raise ``KeyboardInterrupt`` again: there is something to be brought in order."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(*_: object) -> None:
    os._exit(INTERRUPTED)  # a KeyboardInterrupt in the midst of an import is printed, or lost
