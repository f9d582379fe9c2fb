"""The npm package ``thinws`` as it behaves on the wire, bugs included.

It sends ``connect`` by itself on every open, its messageID is a number that counts
on over reconnects, its connectionID a hash, and its application is handed every
frame as the raw string, acks and errors too.
"""

from __future__ import annotations

import json
import random
from collections import deque
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IDelayedCall

from broker.testing import Connected
from broker.testing import connect as connect_fake
from tests.support.eventually import TIMEOUT
from tests.support.ws_client import Closed, Refused, WebSocket, ws_connect


def hashed(text: str) -> str:
    """Return what goes over the wire for the connectionID *text*: a 32-bit hash of it, in decimal."""
    units = text.encode("utf-16-le", "surrogatepass")
    number = 0
    for low, high in zip(units[::2], units[1::2], strict=True):
        number = (31 * number + low + 256 * high) % 2**32
    return str(number - 2**32 if number >= 2**31 else number)


def compact(value: Any) -> str:
    """Return *value* as ``JSON.stringify`` writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class Client:
    """What both kinds have in common: the frames."""

    def __init__(self, connection_id: str, message_id: int | None = None) -> None:
        if not connection_id:
            raise ValueError("connectionID is required")
        self.connection_id = hashed(connection_id)
        self.message_id = random.randrange(2**53 - 1000) if message_id is None else message_id

    def transmit(self, text: str) -> None:
        raise NotImplementedError

    def connect(self) -> int:
        return self._say(type="connect", connectionID=self.connection_id)

    def subscribe(self, room: str) -> int:
        return self._say(type="subscribe", roomID=room)

    def unsubscribe(self, room: str) -> int:
        return self._say(type="unsubscribe", roomID=room)

    def disconnect(self) -> int:
        return self._say(type="disconnect")

    def send(self, value: Any, room: str) -> int:
        return self._say(type="message", message=value, roomID=room)

    def _say(self, **members: Any) -> int:
        id = self.message_id
        self.message_id += 1
        self.transmit(compact({"messageID": id, **members}))
        return id


class FakeClient(Client):
    """Over a ``FakeLink``: every call is answered when it returns."""

    def __init__(self, broker: Any, dialect: Any, connection_id: str, message_id: int | None = None) -> None:
        super().__init__(connection_id, message_id)
        self.broker, self.dialect = broker, dialect
        self.client: Connected | None = None
        self.opened()

    def opened(self) -> None:
        """Open a connection and send what the client sends by itself."""
        self.client = connect_fake(self.broker, self.dialect)
        self.connect()

    def transmit(self, text: str) -> None:
        assert self.client is not None
        self.client.session.received(text.encode(), False)

    def heard(self) -> list[str]:
        """Return what ``onMessage`` was called with since the last time."""
        assert self.client is not None
        return [frame.decode() for frame in self.client.link.take()]

    def drop(self) -> None:
        """Lose the connection, as by a cut cable."""
        assert self.client is not None
        self.client.leave(1006)

    def reopen(self) -> None:
        """Do what the client does after ``drop``."""
        self.drop()
        self.opened()


class NetClient(Client):
    """Over the network; it comes back *timeout* seconds after each close, for ever."""

    def __init__(self, url: str, connection_id: str, timeout: float = 0.001, message_id: int | None = None) -> None:
        super().__init__(connection_id, message_id)
        self.url, self.timeout = url, timeout
        self.attempts = 0
        self.opens = 0
        self._socket: WebSocket | None = None
        self._messages: deque[str] = deque()
        self._readers: deque[Deferred[str]] = deque()
        self._again: IDelayedCall | None = None
        self._ended = False
        self._open()

    def transmit(self, text: str) -> None:
        # "Nothing is queued: sends on a socket that is not open throw."
        if self._socket is None:
            raise RuntimeError("the socket is not open")
        self._socket.send(text)

    def message(self, timeout: float = TIMEOUT) -> Deferred[str]:
        """Return what ``onMessage`` is called with next."""
        reader: Deferred[str] = Deferred(lambda d: self._readers.remove(d))
        if self._messages:
            reader.callback(self._messages.popleft())
            return reader
        self._readers.append(reader)
        return reader.addTimeout(timeout, reactor)

    async def expect(self, *texts: str) -> None:
        """Wait for these messages, exactly in this order."""
        for text in texts:
            assert await self.message() == text

    async def ack(self, id: int) -> None:
        """Wait for the ack of the frame *id* and for nothing before it."""
        await self.expect('{"type":"ack","messageID":%d}' % id)

    @property
    def waiting(self) -> list[str]:
        return list(self._messages)

    def drop(self) -> None:
        """Cut the connection."""
        assert self._socket is not None
        self._socket.abort()

    def end(self) -> None:
        """Go for good, as a page that is closed."""
        self._ended = True
        if self._again is not None:
            self._again.cancel()
        if self._socket is not None:
            self._socket.abort()

    def _open(self) -> None:
        self._again = None
        self.attempts += 1
        Deferred.fromCoroutine(self._run()).addErrback(
            lambda failure: failure.trap(Refused, Closed, ConnectError, TookTooLong)
        )
        # Whatever it ended with: there is no give-up and no back-off.

    async def _run(self) -> None:
        try:
            self._socket = await ws_connect(self.url)
            self.opens += 1
            self.connect()
            while True:
                self._hear(str(await self._socket.receive(timeout=10 * TIMEOUT)))
        finally:
            self._socket = None
            if not self._ended:
                self._again = reactor.callLater(self.timeout, self._open)

    def _hear(self, text: str) -> None:
        if self._readers:
            self._readers.popleft().callback(text)
        else:
            self._messages.append(text)
