"""Listening on the endpoints of a daemon, with frame transports where they can be had."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.logger import Logger

from broker.web.net.endpoints import parse_endpoint
from broker.web.net.port import FramePort
from broker.web.net.transport import PRIVATE_NAMES, TESTED_VERSIONS, Outbox
from twisted import __version__ as twisted_version

log = Logger()

REACTORS = ("EPollReactor", "PollReactor", "SelectReactor")  # of twisted.internet


class FrameReactor:
    """The reactor that is given to endpoints: plain TCP ports become frame ports.

    Args:
        reactor: the real one, which does everything else.
        outbox: shared by all ports.
        backlog: least length of a port's queue of connections not yet accepted.
    """

    def __init__(self, reactor: Any, outbox: Outbox, backlog: int) -> None:
        self._reactor = reactor
        self._outbox = outbox
        self._backlog = backlog
        self._reason = unsupported(reactor)
        if self._reason:
            log.info("connections use Twisted's own transport: {reason}", reason=self._reason)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = "") -> IListeningPort:
        """Listen on a TCP port; this is what ``tcp:`` endpoints call."""
        backlog = max(backlog, self._backlog)
        if self._reason:
            return with_nodelay(self._reactor.listenTCP(port, factory, backlog, interface))
        return self._start(FramePort(port, factory, backlog, interface, self._reactor))

    def listenSSL(
        self, port: int, factory: IProtocolFactory, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        """Listen with TLS; this is what ``ssl:`` endpoints call."""
        backlog = max(backlog, self._backlog)
        from broker.web.net.tls import make_half_closeable  # OpenSSL is loaded where it is used only

        listening = self._reactor.listenSSL(port, factory, contextFactory, backlog, interface)
        make_half_closeable(listening.factory)
        return with_nodelay(listening)

    def adoptStreamPort(self, fileDescriptor: int, addressFamily: int, factory: IProtocolFactory) -> IListeningPort:
        """Listen on an inherited socket; ``systemd:`` endpoints call this."""
        if self._reason or addressFamily not in (socket.AF_INET, socket.AF_INET6):
            port: IListeningPort = self._reactor.adoptStreamPort(fileDescriptor, addressFamily, factory)
            return port
        return self._start(FramePort._fromListeningDescriptor(self._reactor, fileDescriptor, addressFamily, factory))

    def _start(self, port: FramePort) -> IListeningPort:
        port.outbox = self._outbox
        port.startListening()
        return with_nodelay(port)


def with_nodelay(port: Any) -> IListeningPort:
    """Return *port* after setting TCP_NODELAY on its listening socket.

    Accepted connections inherit the option, which saves a system call for each.
    """
    port.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return port  # type: ignore[no-any-return]


def unsupported(reactor: Any) -> str:
    """Return why frame transports can not be used with *reactor*, or "" when they can."""
    kind = type(reactor)
    if kind.__name__ not in REACTORS or not kind.__module__.startswith("twisted.internet."):
        return f"{kind.__module__}.{kind.__name__} is none of {', '.join(REACTORS)}"
    names = {*dir(tcp.Server), *vars(FileDescriptor(reactor))}
    missing = [name for name in PRIVATE_NAMES if name not in names]
    if missing:
        return f"Twisted {twisted_version} has no {', '.join(missing)}; tested with {TESTED_VERSIONS}"
    return ""


def listen(
    reactor: Any,
    endpoint: str | IStreamServerEndpoint,
    factory: IProtocolFactory,
    outbox: Outbox,
    backlog: int = 4096,
) -> Deferred[IListeningPort]:
    """Listen on one endpoint and return its port.

    ``tcp:`` endpoints, and IPv4 and IPv6 sockets from ``systemd:``, get frame
    transports; ``ssl:``, ``unix:`` and whatever plugins bring get Twisted's own.
    Either way *factory*'s protocols send by ``transport.writer_for``.

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
        server: IStreamServerEndpoint = parse_endpoint(FrameReactor(reactor, outbox, backlog), endpoint)
    else:
        server = endpoint
    return server.listen(factory)
