"""A connection without a network, and what a client reads off it."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure


class Wire(StringTransport):
    """The server's side of a connection whose client the test plays.

    ``full`` makes it behave like a socket whose buffer holds no more: it pauses
    its producer at each write.
    """

    full = False
    aborted = False
    dataBuffer = b""  # by Twisted's name, what its client has not yet read
    half_closed = False

    def __init__(self, protocol: Protocol) -> None:
        super().__init__()
        self.server: Any = protocol
        self.lost = False
        protocol.makeConnection(self)

    def write(self, data: bytes) -> None:
        assert not self.half_closed, "written behind the end"
        super().write(data)
        if self.full and self.producer is not None:
            self.producer.pauseProducing()

    def end(self) -> None:
        """The client shuts down its side."""
        if IHalfCloseableProtocol.providedBy(self.server):
            self.server.readConnectionLost()
        else:
            self.lose()

    def drain(self) -> None:
        """The client has read everything."""
        self.full = False
        if self.producer is not None:
            self.producer.resumeProducing()

    def loseWriteConnection(self) -> None:
        self.half_closed = True

    def loseConnection(self) -> None:
        assert self.producer is None, "a registered producer keeps a connection open"
        super().loseConnection()
        self.lose()

    def abortConnection(self) -> None:
        self.aborted = True
        self.lose(ConnectionLost())

    def lose(self, reason: Exception | None = None) -> None:
        """The connection ends."""
        if not self.lost:
            self.lost = True
            self.server.connectionLost(Failure(reason or ConnectionDone()))

    @property
    def reading(self) -> bool:
        return self.producerState == "producing"

    def say(self, data: bytes) -> list[Heard]:
        """Let the client send *data*; return what it is answered at once."""
        self.server.dataReceived(data)
        return self.heard()

    def heard(self) -> list[Heard]:
        """Return the answers since the last time."""
        data = self.value()
        self.clear()
        return read_all(data)


@attrs.frozen
class Heard:
    """One answer, as a client reads it; header names in lower case."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes


def read_all(data: bytes, heads: bool = False) -> list[Heard]:
    """Return the answers in *data*, which must end with a whole one."""
    answers = []
    while data:
        head, found, data = data.partition(b"\r\n\r\n")
        assert found, f"half an answer: {head!r}"
        first, *lines = head.decode("latin-1").split("\r\n")
        version, status, reason = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers: dict[str, str] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            assert name.lower() not in headers
            headers[name.lower()] = value
        if headers.get("transfer-encoding") == "chunked":
            body, data = read_chunks(data)
        else:
            size = 0 if heads else int(headers.get("content-length", "0"))
            assert len(data) >= size
            body, data = data[:size], data[size:]
        answers.append(Heard(int(status), reason, headers, body))
    return answers


def read_chunks(data: bytes) -> tuple[bytes, bytes]:
    """Return the body that *data* begins with, which must be there to its last chunk, and what follows it."""
    body = b""
    while True:
        length, found, data = data.partition(b"\r\n")
        assert found, f"half a chunk: {length!r}"
        size = int(length, 16)
        assert data[size : size + 2] == b"\r\n", "half a chunk"
        body, data = body + data[:size], data[size + 2 :]
        if not size:
            return body, data
