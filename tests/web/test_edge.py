"""The public port behind balancers, and with TLS of its own, over real sockets."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import maybeDeferred
from twisted.internet.threads import deferToThread

from broker.access.addresses import TrustedProxies
from broker.access.admission import Admission
from broker.observe.metrics import Metrics
from broker.web.net.certificates import ServerCertificates
from broker.web.net.listening import Listener
from broker.web.net.transport import Outbox
from broker.web.site import Site
from broker.web.ws.options import WebSocketOptions
from broker.web.ws.upgrade import WebSocketUpgrader
from tests.support.eventually import TIMEOUT
from tests.web.net.test_certificates import names_of, trusting, write
from tests.web.sockets import reactor
from tests.web.test_port import Dialect, Peer, request

HEADER = b"PROXY TCP4 203.0.113.5 192.0.2.1 4711 443\r\n"
BESIDE = b"PROXY TCP4 203.0.113.6 192.0.2.1 4711 443\r\n"
ENDPOINTS = {
    "tcp": "tcp:0:interface=127.0.0.1",
    "tcp6": "tcp6:0:interface=\\:\\:1",
    "haproxy": "haproxy:tcp:0:interface=127.0.0.1",
}


class Edge:
    """A site on any endpoint, which notes the address of each client that it attaches."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files = write(path, "localhost")
        self.addresses: list[str] = []
        self.ports: list[Any] = []
        metrics = Metrics()
        proxies = TrustedProxies(["203.0.113.200"])
        self.site = Site(
            [Dialect()],
            self.attach,
            reactor,
            WebSocketUpgrader(WebSocketOptions(close_timeout=TIMEOUT), reactor, metrics),
            metrics,
            admission=Admission(per_address=1, proxies=proxies),
        )

    def attach(self, dialect: str, address: str) -> Peer:
        self.addresses.append(address)
        return Peer()

    async def listen(self, endpoint: str, tls: bool = False) -> Any:
        """Return where clients connect to."""
        certificates = ServerCertificates([self.files]) if tls else None
        listener = Listener(reactor, Outbox(reactor), certificates=certificates)
        self.ports.append(await listener.listen(endpoint, self.site))
        return self.ports[-1].socket.getsockname()

    async def close(self) -> None:
        for port in self.ports:
            await maybeDeferred(port.stopListening)
        await self.site.drain(0.0)


@pytest_twisted.async_yield_fixture
async def edge(short_path: Path) -> AsyncIterator[Edge]:
    edge = Edge(short_path)
    yield edge
    await edge.close()
    assert edge.site.connections == 0


def dial(where: Any, before: bytes = b"") -> socket.socket:
    made = socket.socket(socket.AF_UNIX if isinstance(where, str) else socket.AF_INET6 if len(where) == 4 else 2)
    made.settimeout(TIMEOUT)
    made.connect(where)
    made.sendall(before)
    return made


def answer(connection: socket.socket, *lines: str) -> int:
    connection.sendall(request("/echo?x", *lines))
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        assert piece, "it was closed"
        data += piece
    return int(data.split()[1])


def ask(where: Any, before: bytes = b"", *lines: str) -> int:
    with dial(where, before) as connection:
        return answer(connection, *lines, "Connection: close")


def ask_over_tls(where: Any, before: bytes = b"") -> tuple[int, list[str], str | None]:
    client = trusting("h2", "http/1.1")
    with dial(where, before) as plain, client.wrap_socket(plain, server_hostname="localhost") as connection:
        return answer(connection, "Connection: close"), names_of(connection), connection.selected_alpn_protocol()  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_limits_count_the_clients_of_a_balancer(edge: Edge) -> None:
    where = await edge.listen(ENDPOINTS["haproxy"])

    def clients() -> list[int]:
        # One after the other: who was not answered yet would make room for the next of its address.
        with ExitStack() as stack:
            return [answer(stack.enter_context(dial(where, before))) for before in (HEADER, BESIDE, HEADER)]

    assert await deferToThread(clients) == [200, 200, 503]
    assert edge.addresses == ["203.0.113.5", "203.0.113.6"]


@pytest_twisted.ensureDeferred
async def test_what_is_told_by_both_ways_is_followed_to_the_client(edge: Edge) -> None:
    where = await edge.listen(ENDPOINTS["haproxy"])
    trusted = HEADER.replace(b"203.0.113.5", b"203.0.113.200")
    for before in (trusted, HEADER):
        assert await deferToThread(ask, where, before, "X-Forwarded-For: 198.51.100.9") == 200
    assert edge.addresses == ["198.51.100.9", "203.0.113.5"]


@pytest_twisted.ensureDeferred
async def test_a_balancer_may_come_by_a_unix_socket(edge: Edge) -> None:
    where = await edge.listen(f"haproxy:unix:{edge.path}/socket")
    assert await deferToThread(ask, where, HEADER) == 200
    assert edge.addresses == ["203.0.113.5"]


@pytest_twisted.ensureDeferred
async def test_a_connection_without_a_header_is_dropped_before_the_site_knows_of_it(edge: Edge) -> None:
    where = await edge.listen(ENDPOINTS["haproxy"])

    def stranger() -> bytes:
        with dial(where, request("/echo")) as connection:
            try:
                return connection.recv(1)
            except ConnectionResetError:
                return b""

    assert await deferToThread(stranger) == b""
    assert edge.addresses == []


@pytest.mark.parametrize("kind", ENDPOINTS)
@pytest_twisted.ensureDeferred
async def test_certificates_of_the_settings_are_for_every_endpoint_of_tcp(edge: Edge, kind: str) -> None:
    where = await edge.listen(ENDPOINTS[kind], tls=True)
    before = HEADER if kind == "haproxy" else b""
    assert await deferToThread(ask_over_tls, where, before) == (200, ["localhost"], "http/1.1")
    assert edge.addresses == [{"tcp": "127.0.0.1", "tcp6": "::1", "haproxy": "203.0.113.5"}[kind]]


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_stays_without_tls(edge: Edge) -> None:
    assert await deferToThread(ask, await edge.listen(f"unix:{edge.path}/socket", tls=True)) == 200


@pytest.mark.parametrize("before", ["", "haproxy:"])
@pytest_twisted.ensureDeferred
async def test_an_endpoint_may_have_a_certificate_of_its_own(edge: Edge, before: str) -> None:
    text = f"{before}ssl:0:interface=127.0.0.1:privateKey={edge.files.key}:certKey={edge.files.certificate}"
    where = await edge.listen(text)
    assert (await deferToThread(ask_over_tls, where, HEADER if before else b""))[0] == 200


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Twisted's use of pyOpenSSL
@pytest_twisted.ensureDeferred
async def test_twisted_s_own_endpoint_of_a_directory_of_certificates_answers_alpn(edge: Edge) -> None:
    directory = edge.path / "certificates"
    directory.mkdir()
    parts = (edge.files.key, edge.files.certificate)
    (directory / "localhost.pem").write_bytes(b"".join(Path(part).read_bytes() for part in parts))
    where = await edge.listen(f"tls:{directory}:0:interface=\\:\\:1")
    status, _, spoken = await deferToThread(ask_over_tls, where)
    assert (status, spoken) == (200, "http/1.1")


@pytest_twisted.ensureDeferred
async def test_plain_http_at_a_port_of_tls_is_no_harm(edge: Edge) -> None:
    where = await edge.listen(ENDPOINTS["tcp"], tls=True)

    def mistaken() -> bytes:
        with dial(where, request("/echo")) as connection:
            return connection.recv(100)

    assert not (await deferToThread(mistaken)).startswith(b"HTTP")
    assert (await deferToThread(ask_over_tls, where))[0] == 200


@pytest_twisted.ensureDeferred
async def test_a_client_that_trusts_nobody_gets_no_answer(edge: Edge) -> None:
    where = await edge.listen(ENDPOINTS["tcp"], tls=True)

    def distrusting() -> None:
        with dial(where) as plain, ssl.create_default_context().wrap_socket(plain, server_hostname="localhost"):
            pass

    with pytest.raises(ssl.SSLCertVerificationError):
        await deferToThread(distrusting)
