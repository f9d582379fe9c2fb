"""The two clocks of the daemon: one that can not be set, for timers, and the time of day, for dates.

Whoever waits, or measures how long something takes, is handed an ``IReactorTime`` and asks its ``seconds``: they run on
whatever the clock of the machine is set to, and begin anywhere.  Whoever writes down when something was, or until when
it is good, asks the ``time`` of an ``IWallClock``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
from twisted.internet.base import ReactorBase
from twisted.internet.interfaces import IReactorCore
from twisted.internet.task import LoopingCall
from zope.interface import implementer

from broker.interfaces import IWallClock


@implementer(IWallClock)
@attrs.frozen
class WallClock:
    """The time of day.

    Attributes:
        time: see ``IWallClock``.
    """

    time: Callable[[], float]


MACHINE = WallClock(time.time)


def wall_clock_of(clock: Any) -> IWallClock:
    """Return the time of day that goes with *clock*: that of the machine, or of a ``task.Clock`` its own time."""
    return MACHINE if IReactorCore.providedBy(clock) else WallClock(clock.seconds)


def monotonic_time_of(clock: Any) -> Callable[[], float]:
    """Return what tells a time that can not be set: it runs while the process, or the machine, stands still."""
    if not IReactorCore.providedBy(clock):
        seconds: Callable[[], float] = clock.seconds
        return seconds
    boot = getattr(time, "CLOCK_BOOTTIME", None)  # Linux has it
    return time.monotonic if boot is None else partial(time.clock_gettime, boot)


def use_monotonic_time(reactor: Any) -> None:
    """Let the timers of *reactor* run on a clock that can not be set, those that were started before, too; idempotent.

    Twisted goes by the time of day: when that is set back, nothing is due until it has come there again.  All its
    reactors ask their own attribute ``seconds``, as do the timers that they make, ``LoopingCall``, and libraries
    that are handed the reactor.  That of asyncio asks its loop as well, whose time is monotonic anyhow.
    """
    if not isinstance(reactor, ReactorBase) or reactor.seconds is time.monotonic:
        return
    ahead = time.monotonic() - reactor.seconds()
    reactor.seconds = time.monotonic
    # Cancelled ones are in the heap as well, and must not come before the others there.
    for call in (*reactor._pendingTimedCalls, *reactor._newTimedCalls):
        call.time += ahead
        call.seconds = time.monotonic
        looping = getattr(call, "func", None)  # a cancelled one has none
        if isinstance(looping, LoopingCall):
            _move(looping, ahead)


def _move(looping: LoopingCall, ahead: float) -> None:
    for name in ("starttime", "_realLastTime"):
        when = getattr(looping, name, None)
        if when is not None:
            setattr(looping, name, when + ahead)
