"""A real epoll reactor of our own with a port, and clients that are plain sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Factory, Protocol

from broker.web.net.listening import listen
from broker.web.net.transport import Outbox, ReactorLoop
from tests.support.eventually import TIMEOUT


class Connection(Protocol):
    """Hands what it reads to the test's function."""

    factory: Connections

    def connectionMade(self) -> None:
        self.factory.connections.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.factory.on_data(self, data)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.connections.remove(self)


class Connections(Factory):
    protocol = Connection  # type: ignore[assignment]

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.on_data: Callable[[Connection, bytes], object] = lambda connection, data: None


class CountingSocket:
    """A socket that remembers each piece it was given to send."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.pieces: list[bytes] = []

    def send(self, data: bytes) -> int:
        self.pieces.append(bytes(data))
        return self._inner.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Setup:
    """A reactor, a port, and clients that are plain sockets."""

    def __init__(self) -> None:
        self.reactor: Any = EPollReactor()
        outbox = Outbox(self.reactor)
        self.loop = ReactorLoop(self.reactor, outbox)
        assert self.loop.install()
        self.factory = Connections()
        ports: list[Any] = []
        listen(self.reactor, "tcp:0:interface=127.0.0.1", self.factory, outbox).addCallback(ports.append)
        self.port = ports[0]
        self.clients: list[socket.socket] = []

    def run(self, until: Callable[[], object]) -> None:
        for _ in range(1000):
            if until():
                return
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(0.01)
        raise AssertionError("it did not come to that")

    def connect(self) -> tuple[socket.socket, Connection]:
        count = len(self.factory.connections)
        client = socket.create_connection(self.port.socket.getsockname())
        client.settimeout(TIMEOUT)
        self.clients.append(client)
        self.run(lambda: len(self.factory.connections) > count)
        return client, self.factory.connections[-1]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.run(lambda: not self.factory.connections and not self.reactor.getDelayedCalls())
        self.port.stopListening()
        self.reactor.runUntilCurrent()
        self.loop.remove()
        self.reactor.removeAll()
        self.reactor.waker.connectionLost(None)
        self.reactor._poller.close()
