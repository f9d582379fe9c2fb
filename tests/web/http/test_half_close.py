"""Clients that shut down their side first: they are answered, and are not waited for without end."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import clientFromString, connectProtocol, wrapClientTLS
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.internet.threads import deferToThread

from broker.messages import Response
from broker.web.http.channel import HttpChannel, Times
from broker.web.net.sockets import peer_is_gone
from tests.support.eventually import TIMEOUT, eventually
from tests.web.http.fake_site import GET, UPGRADE, FakeSite, get, post
from tests.web.sockets import OLD_OPENSSL_OBJECTS
from tests.web.test_port import UPGRADE as WS_UPGRADE
from tests.web.test_port import Client, Served, request, serve
from tests.web.wire import Wire, read_all


@pytest_twisted.async_yield_fixture(params=["tcp", "unix"])
async def served(request: pytest.FixtureRequest, short_path: Path) -> AsyncIterator[Served]:
    endpoint = {"tcp": "tcp:0:interface=127.0.0.1", "unix": f"unix:{short_path / 'socket'}"}[request.param]
    served, port = await serve(endpoint)
    yield served
    await maybeDeferred(port.stopListening)
    await served.site.drain(TIMEOUT)
    assert all(peer.closed == 1 for peer in served.dialect.peers)


async def half_closed(served: Served, *requests: bytes) -> Client:
    """Return a client that has sent *requests* and shut down its side."""
    client = await served.connect()
    client.transport.write(b"".join(requests))
    client.transport.loseWriteConnection()
    return client


async def answers(client: Client) -> list[tuple[int, bytes]]:
    """Wait for the end; return status and body of what came before it."""
    await client.until(lambda: client.lost)
    assert client.clean
    return [(heard.status, heard.body) for heard in read_all(client.data)]


@pytest_twisted.ensureDeferred
async def test_a_request_is_answered(served: Served) -> None:
    client = await half_closed(served, request("/echo?x"))
    assert await answers(client) == [(200, b"x")]


@pytest_twisted.ensureDeferred
async def test_a_long_poll_is_answered_when_its_event_comes(served: Served) -> None:
    client = await half_closed(served, request("/wait"))
    await eventually(lambda: served.dialect.waiting)
    reactor.callLater(0.05, served.dialect.waiting[0].callback, Response(body=b"event"))
    assert await answers(client) == [(200, b"event")]


@pytest_twisted.ensureDeferred
async def test_every_request_of_a_pipeline_is_answered(served: Served) -> None:
    client = await half_closed(served, request("/echo?1"), request("/wait"), *[request("/echo?2")] * 50)
    await eventually(lambda: served.dialect.waiting)
    reactor.callLater(0.05, served.dialect.waiting[0].callback, Response(body=b"event"))
    assert await answers(client) == [(200, b"1"), (200, b"event"), *[(200, b"2")] * 50]


@pytest_twisted.ensureDeferred
async def test_a_long_answer_is_sent_to_its_end(served: Served) -> None:
    client = await served.connect()
    client.counting = True
    client.transport.pauseProducing()
    client.transport.write(request("/much") * 20)
    client.transport.loseWriteConnection()
    await eventually(lambda: served.dialect.much)
    client.transport.resumeProducing()
    await client.until(lambda: client.lost)
    assert client.counted > 20 << 20


@pytest.mark.parametrize("part", [b"GET /echo HTT", post(b"hello")[:-1], get("/p", "Content-Length: 5", method="POST")])
@pytest_twisted.ensureDeferred
async def test_an_incomplete_request_is_refused_after_the_answers_before_it(served: Served, part: bytes) -> None:
    client = await half_closed(served, request("/wait"), part)
    await eventually(lambda: served.dialect.waiting)
    reactor.callLater(0.05, served.dialect.waiting[0].callback, Response())
    assert [status for status, _ in await answers(client)] == [200, 400]


@pytest_twisted.ensureDeferred
async def test_a_client_without_a_request_is_closed_in_silence(served: Served) -> None:
    client = await half_closed(served)
    assert await answers(client) == []


@pytest_twisted.ensureDeferred
async def test_a_client_that_is_gone_altogether_cancels_its_request(served: Served) -> None:
    client = await half_closed(served, request("/wait"))
    await eventually(lambda: served.dialect.waiting)
    client.transport.abortConnection()  # the kernel sends a reset
    await served.dialect.cancelled.addTimeout(TIMEOUT, reactor)


@pytest_twisted.ensureDeferred
async def test_a_waiting_request_of_a_half_closed_client_has_a_bound() -> None:
    served, port = await serve("tcp:0:interface=127.0.0.1", Times(half_closed=0.5))
    client = await half_closed(served, request("/wait"))
    await served.dialect.cancelled.addTimeout(TIMEOUT, reactor)
    await client.until(lambda: client.lost)
    assert client.data == b""
    await maybeDeferred(port.stopListening)
    await served.site.drain(TIMEOUT)


# Without a network.


def test_the_bound_is_for_each_answer(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.server.dataReceived(GET * 2)
    wire.end()
    site.clock.pump([1.0] * 59)
    site.waiting[0].callback(Response())
    site.clock.pump([1.0] * 59)
    assert not wire.lost
    site.clock.pump([1.0] * 3)
    assert wire.aborted
    assert site.cancelled == ["/a"]


def test_a_dialect_may_have_its_waiting_requests_cancelled(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.server.dataReceived(get("/whole"))
    wire.end()
    assert wire.aborted
    assert site.cancelled == ["/whole"]


def test_a_paused_client_that_ended_its_side_loses_nothing(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.server.dataReceived(GET * 1000)
    wire.end()
    while site.waiting:
        waiting, site.waiting = site.waiting, []
        for deferred in waiting:
            deferred.callback(Response())
    assert [heard.headers["connection"] for heard in wire.heard()] == [*["keep-alive"] * 999, "close"]
    assert wire.lost


def test_the_end_of_a_refused_client_ends_the_lingering(site: FakeSite, wire: Wire) -> None:
    wire.say(b"nonsense\r\n\r\n")
    assert not wire.lost
    wire.end()
    assert wire.lost


def test_a_handshake_of_a_client_that_sends_nothing_more_is_refused(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.server.dataReceived(GET + UPGRADE)
    wire.end()
    site.waiting[0].callback(Response())
    assert [(heard.status, heard.headers["connection"]) for heard in wire.heard()] == [
        (200, "keep-alive"),
        (400, "close"),
    ]
    assert site.upgraded == []


def test_a_drained_channel_closes_after_the_answer_under_way(site: FakeSite, wire: Wire) -> None:
    site.reply = site.wait
    wire.server.dataReceived(GET * 2)
    wire.end()
    wire.server.finish()
    site.waiting[0].callback(Response())
    assert [heard.headers["connection"] for heard in wire.heard()] == ["close"]
    assert wire.lost


def test_a_transport_without_a_socket_is_never_known_to_be_gone() -> None:
    assert not peer_is_gone(Wire(HttpChannel(FakeSite(), "")))


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_tells_a_client_that_is_gone_at_once(short_path: Path) -> None:
    served, port = await serve(f"unix:{short_path / 'socket'}")
    client = await served.connect()
    client.transport.write(request("/wait"))
    await eventually(lambda: served.dialect.waiting)
    client.transport.loseConnection()
    await served.dialect.cancelled.addTimeout(TIMEOUT, reactor)
    await maybeDeferred(port.stopListening)
    await served.site.drain(TIMEOUT)


# Over TLS: a close_notify ends one direction.


@attrs.define(eq=False)
class Secure(Served):
    """A server whose clients connect over TLS."""

    authority: trustme.CA
    trust: Any

    async def connect(self, receive_buffer: int = 0) -> Client:
        return await connectProtocol(wrapClientTLS(self.trust, clientFromString(reactor, self.endpoint)), Client())


@pytest_twisted.async_yield_fixture
async def secure(short_path: Path) -> AsyncIterator[Secure]:
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(short_path / "pem")
    served, port = await serve(f"ssl:0:interface=127.0.0.1:privateKey={short_path}/pem:certKey={short_path}/pem")
    trusted = trustRootFromCertificates([Certificate.loadPEM(authority.cert_pem.bytes())])
    trust = optionsForClientTLS("localhost", trusted)
    yield Secure(served.site, served.dialect, served.endpoint, served.url, authority, trust)
    await maybeDeferred(port.stopListening)
    await served.site.drain(TIMEOUT)
    assert all(peer.closed == 1 for peer in served.dialect.peers)


def read_and_unwrap(port: int, authority: trustme.CA) -> tuple[bytes, bytes]:
    """Ask for an answer that closes, over a plain TLS socket; return it, and what the TCP connection ends with."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    connection = context.wrap_socket(
        socket.create_connection(("127.0.0.1", port), TIMEOUT), server_hostname="localhost"
    )
    connection.sendall(request("/echo?x", "Connection: close"))
    answer = b"".join(iter(lambda: connection.recv(65536), b""))
    with connection.unwrap() as below:
        return answer, below.recv(1)


async def notified(served: Served, *requests: bytes) -> Client:
    """Return a client that has sent *requests* and a close_notify."""
    client = await served.connect()
    await eventually(lambda: client.transport._handshakeDone)
    client.transport.write(b"".join(requests))
    client.transport._aggregator.flush()
    client.transport._tlsConnection.shutdown()
    client.transport._flushSendBIO()
    return client


@OLD_OPENSSL_OBJECTS
@pytest_twisted.ensureDeferred
async def test_requests_before_a_close_notify_are_answered(secure: Served) -> None:
    client = await notified(secure, request("/echo?1"), request("/wait"), request("/echo?2"))
    await eventually(lambda: secure.dialect.waiting)
    reactor.callLater(0.05, secure.dialect.waiting[0].callback, Response(body=b"event"))
    assert await answers(client) == [(200, b"1"), (200, b"event"), (200, b"2")]


@OLD_OPENSSL_OBJECTS
@pytest_twisted.ensureDeferred
async def test_a_long_answer_is_sent_after_a_close_notify(secure: Served) -> None:
    client = await notified(secure, request("/wait"), request(f"/much?{8 << 20}"))
    client.counting = True
    await eventually(lambda: secure.dialect.waiting)
    reactor.callLater(0.05, secure.dialect.waiting[0].callback, Response())
    await client.until(lambda: client.lost)
    assert client.counted > 8 << 20


@OLD_OPENSSL_OBJECTS
@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_closed_behind_a_close_notify_cancels_its_request(secure: Served) -> None:
    client = await notified(secure, request("/wait"))
    await eventually(lambda: secure.dialect.waiting)
    client.transport.transport.loseConnection()
    await secure.dialect.cancelled.addTimeout(TIMEOUT, reactor)


@OLD_OPENSSL_OBJECTS
@pytest_twisted.ensureDeferred
async def test_a_close_notify_that_answers_ours_closes_the_connection(secure: Secure) -> None:
    port = int(secure.endpoint.rpartition(":")[2])
    answer, rest = await deferToThread(read_and_unwrap, port, secure.authority)
    assert [heard.body for heard in read_all(answer)] == [b"x"]
    assert rest == b""


@OLD_OPENSSL_OBJECTS
@pytest_twisted.ensureDeferred
async def test_a_websocket_ends_with_a_close_notify(secure: Served) -> None:
    client = await notified(secure, request("/ws", *WS_UPGRADE))
    await client.until(lambda: client.lost)
    assert not secure.site._upgrader.links
