"""Delayed refusals, for clients that would reconnect a millisecond after one."""

from __future__ import annotations

from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater

from broker.access.admission import HeldRefusals
from broker.errors import Unavailable
from broker.interfaces import ILink
from broker.web.http.parser import Limits, RequestParser
from broker.web.http.reject import RejectProtocol
from broker.web.http.response import Dates
from broker.web.refusals import json_refusal
from broker.web.routes import Routes

# Refused handshakes that are held at once, and connections over the limit that are told so; more are dropped.
MAX_HELD = 1000
MAX_HELD_PER_ADDRESS = 100


class LateRefusals:
    """Refuses clients as late as their dialect wants, by its ``refusal_delay``.

    Args:
        routes: finds the dialect of a connection that is refused as such.
        clock: the reactor, or a ``task.Clock``.
        dates: for the header of answers.
        limits: of a request.
    """

    def __init__(self, routes: Routes, clock: IReactorTime, dates: Dates, limits: Limits) -> None:
        self._routes = routes
        self._clock = clock
        self._dates = dates
        self._limits = limits
        self._held = HeldRefusals(MAX_HELD, MAX_HELD_PER_ADDRESS)

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
        if not self._held.enter(address):
            return None
        gone = partial(self._held.leave, address)
        return RejectProtocol(json_refusal(503, why), self._clock, self._dates, gone, self._delay_of_head)

    def _delay_of_head(self, head: bytes) -> float:
        """Return the seconds for which the refusal of a request with this *head* is held."""
        parser = RequestParser(self._limits)
        parser.feed(head)
        arrival = parser.arrived.popleft() if parser.arrived else None
        parser.close()
        if arrival is None or not arrival.upgrade or arrival.request is None:
            return 0.0
        return self.delay(self._routes.websocket(arrival.request)[0])
