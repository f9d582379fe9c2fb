"""Listening on the endpoints of a daemon, with frame transports where they can be had."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet import tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IStreamServerEndpoint
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.access.addresses import TrustedProxies
from broker.web.net.bound import BoundSockets
from broker.web.net.endpoints import CHECKED, ParsedEndpoint, parse_endpoint
from broker.web.net.port import FramePort
from broker.web.net.proxy_header import ProxyHeaderFactory
from broker.web.net.socket_file import SocketFilePort
from broker.web.net.transport import PRIVATE_NAMES, TESTED_VERSIONS, Outbox
from twisted import __version__ as twisted_version

if TYPE_CHECKING:
    from broker.web.net.certificates import ServerCertificates
    from broker.web.net.sharing import AcceptShare

log = Logger()

BACKLOG = 4096  # connections that may wait to be accepted
REACTORS = ("EPollReactor", "PollReactor", "SelectReactor")  # of twisted.internet


class FrameReactor:
    """The reactor that is given to endpoints: plain TCP ports become frame ports.

    Args:
        reactor: the real one, which does everything else.
        outbox: shared by all ports.
        backlog: least length of a port's queue of connections not yet accepted.
        plain: whether ports stay Twisted's own, as under TLS.
        bound: sockets that are bound already.
        shared: whether other processes have them, too.
    """

    def __init__(
        self,
        reactor: Any,
        outbox: Outbox,
        backlog: int,
        plain: bool = False,
        bound: BoundSockets | None = None,
        shared: bool = False,
    ) -> None:
        self._reactor = reactor
        self._outbox = outbox
        self._backlog = backlog
        self.plain = plain
        self._bound = bound or BoundSockets(backlog)
        self._shared = shared
        self._reason = unsupported(reactor)
        if self._reason:
            log.info("connections use Twisted's own transport: {reason}", reason=self._reason)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def listenTCP(self, port: int, factory: IProtocolFactory, backlog: int = 50, interface: str = "") -> IListeningPort:
        """Listen on a TCP port; this is what ``tcp:`` endpoints call."""
        backlog = max(backlog, self._backlog)
        bound = self._bound.pop((interface, port))
        if bound is not None:
            with bound:  # what adopts it has a descriptor of its own
                return with_nodelay(self.adoptStreamPort(bound.fileno(), bound.family, factory))
        if self.plain or self._reason:
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
        if self.plain or self._reason or addressFamily not in (socket.AF_INET, socket.AF_INET6):
            port: IListeningPort = self._reactor.adoptStreamPort(fileDescriptor, addressFamily, factory)
            return port
        return self._start(FramePort._fromListeningDescriptor(self._reactor, fileDescriptor, addressFamily, factory))

    def listenUNIX(
        self, address: str, factory: IProtocolFactory, backlog: int = 50, mode: int = 0o666, group: str = ""
    ) -> IListeningPort:
        """Listen on a unix socket; this is what ``unix:`` endpoints call."""
        bound = self._bound.pop((address, 0))
        shared = self._shared and bound is not None
        port = SocketFilePort(address, factory, max(backlog, self._backlog), mode, group, self._reactor, bound, shared)
        port.startListening()
        return port

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


class Listener:
    """Listens on endpoints, and knows what their connections begin with.

    ``tcp:`` endpoints, and IPv4 and IPv6 sockets from ``systemd:``, get frame
    transports; ``ssl:``, ``unix:`` and whatever plugins bring get Twisted's own.
    Either way a factory's protocols send by ``transport.writer_for``.

    Args:
        reactor: the reactor.
        outbox: the daemon's one outbox.
        backlog: least number of connections that may wait to be accepted.
        certificates: for endpoints of TCP that name none themselves; None: those are without TLS.
        proxies: whose headers of the PROXY protocol are believed at ``haproxy:`` endpoints, besides those of this
            machine; None: those of everybody.

    Attributes:
        certificates: all that are in use.
        bound: sockets that are bound, and not listened on yet.
        share: what other processes accept from the same sockets by, too; None: there are none.
    """

    def __init__(
        self,
        reactor: Any,
        outbox: Outbox,
        *,
        backlog: int = BACKLOG,
        certificates: ServerCertificates | None = None,
        proxies: TrustedProxies | None = None,
    ) -> None:
        self._reactor = reactor
        self._outbox = outbox
        self._backlog = backlog
        self._shared = certificates
        self._proxies = proxies
        self._own: dict[str, ServerCertificates] = {}  # by the endpoint string that names them
        self.bound = BoundSockets(backlog)
        self.share: AcceptShare | None = None
        self._held: list[Any] | None = None  # ports that accept nobody yet; None: all do

    @property
    def certificates(self) -> list[ServerCertificates]:
        """All that are in use."""
        return [*([self._shared] if self._shared else []), *self._own.values()]

    def bind(self, endpoint: str) -> None:
        """Bind the socket of *endpoint*, and read its files, while the process has the right to.

        Raises:
            ValueError: it is no endpoint.
            CannotListenError: the address is taken.
        """
        parsed = self._parse(self.bound, endpoint)
        if isinstance(parsed.endpoint, CHECKED):
            failures: list[Failure] = []
            parsed.endpoint.listen(Factory()).addErrback(failures.append)
            if failures:
                failures[0].raiseException()

    def hold(self) -> None:
        """Let the ports of what is listened on from now on accept nobody before ``accept``: who connects waits."""
        self._held = []

    def accept(self) -> None:
        """Accept whoever has connected, and whoever will."""
        held, self._held = self._held or [], None
        for port in held:
            if port.connected and not port.disconnecting:  # else it was closed meanwhile
                port.startReading()

    def _listening(self, port: Any) -> Any:
        if self.share is not None:
            self.share.join(port)
        if self._held is not None and hasattr(port, "stopReading"):  # ports of plugins may be of another kind
            port.stopReading()
            self._held.append(port)
        return port

    def listen(self, endpoint: str | IStreamServerEndpoint, factory: IProtocolFactory) -> Deferred[IListeningPort]:
        """Listen on *endpoint*, a string or one that is used as it is, with *factory*; return its port.

        Raises:
            ValueError: the string is no endpoint.  Fails with ``CannotListenError``
                when the address is taken.
        """
        if not isinstance(endpoint, str):
            return endpoint.listen(factory).addCallback(self._listening)
        shared = self.share is not None
        reactor = FrameReactor(self._reactor, self._outbox, self._backlog, bound=self.bound, shared=shared)
        parsed = self._parse(reactor, endpoint)
        certificates = parsed.certificates or (self._shared if parsed.over_tcp else None)
        if certificates is not None:
            from broker.web.net.tls import tls_factory  # OpenSSL is loaded where it is used only

            reactor.plain = True
            factory = tls_factory(certificates, factory)
        if parsed.proxied:
            factory = ProxyHeaderFactory(factory, self._reactor, self._proxies)
        return parsed.endpoint.listen(factory).addCallback(self._listening)

    def _parse(self, reactor: Any, text: str) -> ParsedEndpoint:
        parsed = parse_endpoint(reactor, text)
        if parsed.certificates is not None:
            # What was read with the rights of root is not read again.
            parsed = attrs.evolve(parsed, certificates=self._own.setdefault(text, parsed.certificates))
        return parsed


def listen(
    reactor: Any,
    endpoint: str | IStreamServerEndpoint,
    factory: IProtocolFactory,
    outbox: Outbox,
    backlog: int = BACKLOG,
) -> Deferred[IListeningPort]:
    """Listen on one endpoint and return its port; see :class:`Listener`."""
    return Listener(reactor, outbox, backlog=backlog).listen(endpoint, factory)
