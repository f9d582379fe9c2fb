"""The public port over real sockets: its channel, its upgrader and its transport together."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
import trustme
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import clientFromString, connectProtocol, wrapClientTLS
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IListeningPort
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.ssl import Certificate, optionsForClientTLS, trustRootFromCertificates
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.errors import Refused
from broker.interfaces import IHttpDialect, IWebSocketDialect
from broker.messages import HttpRequest, Response
from broker.observe.metrics import Metrics
from broker.web.http.channel import Times
from broker.web.http.parser import Limits
from broker.web.net.listening import listen
from broker.web.net.transport import Outbox
from broker.web.site import Site
from broker.web.ws.options import WebSocketOptions
from broker.web.ws.upgrade import WebSocketUpgrader
from tests.support.eventually import TIMEOUT
from tests.support.http_client import get, post
from tests.support.ws_client import Refused as WasRefused
from tests.support.ws_client import ws_connect
from tests.web.wire import Heard, read_all

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",  # the example of RFC 6455
)


class Peer:
    id = client = "conn-1"
    admitted = True
    session: Any = None
    closed = 0

    def bind(self, session: Any, disconnect: Any = None, *, link: Any = None) -> None:
        self.session = session

    def close(self) -> None:
        self.closed += 1


class Echo:
    def __init__(self, link: Any) -> None:
        self.link = link

    def opened(self) -> None:
        self.link.send(b"welcome")

    def received(self, data: bytes, binary: bool) -> None:
        self.link.send(data)

    def closed(self, code: int, reason: str) -> None:
        pass


@implementer(IHttpDialect, IWebSocketDialect)
class Dialect:
    """Echoes, waits, or answers with much, or with a stream."""

    name = "echo"
    http_paths = ("/echo", "/wait", "/much", "/stream")
    websocket_paths = ("/ws",)
    subprotocols = ("echo.v1",)

    def __init__(self) -> None:
        self.peers: list[Any] = []
        self.waiting: list[Deferred[Response]] = []
        self.cancelled: Deferred[None] = Deferred()
        self.much = 0
        self.secure: list[bool] = []
        self.body: Callable[[Any], Any] = lambda peer: b""

    async def answer(self, peer: Any, request: HttpRequest) -> Response:
        self.secure.append(request.secure)
        if request.path == "/much":
            self.much += 1
            return Response(body=bytes(int(request.query or 1 << 20)), content_type="application/octet-stream")
        if request.path == "/wait":
            waiting: Deferred[Response] = Deferred(lambda _: self.cancelled.callback(None))
            self.waiting.append(waiting)
            return await waiting
        if request.path == "/stream":
            return Response(body=self.body(peer), content_type="application/octet-stream")
        return Response(body=request.body or request.query.encode(), content_type="text/plain")

    async def session(self, peer: Any, link: Any) -> Any:
        if "refuse" in link.handshake.query:
            raise Refused(403, "no")
        return Echo(link)


class Client(Protocol):
    """A raw connection."""

    def __init__(self) -> None:
        self.data = b""
        self.counting = False
        self.counted = 0
        self.lost = False
        self.aborted = False  # by the test, which notes it
        self._changed: list[Deferred[None]] = []

    def dataReceived(self, data: bytes) -> None:
        self.counted += len(data)
        if not self.counting:
            self.data += data
        self._change()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = True
        self.clean = reason.check(ConnectionDone) is not None
        self._change()

    def _change(self) -> None:
        changed, self._changed = self._changed, []
        for deferred in changed:
            deferred.callback(None)

    async def until(self, ready: Any) -> None:
        while not ready():
            changed: Deferred[None] = Deferred()
            self._changed.append(changed)
            await changed.addTimeout(TIMEOUT, reactor)

    async def answers(self, number: int) -> list[Heard]:
        """Wait for *number* answers without unusual lengths."""
        await self.until(lambda: self.data.count(b"HTTP/1.1 ") >= number and self._whole())
        data, self.data = self.data, b""
        return read_all(data)

    def _whole(self) -> bool:
        try:
            read_all(self.data)
        except AssertionError:
            return False
        return True


@attrs.define(eq=False)
class Served:
    site: Site
    dialect: Dialect
    endpoint: str
    url: str

    async def connect(self, receive_buffer: int = 0) -> Client:
        """Return a client; *receive_buffer* is how many bytes its kernel keeps for it, 0 for as many as it likes."""
        client = await connectProtocol(clientFromString(reactor, self.endpoint), Client())
        if receive_buffer:
            client.transport.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        return client


async def serve(description: str, times: Times | None = None) -> tuple[Served, IListeningPort]:
    dialect, metrics = Dialect(), Metrics()

    def attach(name: str, address: str) -> Peer:
        dialect.peers.append(Peer())
        return dialect.peers[-1]

    upgrader = WebSocketUpgrader(WebSocketOptions(close_timeout=TIMEOUT), reactor, metrics)
    site = Site([dialect], attach, reactor, upgrader, metrics, times=times, limits=Limits(body_bytes=1 << 21))
    port = await listen(reactor, description, site, Outbox(reactor))
    address: Any = port.getHost()
    if description.startswith("unix"):
        return Served(site, dialect, description, ""), port
    return Served(site, dialect, f"tcp:127.0.0.1:{address.port}", f"http://127.0.0.1:{address.port}"), port


@pytest_twisted.async_yield_fixture
async def served() -> AsyncIterator[Served]:
    served, port = await serve("tcp:0:interface=127.0.0.1")
    yield served
    await maybeDeferred(port.stopListening)
    await served.site.drain(0.0)
    assert served.site.connections == 0
    assert all(peer.closed == 1 for peer in served.dialect.peers)


def request(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: h", *lines, "", "")).encode()


def post_of(size: int) -> bytes:
    return request("/echo", f"Content-Length: {size}", method="POST")


@pytest_twisted.ensureDeferred
async def test_requests_and_websockets_share_the_port(served: Served) -> None:
    assert (await get(f"{served.url}/echo?hello")).body == b"hello"
    assert (await post(f"{served.url}/echo", body=b"x" * 200000)).body == b"x" * 200000
    client = await ws_connect(f"{served.url.replace('http', 'ws')}/ws", subprotocols=["echo.v1"])
    assert client.subprotocol == "echo.v1"
    assert await client.receive() == "welcome"
    client.send("hello")
    assert await client.receive() == "hello"
    assert await client.close() == (1000, "")


@pytest_twisted.ensureDeferred
async def test_a_refused_handshake_is_an_http_answer(served: Served) -> None:
    with pytest.raises(WasRefused) as caught:
        await ws_connect(f"{served.url.replace('http', 'ws')}/ws?refuse")
    assert caught.value.status == 403
    with pytest.raises(WasRefused) as caught:
        await ws_connect(f"{served.url.replace('http', 'ws')}/nothing")
    assert caught.value.status == 404


@pytest_twisted.ensureDeferred
async def test_requests_before_a_handshake_are_answered_first(served: Served) -> None:
    client = await served.connect()
    client.transport.write(request("/echo?1") + request("/ws", *UPGRADE) + b"\x81\x82\0\0\0\0hi")
    await client.until(lambda: client.data.endswith(b"\x81\x02hi"))
    first, second = client.data.split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200 OK\r\n")
    assert second.startswith(b"101 Switching Protocols\r\n")
    assert b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in second
    assert second.endswith(b"\r\n\r\n\x81\x07welcome\x81\x02hi")
    client.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_a_pipeline_of_small_and_chunked_requests(served: Served) -> None:
    client = await served.connect()
    chunked = request("/echo", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\n\r\n"
    client.transport.write((request("/echo?x") + chunked) * 500)
    answers = await client.answers(1000)
    assert [answer.body for answer in answers] == [b"x", b"abc"] * 500
    client.transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_a_waiting_request_is_cancelled_when_its_client_goes(served: Served) -> None:
    client = await served.connect()
    client.transport.write(request("/wait"))
    while not served.dialect.waiting:
        await client_turn()
    client.transport.abortConnection()
    await served.dialect.cancelled.addTimeout(TIMEOUT, reactor)
    await client_turn()
    assert served.dialect.peers[0].closed == 1


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_is_not_answered_without_end(served: Served) -> None:
    client = await served.connect()
    client.counting = True
    client.transport.pauseProducing()
    client.transport.write(request("/much") * 100)
    before = -1
    while served.dialect.much != before:
        before = served.dialect.much
        for _ in range(20):
            await client_turn()
    assert 0 < served.dialect.much < 30
    client.transport.resumeProducing()
    await client.until(lambda: client.counted > 100 << 20)
    assert served.dialect.much == 100
    client.transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_a_refused_upload_can_be_read_by_a_client_that_is_still_sending(served: Served) -> None:
    client = await served.connect()
    client.transport.write(post_of(1 << 30))
    client.transport.write(bytes(4 << 20))
    (answer,) = await client.answers(1)
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    await client.until(lambda: client.lost)
    assert client.clean


@pytest_twisted.ensureDeferred
async def test_continue_is_sent_before_the_body(served: Served) -> None:
    client = await served.connect()
    client.transport.write(request("/echo", "Content-Length: 2", "Expect: 100-continue", method="POST"))
    await client.until(lambda: client.data == b"HTTP/1.1 100 Continue\r\n\r\n")
    client.data = b""
    client.transport.write(b"hi")
    assert (await client.answers(1))[0].body == b"hi"
    client.transport.loseConnection()


@pytest_twisted.ensureDeferred
async def test_a_slow_header_and_an_idle_connection_end() -> None:
    served, port = await serve("tcp:0:interface=127.0.0.1", Times(silent=5.0, head=0.1, idle=0.1, linger=0.1))
    slow, idle = await served.connect(), await served.connect()
    slow.transport.write(b"GET / HT")
    idle.transport.write(request("/echo?x"))
    await slow.until(lambda: slow.lost)
    assert read_all(slow.data)[0].status == 408
    await idle.until(lambda: idle.lost)
    assert [answer.status for answer in read_all(idle.data)] == [200]
    await maybeDeferred(port.stopListening)
    await served.site.drain(0.0)


@pytest_twisted.ensureDeferred
async def test_draining_answers_what_waits_and_closes_websockets(served: Served) -> None:
    idle, busy = await served.connect(), await served.connect()
    idle.transport.write(request("/echo?x"))
    await idle.answers(1)
    busy.transport.write(request("/wait"))
    client = await ws_connect(f"{served.url.replace('http', 'ws')}/ws")
    while not served.dialect.waiting:
        await client_turn()
    draining = served.site.drain(TIMEOUT)
    served.site.drain = lambda seconds: draining  # type: ignore[assignment, misc]
    served.dialect.waiting[0].callback(Response(body=b"[]"))
    (answer,) = await busy.answers(1)
    assert (answer.body, answer.headers["connection"]) == (b"[]", "close")
    assert (await client.closed())[0] == 1001
    await idle.until(lambda: idle.lost)
    assert not idle.data


@pytest.mark.parametrize("asked", [0, 1])
@pytest_twisted.ensureDeferred
async def test_a_request_that_has_come_is_answered_though_the_site_drains(served: Served, asked: int) -> None:
    client = await served.connect()
    for _ in range(asked):
        client.transport.write(request("/echo?x"))
        await client.answers(1)
    while served.site.connections < 1:
        await client_turn()
    client.transport.socket.send(request("/echo?last"))  # which the site can not have read yet
    draining = served.site.drain(TIMEOUT)
    served.site.drain = lambda seconds: draining  # type: ignore[assignment, misc]
    (answer,) = await client.answers(1)
    assert (answer.body, answer.headers["connection"]) == (b"last", "close")
    await draining


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_serves_the_same(short_path: Path) -> None:
    served, port = await serve(f"unix:{short_path / 'socket'}")
    client = await connectProtocol(clientFromString(reactor, f"unix:{short_path / 'socket'}"), Client())
    client.transport.write(request("/echo?x") * 3 + b"nonsense\r\n\r\n")
    assert [answer.status for answer in await client.answers(4)] == [200, 200, 200, 400]
    await maybeDeferred(port.stopListening)
    await served.site.drain(1.0)


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")  # Twisted does
@pytest_twisted.ensureDeferred
async def test_tls_serves_the_same(short_path: Path) -> None:
    authority = trustme.CA()
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(short_path / "pem")
    served, port = await serve(f"ssl:0:interface=127.0.0.1:privateKey={short_path}/pem:certKey={short_path}/pem")
    trusted = trustRootFromCertificates([Certificate.loadPEM(authority.cert_pem.bytes())])
    endpoint = wrapClientTLS(optionsForClientTLS("localhost", trusted), clientFromString(reactor, served.endpoint))
    client = await connectProtocol(endpoint, Client())
    client.transport.write(request("/echo?x") * 3 + post_of(1 << 30))
    assert [answer.status for answer in await client.answers(4)] == [200, 200, 200, 413]
    await client.until(lambda: client.lost)
    assert served.dialect.secure == [True] * 3
    client = await connectProtocol(endpoint, Client())
    client.transport.write(request("/ws", *UPGRADE) + b"\x81\x82\0\0\0\0hi")
    await client.until(lambda: client.data.endswith(b"\x81\x07welcome\x81\x02hi"))
    client.transport.write(b"\x81\x82\0\0\0\0ho")
    await client.until(lambda: client.data.endswith(b"\x81\x02ho"))
    client.transport.abortConnection()
    await maybeDeferred(port.stopListening)
    await served.site.drain(0.0)


@pytest_twisted.ensureDeferred
async def test_a_client_that_ends_its_side_first_is_answered(served: Served) -> None:
    raw = socket.create_connection(("127.0.0.1", int(served.endpoint.rsplit(":", 1)[1])))
    raw.sendall(request("/echo?x"))
    raw.shutdown(socket.SHUT_WR)
    raw.setblocking(False)
    data, piece = b"", b"-"
    while piece:
        try:
            piece = raw.recv(65536)
            data += piece
        except BlockingIOError:
            await client_turn()
    raw.close()
    assert read_all(data)[0].body == b"x"


async def client_turn() -> None:
    turned: Deferred[None] = Deferred()
    reactor.callLater(0.005, turned.callback, None)
    await turned
