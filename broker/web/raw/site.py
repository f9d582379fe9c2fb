"""The connections of one stream dialect: who is let in, and the sessions they get."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from typing import Protocol as TypingProtocol

from twisted.internet.defer import CancelledError
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from broker.access.addresses import plain_address
from broker.errors import BrokerError
from broker.interfaces import ISession
from broker.messages import HttpRequest
from broker.web.client_log import log_came, log_went
from broker.web.raw.link import RawLink
from broker.web.refusals import ThrottledLogger
from broker.web.unadmitted import UnadmittedSocket

log = Logger()


class Connections(TypingProtocol):
    """What a stream site needs of the ``Site``, which counts the connections of all ports of the daemon."""

    def accepts(self, address: str, dialect: str) -> bool:
        """Whether one more connection of *address* may begin."""

    def enter(self, socket: UnadmittedSocket) -> None:
        """Count the connection of *socket*."""

    def leave(self, socket: UnadmittedSocket) -> None:
        """Forget it."""


class Counts(TypingProtocol):
    """What a stream site counts."""

    def opened(self, dialect: str) -> None:
        """Count a connection that was opened."""

    def closed(self, dialect: str, code: int) -> None:
        """Count a connection that was closed with *code*."""


class RawSite(Factory):
    """Makes the links of one stream dialect.

    Args:
        dialect: the provider of ``IStreamDialect``.
        attach: makes the peer for a client of a dialect at an address.
        clock: the reactor, or a ``task.Clock``.
        link: the class of links.
        counts: where connections are counted.
        connections: who may come.
    """

    noisy = False

    def __init__(
        self,
        dialect: Any,
        attach: Callable[[str, str], Any],
        clock: IReactorTime,
        link: type[RawLink],
        counts: Counts,
        connections: Connections,
    ) -> None:
        self.dialect = dialect
        self._attach, self._clock, self._link = attach, clock, link
        self._counts, self._connections = counts, connections
        self._throttled = ThrottledLogger(log, clock)

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """Return the link for a new connection; None closes it."""
        address = plain_address(str(getattr(addr, "host", "")))
        name = self.dialect.name
        if not self._connections.accepts(address, name):
            return None
        request = HttpRequest("", "", "", {}, address=address)
        try:
            request.peer = peer = self._attach(name, address)
        except Exception as error:
            self._log_failure(error, address)
            return None
        socket = UnadmittedSocket(name, request, self, self._clock, 0.0, peer)
        self._connections.enter(socket)
        self._counts.opened(name)
        # A browser can not show a credential here: where one is needed, what a page makes it send does no harm.
        return self._link(request, partial(self._open, peer, socket), socket, judged=peer.admitted)

    async def _open(self, peer: Any, socket: UnadmittedSocket, link: RawLink) -> ISession:
        socket.began(link)
        try:
            session: ISession = await self.dialect.session(peer, link)
        except CancelledError:
            raise
        except Exception as error:
            if not getattr(peer, "refused", False):  # else it stands in the log
                self._log_failure(error, link.address)
            raise
        if peer.session is None:
            peer.bind(session, link.close, link=link)
        log_came(self.dialect.name, link.address, peer)
        return session

    def _log_failure(self, error: Exception, address: str) -> None:
        if not isinstance(error, BrokerError):
            log.failure("{dialect} failed to open a session", dialect=self.dialect.name)
            return
        # Not its message: that may hold what the client gave for a credential.
        self._throttled.log(
            error.code,
            "{dialect} refused a client at {address}: {code}",
            dialect=self.dialect.name,
            address=address,
            code=error.code,
        )

    def closed(self, socket: UnadmittedSocket, code: int) -> None:
        """Forget *socket*, whose connection has ended with *code*."""
        peer = socket.peer
        self._counts.closed(socket.dialect, code)
        if peer.session is not None:
            log_went(socket, code)
        peer.close()
        self._connections.leave(socket)
