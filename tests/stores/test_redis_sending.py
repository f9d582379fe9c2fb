"""What Redis is asked leaves at once, and in order with what the kernel does not take."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, cast

import attrs
import pytest
from twisted.internet.protocol import Protocol
from twisted.internet.tcp import Connection
from twisted.internet.testing import MemoryReactor, StringTransport

from broker.redis.connection import sender_for

MUCH = bytes(range(256)) * 40_000  # more than a socket takes


@attrs.frozen
class Pair:
    """A connection, and the socket at its other end."""

    transport: Any
    reactor: MemoryReactor
    other: socket.socket

    def drain(self, size: int) -> bytes:
        """Return so many bytes that have come, while the connection goes on when it has room."""
        found = b""
        while len(found) < size:
            if self.transport in self.reactor.writers:
                assert not self.transport.doWrite()
            found += self.other.recv(size - len(found))
        return found


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    reactor = MemoryReactor()
    transport = Connection(ours, Protocol(), cast(Any, reactor))
    transport.connected = 1
    theirs.settimeout(10)
    yield Pair(transport, reactor, theirs)
    for each in (ours, theirs):
        each.close()


def test_it_is_sent_at_once(pair: Pair) -> None:
    send = sender_for(pair.transport)
    for part in (b"a", b"b"):
        send(part)
        assert pair.other.recv(9) == part
    assert pair.transport not in pair.reactor.writers


def test_what_the_kernel_does_not_take_is_sent_when_there_is_room(pair: Pair) -> None:
    send = sender_for(pair.transport)
    send(MUCH)
    send(b"after")
    assert pair.transport in pair.reactor.writers
    assert pair.drain(len(MUCH) + 5) == MUCH + b"after"
    send(b"at once again")
    assert pair.other.recv(99) == b"at once again"


def test_it_comes_after_what_was_written(pair: Pair) -> None:
    pair.transport.write(b"before ")
    sender_for(pair.transport)(b"after")
    assert pair.drain(12) == b"before after"


@pytest.mark.parametrize("end", ["loseWriteConnection", "abortConnection"])
def test_nothing_is_sent_on_a_connection_that_is_being_closed(pair: Pair, end: str) -> None:
    pair.reactor.callLater = lambda *_: None  # type: ignore[attr-defined]
    getattr(pair.transport, end)()
    sender_for(pair.transport)(b"late")
    pair.other.setblocking(False)
    with pytest.raises(BlockingIOError):
        pair.other.recv(9)


def test_an_error_is_left_to_the_reactor(pair: Pair) -> None:
    pair.transport.socket.shutdown(socket.SHUT_WR)
    sender_for(pair.transport)(b"lost")
    assert pair.transport in pair.reactor.writers
    assert pair.transport.doWrite()


def test_other_transports_write() -> None:
    transport = StringTransport()
    sender_for(transport)(b"text")
    assert transport.value() == b"text"
