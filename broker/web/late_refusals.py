"""Delayed refusals, for clients that would reconnect a millisecond after one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater

from broker.access.admission import HeldRefusals
from broker.access.limits import network_of
from broker.core.unadmitted import UnadmittedClients
from broker.errors import Unavailable
from broker.interfaces import ILink
from broker.messages import HttpRequest, Response
from broker.web.http.reject import RejectProtocol
from broker.web.http.response import Dates
from broker.web.refusals import json_refusal
from broker.web.routes import Routes

# Refused handshakes that are held at once; more are dropped.
MAX_HELD = 1000
MAX_HELD_PER_ADDRESS = 100
# Connections over the limit, which are answered nothing but pages for everybody: those held, and so many
# more, of which the oldest is dropped for each that comes.
MAX_READ = 100
MAX_READ_PER_ADDRESS = 20


class LateRefusals:
    """Refuses clients as late as their dialect wants, by its ``refusal_delay``.

    Args:
        routes: finds the dialect of a connection that is refused as such.
        clock: the reactor, or a ``task.Clock``.
        dates: for the header of answers.
        page: returns the answer to a request that is answered though its connection is one too many, or None.
        refusal: returns the refusal of a request with a status and a reason, in the form of its dialect.
    """

    def __init__(
        self,
        routes: Routes,
        clock: IReactorTime,
        dates: Dates,
        page: Callable[[HttpRequest], Response | None],
        refusal: Callable[[int, str, HttpRequest], Response],
    ) -> None:
        self._routes = routes
        self._clock = clock
        self._dates = dates
        self._page = page
        self._refusal = refusal
        self._held = HeldRefusals(MAX_HELD, MAX_HELD_PER_ADDRESS)
        self._rejected = UnadmittedClients(clock, MAX_HELD + MAX_READ, MAX_HELD_PER_ADDRESS + MAX_READ_PER_ADDRESS)
        self._holding: set[RejectProtocol] = set()

    def __len__(self) -> int:
        return len(self._held)

    def delay(self, dialect: Any) -> float:
        """Return the seconds for which refusals of *dialect*, or of none, are held."""
        return 0.0 if dialect is None else self._routes.extras[dialect.name].refusal_delay

    async def hold(self, dialect: Any, link: ILink) -> None:
        """Return when the handshake of *link* may be refused.

        When too many are held already, the connection is dropped without an answer.
        """
        delay = self.delay(dialect)
        if delay > 0 and not await self._held.hold(link.handshake.address, lambda: deferLater(self._clock, delay)):
            link.abort()

    async def pause(self, dialect: Any, address: str) -> None:
        """Return when a request of *address* may be refused; at once when too many are held already."""
        delay = self.delay(dialect)
        if delay > 0:
            await self._held.hold(address, lambda: deferLater(self._clock, delay))

    async def refuse(self, dialect: Any, link: ILink) -> Any:
        """Raise Unavailable when the handshake of *link* may be refused: a session factory that makes none."""
        await self.hold(dialect, link)
        raise Unavailable("handshake")

    def reject(self, address: str, why: str) -> Protocol | None:
        """Return what refuses a new connection of *address* with 503, or None to drop it unread."""
        if self._rejected.objection(network_of(address)):
            return None
        decide = partial(self._decide, why)
        protocol = RejectProtocol(address, json_refusal(503, why), decide, self._clock, self._dates, self._gone)
        self._rejected.enter(protocol, network_of(address))
        return protocol

    def _decide(
        self, why: str, protocol: RejectProtocol, request: HttpRequest | None, upgrade: bool
    ) -> tuple[Response | None, float]:
        """Return what *request* of *protocol* is answered, None for the common refusal, and for how long that is held.

        *why* it is refused is told in the form of its dialect.
        """
        page = None if request is None or upgrade else self._page(request)
        if page is not None:
            return page, 0.0
        if request is not None and "last-event-id" in request.headers:
            # An EventSource, which never comes back from an answer that is no stream, but when it is cut off.
            protocol.evict()
            return None, 0.0
        if request is not None and not upgrade:
            return self._refusal(503, why, request), 0.0
        delay = self.delay(self._routes.websocket(request)[0]) if request is not None and upgrade else 0.0
        if delay > 0:
            if self._held.enter(protocol.address):
                self._holding.add(protocol)
            else:
                protocol.evict()
        return None, delay

    def _gone(self, protocol: RejectProtocol) -> None:
        self._rejected.leave(protocol)
        if protocol in self._holding:
            self._holding.remove(protocol)
            self._held.leave(protocol.address)
