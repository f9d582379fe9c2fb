"""What takes too long is cancelled, and leaves nothing to the garbage collector then."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, cast

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.task import Clock

from broker.cluster.messages import Probe
from broker.cluster.messenger import NodeMessenger
from broker.core.acknowledgements import Acknowledgements
from broker.core.time_limits import within
from broker.errors import Timeout
from broker.testing import make_broker
from tests.cluster.test_members import MemberBus
from tests.cluster.test_remote_calls import Wire
from tests.support.peers import attach


async def wait_for(answer: Awaitable[Any]) -> Any:
    return await answer


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def garbage() -> Iterator[Callable[[], int]]:
    """Return how many objects only the garbage collector finds since it was asked last."""
    gc.collect()
    gc.disable()
    yield gc.collect
    gc.enable()


def test_an_outcome_in_time_is_that_of_the_work(clock: Clock) -> None:
    answer: Deferred[int] = Deferred()
    found: list[object] = []
    within(1.0, clock, wait_for(answer)).addBoth(found.append)
    answer.callback(3)
    assert (found, clock.getDelayedCalls()) == ([3], [])


def test_a_fault_of_the_work_says_where_it_was(clock: Clock) -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    found: list[Any] = []
    within(1.0, clock, fail()).addErrback(found.append)
    assert "in fail" in found[0].getTraceback()


@pytest.mark.parametrize("coroutine", [False, True])
def test_what_takes_too_long_is_cancelled_and_gone(clock: Clock, garbage: Callable[[], int], coroutine: bool) -> None:
    cancelled: list[object] = []
    answer: Deferred[int] = Deferred(cancelled.append)
    found: list[Any] = []
    within(1.0, clock, wait_for(wait_for(answer)) if coroutine else answer).addErrback(
        lambda failure: found.append(failure.type)
    )
    clock.advance(1.1)
    assert (cancelled.pop() is answer, found) == (True, [TookTooLong])
    del answer
    assert garbage() == 0


def test_who_cancels_it_leaves_nothing_either(clock: Clock, garbage: Callable[[], int]) -> None:
    found: list[Any] = []
    limited = within(1.0, clock, wait_for(Deferred())).addErrback(lambda failure: found.append(failure.type))
    limited.cancel()
    del limited
    assert (found, clock.getDelayedCalls(), garbage()) == ([CancelledError], [], 0)


def test_a_read_that_is_cancelled_leaves_nothing(
    clock: Clock, garbage: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ann, found = attach(make_broker(clock)), []
    monkeypatch.setattr(ann._parts.store, "read", lambda *args: wait_for(wait_for(Deferred())))
    monkeypatch.setattr(ann._parts.store, "latest", lambda *args: wait_for(wait_for(Deferred())))

    async def ask(read: Callable[[], Awaitable[Any]]) -> None:
        try:
            await read()
        except CancelledError as error:
            found.append("cancelled")
            error.__traceback__ = None

    garbage()
    for read in (
        lambda: ann.read("news", 0, 10),
        lambda: ann.read("news", 0, 10, page_bytes=10),
        lambda: ann.latest("news", 10),
    ):
        asking = Deferred.fromCoroutine(ask(read))
        asking.cancel()
        del asking
    assert (found, garbage()) == (["cancelled"] * 3, 0)


@pytest.mark.parametrize("coroutine", [False, True])
def test_a_client_that_does_not_respond_leaves_nothing(
    clock: Clock, garbage: Callable[[], int], coroutine: bool
) -> None:
    ann, found = attach(make_broker(clock)), []
    ann.session.probe = lambda: wait_for(Deferred()) if coroutine else Deferred()
    garbage()
    ann.probe(1.0).addCallback(found.append)
    clock.advance(1.1)
    assert (found, garbage()) == ([False], 0)


def test_a_message_that_is_not_acknowledged_leaves_nothing(clock: Clock, garbage: Callable[[], int]) -> None:
    awaited, found = Acknowledgements(clock, lambda: None), []
    awaited.add(wait_for(Deferred()), 1.0).addErrback(lambda failure: found.append(failure.type))
    clock.advance(1.1)
    assert (found, len(awaited), garbage()) == ([Timeout], 0, 0)


def test_a_node_that_does_not_reply_leaves_nothing(clock: Clock, garbage: Callable[[], int]) -> None:
    wire = Wire()
    found: list[bool | None] = []
    messenger = NodeMessenger(cast(Any, MemberBus(wire, "one/1")), clock)
    MemberBus(wire, "two/1")
    garbage()
    asking = Deferred.fromCoroutine(messenger.ask("two/1", lambda number: Probe(number, "name"), 1.0))
    asking.addCallback(found.append)
    del asking
    clock.advance(1.1)
    assert (found, garbage()) == ([None], 0)
