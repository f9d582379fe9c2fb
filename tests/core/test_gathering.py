"""Many outcomes at once: in order, so many under way, and failing as one of them does."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred, fail, succeed

from broker.core.gathering import AT_ONCE, gather
from broker.errors import Unavailable
from broker.testing import value_of


def test_outcomes_are_in_the_order_of_the_items():
    waiting = {name: Deferred() for name in "abc"}
    gathered = Deferred.fromCoroutine(gather("abc", waiting.__getitem__))
    for name in "cab":
        waiting[name].callback(name.upper())
    assert value_of(gathered) == ["A", "B", "C"]
    assert value_of(gather((), succeed)) == []


def test_only_so_many_are_under_way():
    begun: list[Deferred[int]] = []

    def begin(number: int) -> Deferred[int]:
        begun.append(Deferred())
        return begun[-1]

    gathered = Deferred.fromCoroutine(gather(range(AT_ONCE + 5), begin))
    assert len(begun) == AT_ONCE
    for number, each in enumerate(begun):
        each.callback(number)  # the last one begins the others, which this goes on with
    assert value_of(gathered) == list(range(AT_ONCE + 5))


def test_it_fails_as_the_first_that_fails():
    with pytest.raises(Unavailable):
        value_of(gather([1, 2], lambda number: fail(Unavailable("store"))))


def test_to_cancel_it_cancels_what_is_under_way():
    waiting: list[Deferred[None]] = [Deferred(), Deferred()]
    gathered = Deferred.fromCoroutine(gather(waiting, lambda each: each))
    gathered.cancel()
    with pytest.raises(CancelledError):
        value_of(gathered)
    assert all(each.called for each in waiting)
