"""Timers run on a clock that can not be set, whatever the reactor, and dates are those of the other one."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet import reactor as the_reactor
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.pollreactor import PollReactor
from twisted.internet.selectreactor import SelectReactor
from twisted.internet.task import Clock, LoopingCall

from broker.core.clocks import monotonic_time_of, use_monotonic_time, wall_clock_of

REACTORS = {
    "epoll": EPollReactor,
    "poll": PollReactor,
    "select": SelectReactor,
    "asyncio": lambda: AsyncioSelectorReactor(asyncio.new_event_loop()),
}


@pytest.fixture(params=REACTORS)
def reactor(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A reactor that is not run, on a time of day that a test can set."""
    made: Any = REACTORS[request.param]()
    made.day = time.time()
    made.seconds = lambda: made.day
    yield made
    for each in (*made.removeAll(), *made._internalReaders):
        each.connectionLost(None)
    for name in ("_poller", "_asyncioEventloop"):
        if hasattr(getattr(made, name, None), "close"):
            getattr(made, name).close()


def left(call: Any) -> float:
    """Return in how many seconds *call* is due, by the clock that can not be set, to the next multiple of five."""
    return fives(call.getTime() - time.monotonic())


def fives(seconds: float) -> int:
    """Return *seconds* without those that a busy machine may have taken since the timer was started."""
    return 5 * math.ceil(round(seconds, 3) / 5)


def test_timers_run_on_the_monotonic_clock(reactor):
    use_monotonic_time(reactor)
    assert left(reactor.callLater(60, int)) == 60
    reactor.day -= 3600
    assert left(reactor.callLater(60, int)) == 60
    assert fives(reactor.timeout()) == 60


def test_timers_that_were_started_before_are_due_when_they_would_have_been(reactor):
    old, new = reactor.callLater(30, int), reactor.callLater(20, int)
    reactor.timeout()  # now they are in the heap
    newest = reactor.callLater(10, int)
    use_monotonic_time(reactor)
    assert [left(each) for each in (old, new, newest)] == [30, 20, 10]
    new.reset(40)
    newest.delay(5)
    assert [left(each) for each in (new, newest)] == [40, 15]


def test_a_timer_that_was_cancelled_before_does_not_keep_the_others(reactor):
    cancelled, due = reactor.callLater(5, int), reactor.callLater(10, int)
    reactor.timeout()
    cancelled.cancel()
    use_monotonic_time(reactor)
    assert reactor.timeout() <= 10
    assert left(due) == 10


@pytest.mark.parametrize("make", [LoopingCall, LoopingCall.withCount])
def test_a_looping_call_that_was_started_before_goes_on_in_its_rhythm(reactor, make):
    called: list[Any] = []
    looping = make(lambda *count: called.append(count))
    looping.clock = reactor
    looping.start(100.0)
    reactor.day += 30
    use_monotonic_time(reactor)
    assert [left(each) for each in reactor.getDelayedCalls()] == [70]
    looping.call.cancel()
    looping()
    (call,) = reactor.getDelayedCalls()
    assert 0 < left(call) <= 100
    assert called in ([(), ()], [(1,)])  # it has counted no more than has passed


def test_to_ask_for_it_again_is_a_no_op(reactor):
    use_monotonic_time(reactor)
    call = reactor.callLater(10, int)
    use_monotonic_time(reactor)
    assert left(call) == 10


def test_what_is_no_reactor_of_twisted_stays_as_it_is():
    clock = Clock()
    use_monotonic_time(clock)
    assert clock.seconds() == 0.0


def test_dates_are_those_of_the_machine_or_of_a_clock_of_a_test():
    clock = Clock()
    clock.advance(5)
    assert wall_clock_of(clock).time() == 5.0
    assert abs(wall_clock_of(the_reactor).time() - time.time()) < 60
    assert monotonic_time_of(the_reactor)() < 1e9  # seconds of the machine, not of the era
