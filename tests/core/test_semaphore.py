"""Work of one client has its semaphore, however much there is of it."""

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from broker.core.semaphore import Semaphore
from broker.core.slices import SLICE, slices_of
from broker.errors import RateLimited
from broker.testing import value_of


class Work:
    """Works in *semaphore* until ``go_on`` has fired, and notes its name in *done*."""

    def __init__(self, semaphore, name, done):
        self.go_on = Deferred()
        self.begun = False
        self.result = Deferred.fromCoroutine(self._run(semaphore, name, done))

    async def _run(self, semaphore, name, done):
        async with semaphore.permit():
            self.begun = True
            await self.go_on
            done.append(name)


def many(semaphore, number):
    done = []
    return [Work(semaphore, name, done) for name in range(number)], done


def test_so_many_are_at_work_at_once():
    works, _ = many(Semaphore(2, 9, "works"), 3)
    assert [work.begun for work in works] == [True, True, False]


def test_the_next_begins_in_the_order_in_which_they_came():
    works, done = many(Semaphore(1, 9, "works"), 3)
    for work in works:
        work.go_on.callback(None)
    assert done == [0, 1, 2]


def test_a_thousand_that_end_at_once_are_no_recursion():
    semaphore = Semaphore(1, 9999, "works")
    works, done = many(semaphore, 5000)
    for work in reversed(works):
        work.go_on.callback(None)
    assert done == list(range(5000))
    assert semaphore.unused


def test_one_that_fails_lets_the_next_begin():
    works, done = many(Semaphore(1, 9, "works"), 2)
    works[1].go_on.callback(None)
    works[0].go_on.errback(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        value_of(works[0].result)
    assert done == [1]


def test_one_that_is_cancelled_while_it_waits_leaves_nothing():
    semaphore = Semaphore(1, 9, "works")
    works, done = many(semaphore, 3)
    works[1].result.cancel()
    with pytest.raises(CancelledError):
        value_of(works[1].result)
    works[0].go_on.callback(None)
    works[2].go_on.callback(None)
    assert done == [0, 2]
    assert semaphore.unused


def test_too_many_are_refused():
    semaphore = Semaphore(1, 1, "works")
    _works, _ = many(semaphore, 2)  # kept: one that nobody knows is collected, and its permit is free again
    with pytest.raises(RateLimited, match="works"):
        semaphore.permit()


def test_what_has_waited_begins_in_slices():
    clock = Clock()
    semaphore = Semaphore(1, 99, "works", slices_of(clock))
    begun = []

    async def work(name):
        async with semaphore.permit():
            begun.append(name)
            clock.rightNow += SLICE  # it takes as long as others should wait at most

    first = Deferred.fromCoroutine(semaphore.permit().__aenter__())
    works = [Deferred.fromCoroutine(work(name)) for name in range(3)]
    semaphore.release()
    assert begun == [0]
    clock.advance(0)
    assert (begun, slices_of(clock).pauses) == ([0, 1, 2], 2)
    assert semaphore.unused
    assert all(each.called for each in (first, *works))
