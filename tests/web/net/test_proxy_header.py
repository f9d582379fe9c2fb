"""The header of the PROXY protocol: whose connection it is, known before anything begins."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent

from broker.access.addresses import TrustedProxies
from broker.web.net import proxy_header
from broker.web.net.proxy_header import HEADER_TIMEOUT, SIGNATURE, HeaderError, ProxyHeaderFactory, read_header
from tests.support.logs import lines_of

BALANCER = IPv4Address("TCP", "10.0.0.1", 1)
V4 = b"PROXY TCP4 203.0.113.5 192.0.2.1 4711 443\r\n"


def v2(
    source: str = "203.0.113.5", *, first: int = 0x21, family: int = 0, more: bytes = b"", length: int = -1
) -> bytes:
    """Return a header of version 2 of a connection from port 4711 of *source*."""
    packed = ip_address(source).packed
    block = packed * 2 + (4711).to_bytes(2, "big") + (443).to_bytes(2, "big") + more
    family = family or {4: 0x11, 16: 0x21}[len(packed)]
    return SIGNATURE + bytes((first, family)) + (len(block) if length < 0 else length).to_bytes(2, "big") + block


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (V4, "203.0.113.5"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n", "2001:db8::7"),
        (b"PROXY TCP6 2001:DB8:0:0:0:0:0:7 ::1 4711 443\r\n", "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:203.0.113.5 ::1 4711 443\r\n", "::ffff:cb00:7105"),
        (v2(), "203.0.113.5"),
        (v2("2001:db8::7"), "2001:db8::7"),
        (v2(more=b"\x03\x00\x04abcd\x04\x00\x01x"), "203.0.113.5"),
    ],
)
def test_the_address_is_told_once_the_header_is_whole(data: bytes, source: str) -> None:
    for size in range(len(data)):
        assert read_header(data[:size]) is None
    header = read_header(data + b"GET / HTTP/1.1\r\n")
    assert header is not None
    assert header.source is not None
    assert (header.size, ip_address(header.source.host), header.source.port) == (len(data), ip_address(source), 4711)


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
        v2(first=0x20),  # LOCAL, as HAProxy's own checks
        SIGNATURE + b"\x20\x00\x00\x00",
        SIGNATURE + b"\x21\x00\x00\x00",
        SIGNATURE + b"\x21\x31\x00\xd8" + bytes(216),
    ],
)
def test_a_balancer_may_speak_for_itself(data: bytes) -> None:
    header = read_header(data)
    assert header is not None
    assert (header.size, header.source) == (len(data), None)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        b"\x16\x03\x01",
        b"proxy TCP4 ",
        b"PROXYTCP4",
        b"PROXY TCP4 203.0.113.5 192.0.2.1 4711\r\n",
        b"PROXY TCP4 203.0.113.5 192.0.2.1 4711 443 1\r\n",
        b"PROXY TCP4  203.0.113.5 192.0.2.1 4711 443\r\n",
        b"PROXY TCP4 203.0.113.5 192.0.2.1 4711 65536\r\n",
        b"PROXY TCP4 203.0.113.5 192.0.2.1 -1 443\r\n",
        b"PROXY TCP4 203.0.113.5 192.0.2.1 \xb2 443\r\n",
        b"PROXY TCP4 203.0.113 192.0.2.1 4711 443\r\n",
        b"PROXY TCP4 2001:db8::7 2001:db8::1 4711 443\r\n",
        b"PROXY TCP6 203.0.113.5 192.0.2.1 4711 443\r\n",
        b"PROXY TCP6 fe80::1%eth0 ::1 4711 443\r\n",
        b"PROXY UDP4 203.0.113.5 192.0.2.1 4711 443\r\n",
        b"PROXY \r\n",
        b"PROXY TCP4 " + b"1" * 200,
        v2(first=0x11),
        v2(first=0x22),
        v2(family=0x12),
        v2(family=0x99),
        v2(length=11),
        v2(length=4097),
        b"\r\n\r\n\x00\r\nQUIX",
    ],
)
def test_what_is_no_header_is_refused(data: bytes) -> None:
    with pytest.raises(HeaderError):
        read_header(data)


class Transport(StringTransport):
    """As TCP's: it calls whatever protocol it has now."""

    protocol: Any
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True
        self.connected = False


class Behind(Protocol):
    def __init__(self, address: Any) -> None:
        self.address = address
        self.began_with: list[Any] = []
        self.data = b""

    def connectionMade(self) -> None:
        self.began_with.append(self.address)

    def dataReceived(self, data: bytes) -> None:
        self.data += data


class Port:
    """A ``haproxy:`` endpoint, and the protocols behind it."""

    def __init__(self, *proxies: str) -> None:
        self.clock = Clock()
        self.behind: list[Behind] = []
        self.stopped = 0
        trusted = TrustedProxies(proxies) if proxies else None
        self.factory = ProxyHeaderFactory(self, self.clock, trusted)  # type: ignore[arg-type]

    def buildProtocol(self, address: Any) -> Behind:
        self.behind.append(Behind(address))
        return self.behind[-1]

    def doStart(self) -> None:
        self.stopped -= 1

    def doStop(self) -> None:
        self.stopped += 1

    def connect(self, address: Any = BALANCER) -> Transport | None:
        protocol = self.factory.buildProtocol(address)
        if protocol is None:
            return None
        transport = Transport()
        transport.protocol = protocol
        protocol.makeConnection(transport)
        return transport


@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_the_protocol_begins_with_the_address_of_the_client(piece: int) -> None:
    port, data = Port(), V4 + b"GET / HTTP/1.1\r\n"
    transport = port.connect()
    assert transport is not None
    for start in range(0, len(data), piece):
        transport.protocol.dataReceived(data[start : start + piece])
    (behind,) = port.behind
    assert behind.began_with == [IPv4Address("TCP", "203.0.113.5", 4711)]
    assert (behind.transport, behind.data) == (transport, b"GET / HTTP/1.1\r\n")
    assert (port.clock.getDelayedCalls(), port.factory.waiting) == ([], {})


def test_a_balancer_that_speaks_for_itself_has_its_own_address() -> None:
    port = Port()
    transport = port.connect()
    assert transport is not None
    transport.protocol.dataReceived(v2(first=0x20))
    assert port.behind[0].began_with == [IPv4Address("TCP", "10.0.0.1", 1)]


@pytest.mark.parametrize(
    ("address", "believed"),
    [
        (IPv4Address("TCP", "10.0.0.1", 1), True),
        (IPv4Address("TCP", "10.1.0.1", 1), False),
        (IPv6Address("TCP", "::ffff:10.0.0.1", 1), True),
        (IPv6Address("TCP", "2001:db8::1", 1), False),
        (IPv4Address("TCP", "127.0.0.1", 1), True),
        (UNIXAddress(None), True),
    ],
)
def test_where_proxies_are_named_others_are_dropped(address: Any, believed: bool, logged: list[LogEvent]) -> None:
    assert (Port("10.0.0.0/24").connect(address) is not None) == believed
    assert ("TXBROKER_TRUSTED_PROXIES does not name it" in "".join(lines_of(logged))) == (not believed)


def test_one_without_a_header_is_dropped_and_logged_once(logged: list[LogEvent]) -> None:
    port = Port()
    for _ in range(3):
        transport = port.connect()
        assert transport is not None
        transport.protocol.dataReceived(b"GET / HTTP/1.1\r\n")
        assert transport.aborted
    (line,) = lines_of(logged)
    assert line == "a connection of 10.0.0.1 to a haproxy: endpoint was dropped: it begins with no header"
    assert (port.behind, port.clock.getDelayedCalls()) == ([], [])


def test_the_header_has_to_come_in_time() -> None:
    port = Port()
    transport = port.connect()
    assert transport is not None
    transport.protocol.dataReceived(V4[:-1])
    port.clock.advance(HEADER_TIMEOUT)
    assert transport.aborted
    assert port.factory.waiting == {}


def test_one_that_goes_before_its_header_leaves_nothing() -> None:
    port = Port()
    transport = port.connect()
    assert transport is not None
    transport.protocol.connectionLost()
    assert (port.clock.getDelayedCalls(), port.factory.waiting) == ([], {})


def test_of_too_many_that_wait_the_oldest_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxy_header, "MAX_WAITING", 2)
    port = Port()
    transports = [port.connect() for _ in range(3)]
    assert [transport is not None and transport.aborted for transport in transports] == [True, False, False]


def test_a_port_that_closes_drops_who_waits() -> None:
    port = Port()
    port.factory.doStart()
    transport = port.connect()
    port.factory.doStop()
    assert transport is not None
    assert (transport.aborted, port.stopped) == (True, 0)


def test_a_client_may_be_turned_away() -> None:
    clock = Clock()
    factory = ProxyHeaderFactory(Factory(), clock)  # whose protocol is None
    factory.factory.buildProtocol = lambda address: None  # type: ignore[method-assign, assignment, misc]
    protocol = factory.buildProtocol(IPv4Address("TCP", "10.0.0.1", 1))
    assert protocol is not None
    transport = Transport()
    protocol.makeConnection(transport)
    protocol.dataReceived(V4)
    assert transport.aborted
