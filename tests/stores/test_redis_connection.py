"""Commands on one connection to Redis get their own replies, or fail with it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import txredisapi
from twisted.internet.defer import succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from broker.core.slices import SLICE, slices_of
from broker.redis.address import RedisAddress
from broker.redis.connection import BRIEF, REPLY_TIMEOUT, Connection, Protocol, SubscribingProtocol, _Factory


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def protocol(clock):
    owner = SimpleNamespace(reactor=clock, closed=lambda *_: None)
    protocol = Protocol(replyTimeout=REPLY_TIMEOUT)
    protocol.factory = SimpleNamespace(owner=owner, delConnection=lambda _: None)
    protocol.transport = StringTransport()
    protocol.connected = 1
    yield protocol
    protocol.connectionLost(Failure(ConnectionDone()))
    assert clock.getDelayedCalls() == []


def outcomes(*commands: Any) -> list[Any]:
    """Return the results of *commands* so far; in the place of one that has failed, the class of its error."""
    seen: list[Any] = []
    for command in commands:
        command.addCallbacks(seen.append, lambda failure: seen.append(failure.type))
    return seen


def test_replies_are_those_of_the_commands_in_their_order(protocol):
    seen = outcomes(*(protocol.execute_command(b"GET", name) for name in (b"a", b"b", b"c")))
    protocol.dataReceived(b"$1\r\n1\r\n-ERR no\r\n$1\r")
    assert seen == [b"1", txredisapi.ResponseError]
    protocol.dataReceived(b"\n3\r\n")
    assert seen[2] == b"3"


def test_a_command_that_was_cancelled_takes_no_reply_of_another(protocol):
    first, second = protocol.execute_command(b"GET", b"a"), protocol.execute_command(b"GET", b"b")
    outcomes(first)
    first.cancel()
    seen = outcomes(second)
    protocol.dataReceived(b"$1\r\n1\r\n$1\r\n2\r\n")
    assert seen == [b"2"]


def test_one_that_is_not_answered_in_time_fails_and_all_after_it(protocol, clock):
    first = protocol.execute_command(b"GET", b"a")
    clock.advance(REPLY_TIMEOUT - 1)
    protocol.dataReceived(b"$1\r\n1\r\n")
    late = [protocol.execute_command(b"GET", b"b")]
    clock.advance(1)
    late.append(protocol.execute_command(b"GET", b"c"))
    seen = outcomes(first, *late)
    clock.advance(REPLY_TIMEOUT - 1)
    assert seen == [b"1", txredisapi.TimeoutError, txredisapi.TimeoutError]
    assert protocol.transport.disconnecting


def test_what_waits_fails_with_the_connection(protocol):
    seen = outcomes(protocol.execute_command(b"GET", b"a"))
    protocol.connectionLost(Failure(ConnectionDone()))
    assert seen == [txredisapi.ConnectionError]
    protocol.connected = 0
    with pytest.raises(txredisapi.ConnectionError):
        protocol.execute_command(b"GET", b"b")


# The next connection.


def test_a_server_that_refuses_all_is_tried_less_and_less_often(clock):
    address = RedisAddress.parse("redis://127.0.0.1:1")
    connection = Connection(address, clock, purpose="tests", prepare=succeed, opened=lambda: None, closed=lambda: None)
    factory = connection._factory = _Factory(connection, Protocol)
    factory.jitter = 0

    def delay_after(seconds: float, *, dropped: bool) -> float:
        protocol = SimpleNamespace(transport=SimpleNamespace(abortConnection=lambda: None))
        connection.opened(protocol)
        clock.advance(seconds)
        for _ in range(2 * dropped):
            connection.drop("it refuses")
        connection.closed(protocol, Failure(ConnectionDone()))
        return factory.retryDelay(1)

    assert delay_after(0.0, dropped=False) == factory.initialDelay
    delays = [delay_after(0.0, dropped=True) for _ in range(6)]
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (factory.initialDelay, factory.maxDelay)
    assert delay_after(BRIEF, dropped=True) == factory.initialDelay


# Messages of subscriptions.


@pytest.fixture
def subscribing(clock):
    """A connection on which each message takes as long as a slice, and ``passed``, what it has passed on."""
    passed: list[Any] = []

    def on_message(message: Any) -> None:
        passed.append(message)
        clock.rightNow += SLICE

    protocol = SubscribingProtocol()
    protocol.factory = SimpleNamespace(owner=SimpleNamespace(slices=slices_of(clock), on_message=on_message))
    protocol.transport, protocol.connected, protocol._ready = StringTransport(), 1, True
    return SimpleNamespace(protocol=protocol, passed=passed, state=lambda: protocol.transport.producerState)


def test_many_messages_at_once_are_passed_on_in_slices_and_in_order(subscribing, clock):
    subscribing.protocol.dataReceived(b":1\r\n:2\r\n:3\r\n:4\r\n")
    assert subscribing.passed == [1, 2]
    assert subscribing.state() == "paused"
    subscribing.protocol.dataReceived(b":5\r\n")  # it was received before
    assert subscribing.passed == [1, 2]
    clock.pump([2 * SLICE] * 4)
    assert subscribing.passed == [1, 2, 3, 4, 5]
    assert subscribing.state() == "producing"
    assert slices_of(clock).pauses == 2
    assert clock.getDelayedCalls() == []


def test_messages_that_wait_go_with_the_connection(subscribing, clock):
    subscribing.protocol.dataReceived(b":1\r\n:2\r\n:3\r\n")
    subscribing.protocol.connected = 0
    clock.advance(0)
    assert subscribing.passed == [1, 2]
    assert clock.getDelayedCalls() == []
