"""What signals do to the daemon; none of them ends it by its default action."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from types import FrameType

from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger

log = Logger()

# They end nothing; or stop the process until SIGCONT, as Control-Z does; or can not be caught.
LEFT_ALONE = {
    signal.SIGCHLD, signal.SIGCONT, signal.SIGWINCH, signal.SIGURG, signal.SIGPIPE, signal.SIGXFSZ,
    signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU, signal.SIGSTOP, signal.SIGKILL,
}  # fmt: skip
# A fault of the process itself, or of its watchdog: ``faulthandler`` writes where it was before it ends.
FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
# The reactor sets these two when it starts.
STOPS = {signal.SIGTERM, signal.SIGINT}


_held: list[int] = []  # what has come before the daemon was made


def hold_signals() -> None:
    """Let no signal end the process by its default action while the daemon is loaded and made, which takes a second.

    SIGTERM and SIGINT end it at once, with the status 0: there is nothing yet that would have to be put in order.
    The kernel drops signals for which the first process of a container has no handler, so that it would not stop.
    All others wait for ``catch_signals``.
    """
    for number in _caught():
        if not callable(signal.getsignal(number)):
            signal.signal(number, _hold)
    for number in STOPS:
        signal.signal(number, _end)


def _hold(number: int, frame: FrameType | None) -> None:
    _held.append(number)


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(0)


def _caught() -> list[int]:
    return sorted(signal.valid_signals() - LEFT_ALONE - FAULTS - STOPS)


def catch_signals(reactor: IReactorFromThreads, actions: Mapping[int, Callable[[], object]]) -> None:
    """Let the reactor call what *actions* has for a signal, and log every other one that would end the process.

    What comes before the reactor runs is done when it does.  A signal that somebody else handles already is
    left to that.
    """
    for number in _caught():
        if signal.getsignal(number) is _hold or not callable(signal.getsignal(number)):
            signal.signal(number, _handler(reactor, number, actions.get(number)))
    held = dict.fromkeys(_held)
    _held.clear()
    for number in held:
        _handler(reactor, number, actions.get(number))(number, None)


def catch_stops(reactor: IReactorFromThreads, stop: Callable[[bool], object]) -> None:
    """Call ``stop(True)`` on SIGINT, which is to stop at once, and ``stop(False)`` on SIGTERM.

    Twisted's own handlers would end the process by that signal; a daemon that
    was drained and stopped has the status 0.
    """

    def caught(number: int, frame: FrameType | None) -> None:
        reactor.callFromThread(stop, number == signal.SIGINT)

    for number in STOPS:
        signal.signal(number, caught)


def _handler(
    reactor: IReactorFromThreads, number: int, act: Callable[[], object] | None
) -> Callable[[int, FrameType | None], None]:
    name = name_of(number)

    def run() -> None:
        if act is None:
            log.warn("{signal} does nothing here: SIGTERM drains and stops the daemon", signal=name)
            return
        try:
            act()
        except Exception:
            log.failure("{signal} was not obeyed", signal=name)

    return lambda number, frame: reactor.callFromThread(run)


def name_of(number: int) -> str:
    """Return the name of the signal *number*, such as ``SIGHUP``."""
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal between the first and the last
        return f"SIGRTMIN+{number - signal.SIGRTMIN}"
