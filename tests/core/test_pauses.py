"""Pauses end with the part whose coroutines wait in them."""

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from broker.core.pauses import Pauses
from broker.testing import value_of


def begin(pauses, seconds):
    return Deferred.fromCoroutine(pauses.pause(seconds))


def test_a_pause_lasts_for_its_seconds():
    clock = Clock()
    pause = begin(Pauses(clock), 3.0)
    clock.advance(2.9)
    assert not pause.called
    clock.advance(0.1)
    assert pause.called


def test_the_stop_cancels_all_and_leaves_no_timer():
    clock = Clock()
    pauses = Pauses(clock)
    waiting = [begin(pauses, seconds) for seconds in (1.0, 2.0)]
    pauses.stop()
    for pause in waiting:
        with pytest.raises(CancelledError):
            value_of(pause)
    assert not clock.getDelayedCalls()


def test_none_begins_after_the_stop():
    clock = Clock()
    pauses = Pauses(clock)
    pauses.stop()
    with pytest.raises(CancelledError):
        value_of(begin(pauses, 1.0))
    assert not clock.getDelayedCalls()
