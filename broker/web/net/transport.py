"""TCP connections that send what a turn of the reactor produced in one go.

Twisted's ``transport.write`` only notes the bytes and asks the reactor to be
told when the socket is writable: two system calls and one more turn before the
first byte leaves.  :class:`FrameTransport` offers ``send_frame`` beside it, which
gathers frames until the :class:`~broker.web.net.outbox.Outbox` is flushed and then
calls ``send`` once.  What the kernel does not take goes the ordinary way, from
the same buffer, so that order, ``loseConnection``, half-close and producers are
Twisted's own.

This uses private names of Twisted (:data:`PRIVATE_NAMES`); it was tested with
the versions in :data:`TESTED`.  Where a name is missing, the reactor is not one
of :data:`REACTORS`, or the endpoint is not plain TCP, connections are ordinary
ones and :func:`writer_for` gives their ``write``: slower, otherwise the same.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from typing import Any

from twisted.internet import main, tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.web.net.outbox import Outbox
from twisted import __version__ as twisted_version

log = Logger()

TESTED = "Twisted 26.4 to 26.10"
PRIVATE_NAMES = ("_tempDataBuffer", "_tempDataLen", "_writeDisconnected", "_aborting", "_maybePauseProducer")
REACTORS = ("EPollReactor", "PollReactor", "SelectReactor")  # of twisted.internet
CHUNK = 65536  # bytes read at once
BURST = 65536  # bytes gathered before they are sent without waiting for the flush


class FrameTransport(tcp.Server):
    """A TCP connection with ``send_frame``.

    Attributes:
        queue_limit: bytes that may wait for the kernel before ``overflowed`` is
            called; one frame of any size may come on top.
        overflowed: called once when more waits; None to let it grow.
    """

    queue_limit: int = sys.maxsize
    overflowed: Callable[[], object] | None = None
    _gathering = False

    server: FramePort
    _tempDataBuffer: list[bytes]
    _tempDataLen: int

    def send_frame(self, data: bytes) -> None:
        """Send *data* with everything else of this turn; after the end, nothing."""
        self._tempDataBuffer.append(data)
        self._tempDataLen = gathered = self._tempDataLen + len(data)
        if not self._gathering:
            self._gathering = True
            self.server.outbox.add(self)
        if gathered > BURST:
            # One handler may send more than the limit: it must see `paused` before it is done.
            self.flush_frames()

    def flush_frames(self) -> None:
        """Send what was gathered; called by the outbox."""
        self._gathering = False
        gathered = self._tempDataBuffer
        if not gathered:
            return
        if not self.connected or self._writeDisconnected or self._aborting:
            gathered.clear()
            self._tempDataLen = 0
            return
        if self.dataBuffer:
            # The kernel was full before: doWrite goes on in order when it has room.
            self._back_up(len(gathered[-1]))
            return
        data = gathered[0] if len(gathered) == 1 else b"".join(gathered)
        try:
            sent = self.socket.send(data)
        except OSError:
            # No room, or an error: doWrite will meet that again, and report it.
            sent = 0
        gathered.clear()
        self._tempDataLen = 0
        if sent < len(data):
            self.dataBuffer = data
            self.offset = sent
            self.startWriting()
            self._back_up(len(data))

    def doRead(self) -> Any:
        """Read once and send at once what the bytes have caused, on whichever connection."""
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        outbox = self.server.outbox
        if outbox.busy:  # whoever reads several connections in one go will flush
            self.protocol.dataReceived(data)
            return None
        outbox.busy = True
        try:
            self.protocol.dataReceived(data)
        finally:
            outbox.busy = False
            outbox.flush()
        return None

    def connectionLost(self, reason: Failure) -> None:
        """Let go of whoever wanted to know of an overflow."""
        self.overflowed = None
        super().connectionLost(reason)

    def _back_up(self, newest: int) -> None:
        """Tell those who should know that bytes wait, *newest* of them new."""
        if not self.producerPaused:
            self._maybePauseProducer()
        overflowed = self.overflowed
        if overflowed is None:
            return
        if len(self.dataBuffer) - self.offset + self._tempDataLen - newest > self.queue_limit:
            self.overflowed = None
            overflowed()


class FramePort(tcp.Port):
    """A TCP port whose connections are :class:`FrameTransport`."""

    transport = FrameTransport
    outbox: Outbox


class FrameReactor:
    """A reactor as endpoints see it, with frame ports for plain TCP.

    Args:
        reactor: the one that does everything else.
        outbox: of the ports.
        backlog: least length of a port's queue of connections not yet accepted.
    """

    def __init__(self, reactor: Any, outbox: Outbox, backlog: int) -> None:
        self._reactor = reactor
        self._outbox = outbox
        self._backlog = backlog
        self._reason = unfit(reactor)
        if self._reason:
            log.info("connections use Twisted's own transport: {reason}", reason=self._reason)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = "") -> IListeningPort:
        """Listen on a TCP port; this is what ``tcp:`` endpoints call."""
        backlog = max(backlog, self._backlog)
        if self._reason:
            return without_delay(self._reactor.listenTCP(port, factory, backlog, interface))
        return self._start(FramePort(port, factory, backlog, interface, self._reactor))

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen with TLS; this is what ``ssl:`` endpoints call."""
        backlog = max(backlog, self._backlog)
        return without_delay(self._reactor.listenSSL(port, factory, contextFactory, backlog, interface))

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory) -> IListeningPort:
        """Listen on a socket somebody else has opened; ``systemd:`` endpoints call this."""
        if self._reason or addressFamily not in (socket.AF_INET, socket.AF_INET6):
            port: IListeningPort = self._reactor.adoptStreamPort(fileDescriptor, addressFamily, factory)
            return port
        return self._start(FramePort._fromListeningDescriptor(self._reactor, fileDescriptor, addressFamily, factory))

    def _start(self, port: FramePort) -> IListeningPort:
        port.outbox = self._outbox
        port.startListening()
        return without_delay(port)


def without_delay(port: Any) -> IListeningPort:
    """Return *port*, whose connections from now on send small pieces at once.

    They inherit the option from the listening socket, which saves a system call for each.
    """
    port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return port  # type: ignore[no-any-return]


def unfit(reactor: Any) -> str:
    """Return why frame transports can not be used with *reactor*, or "" when they can."""
    kind = type(reactor)
    if kind.__name__ not in REACTORS or not kind.__module__.startswith("twisted.internet."):
        return f"{kind.__module__}.{kind.__name__} is none of {', '.join(REACTORS)}"
    names = {*dir(tcp.Server), *vars(FileDescriptor(reactor))}
    missing = [name for name in PRIVATE_NAMES if name not in names]
    if missing:
        return f"Twisted {twisted_version} has no {', '.join(missing)}; tested with {TESTED}"
    return ""


def listen(
    reactor: Any,
    endpoint: str | IStreamServerEndpoint,
    factory: IProtocolFactory,
    outbox: Outbox,
    backlog: int = 1024,
) -> Deferred[IListeningPort]:
    """Listen on one endpoint and return its port.

    ``tcp:`` endpoints, and IPv4 and IPv6 sockets from ``systemd:``, get frame
    transports; ``ssl:``, ``unix:`` and whatever plugins bring get Twisted's own.
    Either way *factory*'s protocols send by :func:`writer_for`.

    Args:
        reactor: the reactor.
        endpoint: a Twisted server endpoint string, or an endpoint, which is used as it is.
        factory: makes the protocols.
        outbox: the daemon's one outbox.
        backlog: least number of connections that may wait to be accepted.

    Raises:
        ValueError: the string is no endpoint.  Fails with ``CannotListenError``
            when the address is taken.
    """
    if isinstance(endpoint, str):
        server: IStreamServerEndpoint = serverFromString(FrameReactor(reactor, outbox, backlog), endpoint)
    else:
        server = endpoint
    return server.listen(factory)


def writer_for(transport: Any) -> Callable[[bytes], None]:
    """Return the fastest way to send bytes on *transport*; it keeps order with ``write``."""
    if isinstance(transport, FrameTransport):
        return transport.send_frame
    return transport.write  # type: ignore[no-any-return]


def unsent_bytes(transport: Any) -> int | None:
    """Return how many bytes *transport* has not yet given to the kernel, or None if it does not tell.

    For TLS they are those of the encrypted stream.
    """
    lower = transport.transport if hasattr(transport, "wrappedProtocol") else transport
    if not isinstance(lower, FileDescriptor):
        return None
    return len(lower.dataBuffer) - lower.offset + lower._tempDataLen


def hand_over(transport: Any, protocol: Any) -> None:
    """Let *transport* deliver to *protocol* from now on.

    The present protocol hears nothing any more, not even of the end.
    """
    # TLS and other wrappers are themselves the protocol of the socket's transport.
    if hasattr(transport, "wrappedProtocol"):
        transport.wrappedProtocol = protocol
    else:
        transport.protocol = protocol
