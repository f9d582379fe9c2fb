"""Coroutines that are run until they wait."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred

from broker.core.eager import eager_start


async def _sum(*parts: int | Deferred[int]) -> int:
    return sum([part if isinstance(part, int) else await part for part in parts])


def test_what_need_not_wait_is_no_deferred() -> None:
    done: Deferred[int] = Deferred()
    done.callback(2)

    assert eager_start(_sum(1, done, 3)) == 6


def test_what_is_raised_before_it_waits_is_raised() -> None:
    failed: Deferred[int] = Deferred()
    failed.errback(KeyError("k"))

    with pytest.raises(KeyError):
        eager_start(_sum(1, failed))


def test_what_waits_goes_on_when_that_is_there() -> None:
    first: Deferred[int] = Deferred()
    second: Deferred[int] = Deferred()
    results: list[object] = []

    work = eager_start(_sum(first, 1, second))
    assert isinstance(work, Deferred)
    work.addCallback(results.append)
    first.callback(1)
    assert not results
    second.callback(5)

    assert results == [7]


def test_a_failure_is_raised_where_it_is_waited_for() -> None:
    async def careful(waited: Deferred[int], then: Deferred[int]) -> int:
        try:
            return await waited
        except KeyError:
            return await then

    waited: Deferred[int] = Deferred()
    then: Deferred[int] = Deferred()
    results: list[object] = []

    work = eager_start(careful(waited, then))
    assert isinstance(work, Deferred)
    work.addCallback(results.append)
    waited.errback(KeyError("k"))
    then.callback(4)

    assert results == [4]


def test_what_it_raises_at_the_end_is_its_failure() -> None:
    waited: Deferred[int] = Deferred()

    work = eager_start(_sum(waited))
    assert isinstance(work, Deferred)
    failed: Deferred[object] = work.addErrback(lambda failure: failure.check(KeyError))
    waited.errback(KeyError("k"))

    assert failed.result is KeyError


def test_to_cancel_it_cancels_what_it_waits_for() -> None:
    cancelled: list[object] = []
    waited: Deferred[int] = Deferred(cancelled.append)

    work = eager_start(_sum(waited))
    assert isinstance(work, Deferred)
    failed: Deferred[object] = work.addErrback(lambda failure: failure.check(CancelledError))
    work.cancel()

    assert cancelled == [waited]
    assert failed.result is CancelledError
