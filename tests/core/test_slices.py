"""Slices: what is long is done bit by bit, and all that is long shares the time of one."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from math import inf

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from broker.core.slices import BYTE, SHORT_SLICE, SLICE, Slices, slices_of
from tests.support.logs import failures_of, logging


def long_work(slices, clock, done, name, steps):
    """Do *steps* steps, each as long as a slice."""

    async def work():
        end = slices.deadline()
        for _ in range(steps):
            end = await slices.checked(end)
            done.append(name)
            clock.rightNow += SLICE

    return Deferred.fromCoroutine(work())


def test_short_work_does_not_pause():
    clock, done = Clock(), []
    slices = Slices(clock)
    assert long_work(slices, clock, done, "a", 1).called
    assert slices.pauses == 0
    assert clock.getDelayedCalls() == []


def test_long_works_go_on_one_after_the_other():
    clock, done = Clock(), []
    slices = Slices(clock)
    works = [long_work(slices, clock, done, name, 3) for name in "ab"]
    assert done == ["a", "b"]
    clock.pump([0] * 4)
    assert done == ["a", "b"] * 3
    assert all(work.called for work in works)


def test_what_begins_in_a_slice_has_what_is_left_of_it():
    clock = Clock()
    slices = Slices(clock)
    slices.begin()
    clock.rightNow += SLICE * 0.75
    assert not slices.over()
    assert slices.deadline() == SLICE
    clock.rightNow += SLICE
    assert slices.over()
    slices.finish()
    assert slices.end == inf


def test_slices_are_short_once_the_iteration_has_lasted_for_long():
    clock = Clock()
    slices = Slices(clock)
    slices.iteration_end = 1.0
    assert slices.deadline() == SLICE
    clock.rightNow = 1.0
    assert slices.deadline() == 1.0 + SHORT_SLICE
    slices.begin()
    assert slices.end == 1.0 + SHORT_SLICE


def test_work_that_fails_stops_no_other():
    clock, done = Clock(), []
    slices = Slices(clock)
    slices.add(lambda: 1 / 0)
    slices.add(lambda: done.append(1))
    with logging() as events:
        clock.advance(0)
    assert done == [1]
    assert len(failures_of(events)) == 1


def test_work_that_is_cancelled_while_it_pauses_leaves_nothing_behind():
    clock, done = Clock(), []
    slices = Slices(clock)
    one, other = (long_work(slices, clock, done, name, 2) for name in "ab")
    one.addErrback(lambda failure: failure.trap(CancelledError)).cancel()
    clock.advance(0)
    assert done == ["a", "b", "b"]
    assert other.called
    assert clock.getDelayedCalls() == []


def test_all_work_of_one_clock_shares_its_slices():
    one, other = Clock(), Clock()
    assert slices_of(one) is slices_of(one)
    assert slices_of(one) is not slices_of(other)


def test_slices_go_with_their_clock():
    clock = Clock()
    slices_of(clock).deadline()
    gone = weakref.ref(clock)
    del clock
    gc.collect()
    assert gone() is None


def test_a_long_message_waits_for_a_slice_of_its_own() -> None:
    clock = Clock()
    slices = Slices(clock)
    large = int(SLICE / BYTE) + 1
    assert slices.allows(large)  # outside of slices nobody waits
    slices.begin()
    assert slices.allows(1000)
    assert not slices.allows(large)
    slices.finish()
    allowed = []
    slices.add(lambda: allowed.append(slices.allows(large)))
    clock.advance(0)
    assert allowed == [True]


def test_after_a_slice_that_took_too_long_others_have_as_long() -> None:
    clock, done = Clock(), []
    slices = Slices(clock)

    def work() -> None:
        clock.rightNow += SLICE * 5
        done.append(clock.seconds())

    slices.add(work)
    slices.add(work)
    clock.advance(0)
    clock.advance(SLICE * 3)
    assert len(done) == 1
    clock.advance(SLICE)
    assert len(done) == 2


def test_messages_wait_while_there_is_a_backlog_and_other_work_does_not() -> None:
    clock, done = Clock(), []
    slices = Slices(clock)
    slices.begin_backlog("a")
    slices.begin_backlog("b")
    assert not slices.allows(1)
    slices.add(lambda: done.append("message"), message=True)
    slices.add(lambda: done.append("work"))
    clock.advance(0)
    slices.end_backlog("a")
    assert clock.getDelayedCalls() == []
    assert done == ["work"]
    slices.end_backlog("b")
    clock.advance(0)
    assert done == ["work", "message"]
    assert slices.allows(1)


def test_a_backlog_stops_the_messages_of_the_same_slice_which_keep_their_order() -> None:
    clock = Clock()
    slices, done = Slices(clock), list[object]()

    def handle(number: int) -> None:
        done.append(number)
        slices.begin_backlog("a")

    for number in range(3):
        slices.add(partial(handle, number), message=True)
    slices.add(lambda: done.append("work"))
    clock.advance(0)
    assert done == [0, "work"]
    for _ in range(2):
        slices.end_backlog("a")
        clock.advance(0)
    assert done == [0, "work", 1, 2]
    assert clock.getDelayedCalls() == []


def test_work_that_cancels_what_waits_behind_it_stops_nothing() -> None:
    clock = Clock()
    slices, done = Slices(clock), []
    slices.add(lambda: paused.cancel())
    paused = slices.pause()
    paused.addErrback(lambda failure: failure.trap(CancelledError))
    clock.advance(0)
    slices.add(lambda: done.append(1))
    clock.advance(0)
    assert done == [1]
