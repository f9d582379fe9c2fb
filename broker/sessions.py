"""A session that does nothing, to begin a dialect's own with."""

from __future__ import annotations

from collections.abc import Awaitable

from zope.interface import implementer

from broker.errors import NotFound
from broker.interfaces import ISession
from broker.messages import Event, Mail, Reply, Request


@implementer(ISession)
class BaseSession:
    """An ``ISession`` whose methods do the least that is right.

    It ignores events, refuses every request, declines mail and is always alive.
    """

    def opened(self) -> None:
        """Wait for the client to begin."""

    def received(self, data: bytes, binary: bool) -> None:
        """Ignore it."""

    def event(self, event: Event, pattern: str) -> None:
        """Ignore it."""

    def request(self, request: Request) -> None:
        """Refuse: this client performs nothing."""
        raise NotFound("method", request.procedure)

    def reply(self, reply: Reply) -> None:
        """Ignore it."""

    def mail(self, mail: Mail) -> bool:
        """Decline it: it stays in its queue."""
        return False

    def probe(self) -> Awaitable[bool]:
        """Say yes: the transport's own pings notice a dead link."""
        return _yes()

    def closed(self, code: int, reason: str) -> None:
        """Do nothing: there is nothing to release."""


async def _yes() -> bool:
    return True
