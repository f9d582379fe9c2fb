"""Stream dialects over real sockets: who is let in, what is bounded, and how connections end."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.access.principals import make_access
from broker.app.tap import make_site
from broker.config.settings import Settings
from broker.errors import Denied
from broker.interfaces import IStreamDialect
from broker.sessions import BaseSession
from broker.testing import make_broker
from broker.web.net.listening import listen
from broker.web.net.transport import Outbox
from broker.web.raw.link import raw_link_class
from broker.web.raw.site import RawSite
from broker.web.ws.options import WebSocketOptions
from tests.support.eventually import TIMEOUT, eventually
from tests.support.examples import load_example
from tests.support.logs import lines_of
from tests.support.public_port import RawClient


@attrs.define
class StreamPort:
    """A stream dialect at an endpoint of its own, in the process of the test."""

    broker: Any
    site: Any
    listening: Any
    endpoint: str
    clients: list[RawClient] = attrs.field(factory=list)

    @classmethod
    async def open(cls, dialect: Any, endpoint: str = "", **options: Any) -> StreamPort:
        settings = Settings(store="memory:", **options)
        broker = make_broker(reactor, make_access(settings), **options)
        site = make_site(reactor, settings, broker, [dialect])
        kept = WebSocketOptions(
            max_message_bytes=settings.max_message_bytes,
            send_queue_bytes=settings.send_queue_bytes,
            slow_grace=settings.slow_grace_seconds,
        )
        link = raw_link_class(kept, reactor, broker.metrics, site.links, broker.memory)
        own = RawSite(dialect, broker.attach, reactor, link, broker.metrics, site)
        port: Any = await listen(reactor, endpoint or "tcp:0:interface=127.0.0.1", own, Outbox(reactor))
        return cls(broker, site, port, endpoint or f"tcp:127.0.0.1:{port.getHost().port}")

    async def connect(self, data: bytes = b"") -> RawClient:
        client: RawClient = await connectProtocol(clientFromString(reactor, self.endpoint), RawClient()).addTimeout(
            TIMEOUT, reactor
        )
        client.transport.write(data)
        self.clients.append(client)
        return client

    async def close(self) -> None:
        for client in self.clients:
            client.transport.abortConnection()
        await self.listening.stopListening()
        if self.site._drained is None:
            await self.site.drain(0.0)
        await self.broker.stopService()


@pytest.fixture
def telnet():
    return load_example("telnet").dialect(None)


@pytest.fixture
def opened():
    """Opens ports, which are closed after the test."""
    ports: list[StreamPort] = []

    async def open_port(*arguments: Any, **options: Any) -> StreamPort:
        ports.append(await StreamPort.open(*arguments, **options))
        return ports[-1]

    yield open_port
    for port in ports:
        pytest_twisted.blockon(Deferred.fromCoroutine(port.close()))


async def said(client: RawClient, text: bytes) -> None:
    """Wait until the client was sent *text*, be it in several pieces."""
    await client.until(lambda: client.data.endswith(text))
    assert client.data.endswith(text)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest_twisted.ensureDeferred
async def test_what_one_publishes_the_other_gets(opened, telnet, tmp_path, kind):
    port = await opened(telnet, f"unix:{tmp_path}/s" if kind == "unix" else "")
    ann, bob = await port.connect(), await port.connect(b"SUB news\n")
    await said(bob, b"OK\n")
    for piece in (b"PUB ne", b'ws {"a"', b":1}\r\nPUB news 2\n"):
        ann.transport.write(piece)
    await said(bob, b'EVENT news {"a":1}\nEVENT news 2\n')
    assert port.broker.metrics.connections["telnet"] == 2


@pytest_twisted.ensureDeferred
async def test_there_may_be_so_many_connections_of_all_ports(opened, telnet):
    port = await opened(telnet, max_connections=2)
    first, second = await port.connect(b"SUB a\n"), await port.connect(b"SUB a\n")
    for client in (first, second):
        await said(client, b"OK\n")
    assert await (await port.connect(b"SUB a\n")).end() == b""
    assert port.site.buildProtocol(IPv4Address("TCP", "203.0.113.9", 1)).__class__.__name__ == "RejectProtocol"
    first.transport.abortConnection()
    await eventually(lambda: port.site.connections == 1)
    await said(await port.connect(b"SUB a\n"), b"OK\n")


@pytest_twisted.ensureDeferred
async def test_one_address_may_have_so_many_connections(opened, telnet):
    port = await opened(telnet, max_connections_per_address=1)
    factory, address = port.listening.factory, IPv4Address("TCP", "203.0.113.9", 1)
    link = factory.buildProtocol(address)
    link.makeConnection(StringTransport())
    assert factory.buildProtocol(address) is None
    link.connectionLost(Failure(ConnectionDone()))
    assert factory.buildProtocol(address) is not None
    port.site._counter.leave("203.0.113.9")


@pytest_twisted.ensureDeferred
async def test_a_client_that_shows_no_credential_in_time_is_closed(opened, telnet):
    port = await opened(telnet, api_secret="s", auth_deadline_seconds=0.05)
    client = await port.connect()
    assert await client.end() == b"BYE no credential within 0.05 s\n"


@pytest_twisted.ensureDeferred
async def test_who_is_not_admitted_makes_room_for_the_next(opened, telnet):
    port = await opened(telnet, api_secret="s", max_unadmitted=1)
    admitted = await port.connect(b"AUTH s\n")
    await said(admitted, b"OK\n")
    first = await port.connect(b"SUB a\n")
    await said(first, b"ERR UNAUTHENTICATED subscribe\n")
    await said(await port.connect(b"AUTH s\n"), b"OK\n")
    await first.end()
    assert not admitted.lost


@pytest_twisted.ensureDeferred
async def test_wrong_credentials_are_counted_by_address(opened, telnet):
    port = await opened(telnet, api_secret="s", auth_failures_per_minute=1)
    client = await port.connect(b"AUTH wrong\nAUTH s\n")
    await client.until(lambda: client.data.count(b"\n") == 2)
    assert [line.split()[1] for line in client.data.splitlines()] == [b"UNAUTHENTICATED", b"RATE_LIMITED"]


@pytest_twisted.ensureDeferred
async def test_a_drain_says_goodbye_and_lets_nobody_in(opened, telnet):
    port = await opened(telnet)
    client = await port.connect(b"SUB a\n")
    await said(client, b"OK\n")
    drained = port.site.drain(TIMEOUT)
    assert await client.end() == b"OK\nBYE leaving\n"
    assert await (await port.connect(b"SUB a\n")).end() == b""
    await drained
    assert port.site.connections == 0


@pytest_twisted.ensureDeferred
async def test_what_came_before_the_end_takes_effect(opened, telnet):
    port = await opened(telnet)
    bob = await port.connect(b"SUB news\n")
    await said(bob, b"OK\n")
    ann = await port.connect(b"".join(b"PUB news %d\n" % number for number in range(3000)) + b"PUB news")
    ann.transport.loseConnection()
    await said(bob, b"EVENT news 2999\n")
    assert bob.data.count(b"\n") == 3001


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_is_closed_and_nothing_waits_for_it(opened, telnet):
    port = await opened(telnet, send_queue_bytes=1000, slow_grace_seconds=0.05)
    slow = await port.connect(b"SUB news\n")
    await said(slow, b"OK\n")
    slow.transport.pauseProducing()
    peer = port.broker.attach("test", "127.0.0.1")
    body = b'"' + b"x" * 100_000 + b'"'
    for _ in range(100):
        peer.publish("news", "e", body)
    await eventually(lambda: port.site.connections == 0)
    assert port.broker.metrics.slow_consumers["close"] == 1
    assert port.broker.memory.send_queue.used == 0


@pytest_twisted.ensureDeferred
async def test_what_a_web_page_can_send_has_no_effect(opened, telnet):
    port = await opened(telnet)
    bob = await port.connect(b"SUB news\n")
    await said(bob, b"OK\n")
    page = await port.connect(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\nPUB news 1\n")
    assert await page.end() == b""
    await said(await port.connect(b"PUB news 2\n"), b"OK\n")
    await said(bob, b"EVENT news 2\n")
    assert b"news 1" not in bob.data


@pytest_twisted.ensureDeferred
async def test_a_line_that_is_too_long_ends_its_connection(opened, telnet):
    port = await opened(telnet, max_message_bytes=1000)
    client = await port.connect(b"SUB a\n" + b"x" * 1001)
    assert (await client.end()).startswith(b"OK\nBYE ")


@pytest.mark.parametrize("length", [1000, 1001])
@pytest_twisted.ensureDeferred
async def test_a_line_may_be_as_long_as_a_message(opened, telnet, length):
    port = await opened(telnet, max_message_bytes=1000)
    client = await port.connect(b"x" * (length - 1) + b"\n")
    await client.until(lambda: client.data)
    assert client.data.startswith(b"ERR INVALID" if length == 1000 else b"BYE ")


@implementer(IStreamDialect)
class Faulty:
    """A dialect whose sessions fail as they are told."""

    name = "faulty"

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.ends: list[tuple[int, str]] = []

    async def session(self, peer: Any, link: Any) -> Any:
        if self.error is not None:
            raise self.error
        return FaultySession(self.ends)


@attrs.define(eq=False)
class FaultySession(BaseSession):
    ends: list[tuple[int, str]]

    def received(self, data: bytes, binary: bool) -> None:
        raise ZeroDivisionError

    def closed(self, code: int, reason: str) -> None:
        self.ends.append((code, reason))


@pytest.mark.parametrize("error", [Denied("connect", "x"), ZeroDivisionError()])
@pytest_twisted.ensureDeferred
async def test_a_client_that_is_refused_is_closed(opened, error):
    port = await opened(Faulty(error))
    assert await (await port.connect()).end() == b""
    await eventually(lambda: port.site.connections == 0)
    assert port.broker.metrics.connections["faulty"] == 0


@pytest_twisted.ensureDeferred
async def test_requests_of_browsers_leave_one_line_in_the_log(opened, telnet, logged):
    port = await opened(telnet)
    for _ in range(3):
        await (await port.connect(b"GET / HTTP/1.1\r\n")).end()
    assert [line for line in lines_of(logged) if "HTTP request" in line] == [
        "127.0.0.1 sent an HTTP request to a port that is none for HTTP"
    ]


@pytest_twisted.ensureDeferred
async def test_clients_that_are_refused_leave_one_line_in_the_log(opened, logged):
    port = await opened(Faulty(Denied("connect", "x")))
    for _ in range(3):
        assert await (await port.connect()).end() == b""
    assert [line for line in lines_of(logged) if " refused " in line] == [
        "faulty refused a client at 127.0.0.1: DENIED"
    ]


@pytest_twisted.ensureDeferred
async def test_a_session_that_fails_costs_its_own_connection_only(opened):
    dialect = Faulty()
    port = await opened(dialect)
    other = await port.connect()
    await eventually(lambda: port.site.connections == 1)
    assert await (await port.connect(b"x")).end() == b""
    await eventually(lambda: dialect.ends)
    assert dialect.ends == [(1011, "internal error")]
    assert not other.lost
