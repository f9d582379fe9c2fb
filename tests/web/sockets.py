"""Servers and clients on real sockets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from twisted.internet import reactor as real_reactor
from twisted.internet import ssl
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import clientFromString, connectProtocol, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from broker.web.net.listening import listen
from broker.web.net.sockets import writer_for
from broker.web.net.transport import Outbox
from tests.support.eventually import TIMEOUT

reactor: Any = real_reactor
# Twisted's own use of pyOpenSSL.
OLD_OPENSSL_OBJECTS = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")


class Server(Protocol):
    """Does with each chunk what the test wants; ``send`` is the transport's best way."""

    def connectionMade(self) -> None:
        self.send = writer_for(self.transport)
        self.factory.connections.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.factory.act(self, data)


class Servers(Factory):
    protocol = Server
    noisy = False

    def __init__(self) -> None:
        self.connections: list[Server] = []
        self.act: Callable[[Server, bytes], object] = lambda server, data: server.send(data)


class Client(Protocol):
    """Collects what comes; ``until`` fires when that is so many bytes."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.wanted = 0
        self.complete: Deferred[bytes] = Deferred()
        self.ended: Deferred[None] = Deferred()

    def until(self, size: int) -> Deferred[bytes]:
        self.wanted = size
        self.complete = Deferred()
        self._check()
        return self.complete.addTimeout(TIMEOUT, reactor)

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        self._check()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.ended.callback(None)

    def _check(self) -> None:
        if len(self.data) >= self.wanted and not self.complete.called:
            self.complete.callback(bytes(self.data))


class Scene:
    """Servers and clients of one test, all of which end with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.servers: Any = Servers()
        self.outbox = Outbox(reactor)
        self.ports: list[Any] = []
        self.clients: list[Client] = []

    async def listen(self, endpoint: Any, **options: Any) -> Any:
        port = await listen(reactor, endpoint, self.servers, self.outbox, **options)
        self.ports.append(port)
        return port

    async def connect(self, address: Any, wrap: Callable[[Any], Any] = lambda endpoint: endpoint) -> Client:
        text = f"unix:{address}" if isinstance(address, Path) else f"tcp:127.0.0.1:{address}"
        client: Client = await connectProtocol(wrap(clientFromString(reactor, text)), Client()).addTimeout(
            TIMEOUT, reactor
        )
        self.clients.append(client)
        return client

    async def close(self) -> None:
        for client in self.clients:
            client.transport.abortConnection()
            await client.ended
        for port in self.ports:
            await maybeDeferred(port.stopListening)  # which some tests have done themselves

    async def listen_with_tls(self) -> tuple[Any, Callable[[Any], Any]]:
        """Return a port, and what makes a client's endpoint one that trusts it."""
        authority = trustme.CA()
        pem = self.path / "server.pem"
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(str(pem))
        port = await self.listen(f"ssl:0:interface=127.0.0.1:privateKey={pem}:certKey={pem}")
        trust = ssl.trustRootFromCertificates([ssl.Certificate.loadPEM(authority.cert_pem.bytes())])
        options = ssl.optionsForClientTLS("localhost", trustRoot=trust)
        return port, lambda endpoint: wrapClientTLS(options, endpoint)
