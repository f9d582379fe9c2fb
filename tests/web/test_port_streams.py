"""Bodies that are sent while they are made, over real sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import clientFromString, connectProtocol, wrapClientTLS
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates

from broker.web.http.channel import Times
from broker.web.net.sockets import buffered_bytes
from tests.support.eventually import TIMEOUT, eventually, pause
from tests.web.sockets import OLD_OPENSSL_OBJECTS
from tests.web.test_port import Client, Served, request, serve
from tests.web.wire import read_all

PIECE = 1 << 16


@attrs.define(eq=False)
class Body:
    """An endless body, or one of so many pieces, that notes how many were asked for and how it ends."""

    pieces: float = float("inf")
    size: int = PIECE
    made: int = 0
    closed: bool = False

    async def __call__(self, peer: Any = None) -> AsyncIterator[bytes]:
        try:
            while self.made < self.pieces:
                self.made += 1
                yield b"x" * self.size
        finally:
            self.closed = True


@pytest_twisted.async_yield_fixture(params=["tcp", "unix", pytest.param("tls", marks=OLD_OPENSSL_OBJECTS)])
async def streaming(request: pytest.FixtureRequest, short_path: Path) -> AsyncIterator[Streaming]:
    kind = request.param
    pem = short_path / "pem"
    authority = trustme.CA() if kind == "tls" else None
    if authority is not None:
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    endpoint = {
        "tcp": "tcp:0:interface=127.0.0.1",
        "unix": f"unix:{short_path / 'socket'}",
        "tls": f"ssl:0:interface=127.0.0.1:privateKey={pem}:certKey={pem}",
    }[kind]
    served, port = await serve(endpoint)
    found = Streaming(served, authority)
    yield found
    for client in found.clients:
        if not (client.lost or client.aborted):
            client.transport.abortConnection()
    await maybeDeferred(port.stopListening)
    await served.site.drain(TIMEOUT)
    assert served.site.connections == 0
    assert all(peer.closed == 1 for peer in served.dialect.peers)


@attrs.define(eq=False)
class Streaming:
    """A port, and its clients."""

    served: Served
    authority: Any
    clients: list[Client] = attrs.field(factory=list)

    async def ask(self, body: Body, *lines: str, paused: bool = False) -> Client:
        """Return a client that has asked for *body*."""
        self.served.dialect.body = body
        endpoint: Any = clientFromString(reactor, self.served.endpoint)
        if self.authority is not None:
            trusted = trustRootFromCertificates([Certificate.loadPEM(self.authority.cert_pem.bytes())])
            endpoint = wrapClientTLS(optionsForClientTLS("localhost", trusted), endpoint)
        client: Client = await connectProtocol(endpoint, Client())
        self.clients.append(client)
        client.transport.write(request("/stream", *lines))
        if paused:
            await client.until(lambda: client.data)  # not before: TLS has to read
            client.transport.pauseProducing()
        return client

    def buffered(self) -> int:
        """Return how many bytes wait for the clients, in this process."""
        return sum(buffered_bytes(channel.transport) or 0 for channel in self.served.site._channels)


@pytest_twisted.ensureDeferred
async def test_a_long_body_comes_whole_and_the_connection_goes_on(streaming: Streaming) -> None:
    client = await streaming.ask(Body(pieces=40))
    await client.until(lambda: client.data.endswith(b"\r\n0\r\n\r\n"))
    (answer,) = await client.answers(1)
    assert answer.body == b"x" * PIECE * 40
    client.transport.write(request("/echo?again"))
    assert (await client.answers(1))[0].body == b"again"


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_costs_no_more_than_a_piece_or_two(streaming: Streaming) -> None:
    body = Body()
    client = await streaming.ask(body, paused=True)
    made = -1
    while body.made != made:
        made = body.made
        await pause(0.05)
    assert 0 < made * PIECE < 32 << 20  # what the kernel keeps for both sides
    assert streaming.buffered() <= 3 * PIECE
    client.transport.resumeProducing()
    client.counting = True
    await eventually(lambda: body.made > made + 100)


@pytest_twisted.ensureDeferred
async def test_a_client_that_stops_reading_is_dropped(streaming: Streaming) -> None:
    streaming.served.site.times = Times(stalled=0.4)
    body = Body()
    await streaming.ask(body, paused=True)
    await eventually(lambda: body.closed)
    counts: Any = streaming.served.site._counts
    await eventually(lambda: counts.slow_consumers == {"close": 1})


@pytest_twisted.ensureDeferred
async def test_a_client_that_goes_away_closes_the_body(streaming: Streaming) -> None:
    body = Body()
    client = await streaming.ask(body)
    await client.until(lambda: client.data)
    client.aborted = True
    client.transport.abortConnection()
    await eventually(lambda: body.closed)


@pytest_twisted.ensureDeferred
async def test_a_client_that_closes_while_nothing_is_sent_is_noticed() -> None:
    served, port = await serve("tcp:0:interface=127.0.0.1")
    ended: Deferred[None] = Deferred()

    async def quiet(peer: Any) -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await Deferred()
        finally:
            ended.callback(None)

    served.dialect.body = quiet
    client = await served.connect()
    client.transport.write(request("/stream"))
    await client.until(lambda: b"one" in client.data)
    client.transport.abortConnection()
    await ended.addTimeout(TIMEOUT, reactor)
    await maybeDeferred(port.stopListening)
    await served.site.drain(TIMEOUT)
    assert [peer.closed for peer in served.dialect.peers] == [1]


@pytest_twisted.ensureDeferred
async def test_an_old_client_gets_the_body_up_to_the_end_of_the_connection() -> None:
    served, port = await serve("tcp:0:interface=127.0.0.1")
    served.dialect.body = Body(pieces=20)
    client = await served.connect()
    client.transport.write(b"GET /stream HTTP/1.0\r\n\r\n")
    await client.until(lambda: client.lost)
    assert client.clean
    head, _, body = client.data.partition(b"\r\n\r\n")
    assert (b"chunked" in head, body) == (False, b"x" * PIECE * 20)
    await maybeDeferred(port.stopListening)
    await served.site.drain(TIMEOUT)


@pytest_twisted.ensureDeferred
async def test_a_body_is_sent_to_its_end_while_the_site_drains() -> None:
    served, port = await serve("tcp:0:interface=127.0.0.1")
    served.dialect.body = Body(pieces=100)
    client = await served.connect()
    client.transport.pauseProducing()
    client.transport.write(request("/stream"))
    await eventually(lambda: served.dialect.peers)
    await maybeDeferred(port.stopListening)
    draining = served.site.drain(TIMEOUT)
    client.transport.resumeProducing()
    await draining
    await client.until(lambda: client.lost)
    assert len(read_all(client.data)[0].body) == 100 * PIECE


@pytest_twisted.ensureDeferred
async def test_a_body_without_end_is_cut_when_the_drain_is_over() -> None:
    served, port = await serve("tcp:0:interface=127.0.0.1")
    served.dialect.body = body = Body(size=10)
    client = await served.connect()
    client.counting = True
    client.transport.write(request("/stream"))
    await eventually(lambda: body.made)
    await maybeDeferred(port.stopListening)
    await served.site.drain(0.1)
    assert body.closed
    assert [peer.closed for peer in served.dialect.peers] == [1]


@pytest_twisted.ensureDeferred
async def test_the_kernel_drops_a_client_that_has_gone_without_a_word() -> None:
    served, port = await serve("tcp:0:interface=127.0.0.1", Times(stalled=7.0))
    served.dialect.body = Body(pieces=1)
    client = await served.connect()
    client.transport.write(request("/stream"))
    await client.answers(1)
    (channel,) = served.site._channels
    limit = channel.transport.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert limit == 14_000
    client.transport.abortConnection()
    await maybeDeferred(port.stopListening)
    await served.site.drain(TIMEOUT)
