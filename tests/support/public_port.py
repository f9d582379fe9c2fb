"""The public port of a daemon with all its dialects, in the process of the test, and raw clients of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from broker.access.principals import make_access
from broker.app.dialects import load_dialects
from broker.app.tap import make_site
from broker.config.settings import PROTOCOLS, Settings
from broker.testing import make_broker
from broker.web.net.listening import listen
from broker.web.net.transport import Outbox
from tests.support.eventually import TIMEOUT

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",  # the example of RFC 6455
)


def request(path: str, *lines: str, method: str = "GET", host: str = "127.0.0.1", body: bytes = b"") -> bytes:
    """Return a request with *lines* as further header fields."""
    return "\r\n".join((f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", "")).encode() + body


class RawClient(Protocol):
    """A connection that keeps what comes; ``ended`` fires when it is over."""

    def __init__(self) -> None:
        self.data = b""
        self.lost = False
        self._waiting: list[Deferred[None]] = []

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self._wake()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    async def until(self, ready: Callable[[], object]) -> None:
        """Wait until *ready* says so, or the connection has ended."""
        while not ready() and not self.lost:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            await waiting.addTimeout(TIMEOUT, reactor)

    async def head(self) -> str:
        """Return the head of the next answer, with its last line end; "" when the connection ends without one."""
        await self.until(lambda: b"\r\n\r\n" in self.data)
        return self.data.partition(b"\r\n\r\n")[0].decode() + "\r\n" if self.data else ""

    async def end(self) -> bytes:
        """Return all that came, once the connection has ended."""
        await self.until(lambda: False)
        return self.data


@attrs.define
class PublicPort:
    """All dialects on one port of the system's choice."""

    broker: Any
    site: Any
    listening: Any
    clients: list[RawClient] = attrs.field(factory=list)

    @classmethod
    async def open(cls, **options: Any) -> PublicPort:
        """Listen with *options* as settings; what is stored is kept in memory."""
        settings = Settings(store="memory:", **options)
        broker = make_broker(reactor, make_access(settings), **options)
        site = make_site(reactor, settings, broker, load_dialects(PROTOCOLS, settings))
        return cls(broker, site, await listen(reactor, "tcp:0:interface=127.0.0.1", site, Outbox(reactor)))

    async def close(self) -> None:
        """Drop all clients and stop."""
        for client in self.clients:
            client.transport.abortConnection()
        await self.listening.stopListening()
        await self.site.drain(0.0)
        await self.broker.stopService()

    async def connect(self, data: bytes) -> RawClient:
        """Return a new connection on which *data* was sent."""
        endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{self.listening.getHost().port}")
        client: RawClient = await connectProtocol(endpoint, RawClient()).addTimeout(TIMEOUT, reactor)
        client.transport.write(data)
        self.clients.append(client)
        return client

    async def ask(self, path: str, *lines: str, **more: Any) -> str:
        """Send a request on a connection of its own, which is dropped then; return the head of the answer."""
        client = await self.connect(request(path, *lines, **more))
        head = await client.head()
        client.transport.abortConnection()
        return head
