"""The header of the PROXY protocol, by which a balancer says on each connection whose it is.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt; texts in quotes are from there.  Twisted's own
``haproxy:`` tells the address only after the protocol of the connection has begun, when limits and logs have taken
that of the balancer.  Here nothing begins before the header was read.
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Any

import attrs
from twisted.internet import address as addresses
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocolFactory, IReactorTime
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.access.addresses import TrustedProxies, plain_address
from broker.web.refusals import ThrottledLogger

log = Logger()

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"  # of version 2
MAX_V1 = 107  # bytes: "a 108-byte buffer is always enough to store all the line and a trailing zero"
MAX_V2 = 4096  # bytes of addresses and what a balancer adds to them; there are some hundred of them at most
HEADER_TIMEOUT = 5.0  # seconds: "at least 3 seconds to cover a TCP retransmit"
MAX_WAITING = 1000  # connections without their header; the oldest is dropped for the next
DIGITS = frozenset("0123456789")

Address = addresses.IPv4Address | addresses.IPv6Address


class HeaderError(Exception):
    """What a connection begins with is no header that can be used; says what is wrong."""


@attrs.frozen
class Header:
    """A whole header.

    Attributes:
        size: bytes that it takes.
        source: whose connection it is; None for that of the balancer itself, or when it does not say.
    """

    size: int
    source: Address | None


def read_header(data: bytes) -> Header | None:
    """Return the header that *data* begins with, or None while it is not whole.

    Raises:
        HeaderError: it is none.
    """
    if data.startswith(SIGNATURE):
        return _read_v2(data)
    if data.startswith(b"PROXY "):
        return _read_v1(data)
    if SIGNATURE.startswith(data) or b"PROXY ".startswith(data):
        return None
    raise HeaderError("it begins with no header")


def _read_v1(data: bytes) -> Header | None:
    line, end, _ = data[:MAX_V1].partition(b"\r\n")
    if not end:
        if len(data) >= MAX_V1:
            raise HeaderError(f"the line is longer than {MAX_V1} bytes")
        return None
    size = len(line) + 2
    words = line.decode("latin-1").replace("%", " ").split(" ")  # there are no scopes of addresses
    if words[1] == "UNKNOWN":
        # "the receiver must ignore anything presented before the CRLF is found"
        return Header(size, None)
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise HeaderError("the line is malformed")
    family = IPv4Address if words[1] == "TCP4" else IPv6Address
    try:
        source, _ = family(words[2]), family(words[3])
        port, _ = _port(words[4]), _port(words[5])
    except (AddressValueError, ValueError):
        raise HeaderError("the line has a malformed address or port") from None
    return Header(size, _address(source, port))


def _port(word: str) -> int:
    if not word or len(word) > 5 or not DIGITS.issuperset(word) or int(word) > 65535:
        raise ValueError(word)
    return int(word)


def _read_v2(data: bytes) -> Header | None:
    if len(data) < 16:
        return None
    version, command, family = data[12] >> 4, data[12] & 0xF, data[13]
    length = int.from_bytes(data[14:16], "big")
    if version != 2 or command > 1:
        raise HeaderError("its version or command is unknown")
    if length > MAX_V2:
        raise HeaderError(f"it is longer than {MAX_V2} bytes")
    if len(data) < 16 + length:
        return None
    # LOCAL: "The receiver must accept this connection as valid and must use the real connection endpoints"
    source = _source_v2(family, data[16 : 16 + length]) if command else None
    return Header(16 + length, source)


def _source_v2(family: int, block: bytes) -> Address | None:
    """Return the source that *block* has, after the byte *family*; None where it is no address of IP."""
    size = {0x11: 4, 0x21: 16}.get(family)
    if size is None:
        if family in (0x00, 0x31, 0x32):  # not said, or a unix socket of the balancer's machine
            return None
        raise HeaderError("it is of no stream connection")
    if len(block) < 2 * size + 4:
        raise HeaderError("its addresses are cut short")
    source = (IPv4Address if size == 4 else IPv6Address)(block[:size])
    return _address(source, int.from_bytes(block[2 * size : 2 * size + 2], "big"))


def _address(source: IPv4Address | IPv6Address, port: int) -> Address:
    kind = addresses.IPv4Address if source.version == 4 else addresses.IPv6Address
    return kind("TCP", str(source), port)


class ProxyHeaderFactory(Factory):
    """Reads the header of each connection, and lets the protocol of another factory begin with the address in it.

    Args:
        factory: builds those protocols.
        clock: the reactor, or a ``task.Clock``.
        proxies: that are believed, besides those of this machine; None: everybody is.
    """

    noisy = False

    def __init__(self, factory: IProtocolFactory, clock: IReactorTime, proxies: TrustedProxies | None = None) -> None:
        self.factory = factory
        self.clock = clock
        self._proxies = proxies
        self.waiting: dict[ProxyHeader, None] = {}
        self._throttled = ThrottledLogger(log, clock)

    def doStart(self) -> None:
        """Let the other factory start, too."""
        super().doStart()
        self.factory.doStart()

    def doStop(self) -> None:
        """Let the other factory stop, too."""
        self.factory.doStop()
        super().doStop()

    def stopFactory(self) -> None:
        """Drop who has sent no header yet."""
        for connection in list(self.waiting):
            connection.transport.abortConnection()

    def buildProtocol(self, addr: Any) -> Protocol | None:
        """Return what reads the header, or None for one whose word is worth nothing."""
        host = plain_address(str(getattr(addr, "host", "")))
        if self._proxies is not None and not self._proxies.is_exempt(host):
            self.refused(host, "TXBROKER_TRUSTED_PROXIES does not name it")
            return None
        if len(self.waiting) >= MAX_WAITING:
            next(iter(self.waiting)).transport.abortConnection()
        return ProxyHeader(self, addr, host)

    def refused(self, host: str, why: str) -> None:
        """Log that a connection of *host* was dropped."""
        self._throttled.log(
            "header",
            "a connection of {address} to a haproxy: endpoint was dropped: {reason}",
            address=host or "a unix socket",
            reason=why,
        )


class ProxyHeader(Protocol):
    """One connection, until its header is whole; then its transport goes on with the protocol behind.

    Args:
        factory: has made this.
        peer: who is connected.
        host: its address as limits and logs have it.
    """

    transport: Any

    def __init__(self, factory: ProxyHeaderFactory, peer: IAddress, host: str) -> None:
        self._factory = factory
        self._peer = peer
        self._host = host
        self._data = b""
        self._timer: IDelayedCall | None = None

    def connectionMade(self) -> None:
        """Wait for the header, but not for long."""
        self._factory.waiting[self] = None
        self._timer = self._factory.clock.callLater(HEADER_TIMEOUT, self._refuse, "it sent no whole header")

    def dataReceived(self, data: bytes) -> None:
        """Collect the header; when it is whole, begin."""
        self._data += data
        try:
            header = read_header(self._data)
        except HeaderError as error:
            self._refuse(str(error))
            return
        if header is not None:
            self._begin(header)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Forget it."""
        self._forget()

    def _forget(self) -> None:
        self._factory.waiting.pop(self, None)
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _refuse(self, why: str) -> None:
        self._forget()
        self._factory.refused(self._host, why)
        self.transport.abortConnection()

    def _begin(self, header: Header) -> None:
        self._forget()
        transport, rest = self.transport, self._data[header.size :]
        protocol: Any = self._factory.factory.buildProtocol(header.source or self._peer)
        if protocol is None:
            transport.abortConnection()
            return
        transport.protocol = protocol
        protocol.makeConnection(transport)
        if rest and transport.connected:
            protocol.dataReceived(rest)
