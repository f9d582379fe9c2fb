"""The daemon as a process: signals, systemd, the message of a failed start, and garbage collection."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from twisted.internet.interfaces import IReactorFromThreads


class StartError(Exception):
    """The daemon can not start; the message says why, for the operator."""


def explain_start_errors() -> None:
    """Let an uncaught ``StartError`` end the process with its message alone, and status 1."""
    previous = sys.excepthook

    def explain(kind: type[BaseException], error: BaseException, where: TracebackType | None) -> None:
        if issubclass(kind, StartError):
            print(f"txbroker: {error}", file=sys.__stderr__)  # sys.stderr goes to the log by then
        else:
            previous(kind, error, where)

    sys.excepthook = explain


def catch_signals(reactor: IReactorFromThreads, stop: Callable[[bool], object]) -> None:
    """Call ``stop(True)`` on SIGINT, which is to stop at once, and ``stop(False)`` on SIGTERM.

    Twisted's own handlers would end the process by that signal; a daemon that
    was drained and stopped has the status 0.
    """

    def caught(number: int, frame: Any) -> None:
        reactor.callFromThread(stop, number == signal.SIGINT)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, caught)


def notify_systemd(state: str) -> None:
    """Send *state*, such as ``READY=1``, to the service manager that ``$NOTIFY_SOCKET`` names, if any."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        # An address that begins with "@" stands for one of Linux's abstract namespace.
        sender.sendto(state.encode(), "\0" + address[1:] if address[0] == "@" else address)


def tune_garbage_collector() -> None:
    """Exempt what was made at the start from garbage collection, and collect less often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
