"""A dialect whose clients perform ``faulty.<CODE>``: each call fails with that code of the core."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from zope.interface import implementer

from broker import errors
from broker.interfaces import IWebSocketDialect
from broker.sessions import BaseSession

FAILURES = {
    kind.code: kind
    for kind in (
        errors.NotFound,
        errors.Timeout,
        errors.Gone,
        errors.Taken,
        errors.Unauthenticated,
        errors.Denied,
        errors.Invalid,
        errors.TooLarge,
        errors.RateLimited,
        errors.Unavailable,
        errors.BrokerError,
    )
}


class Session(BaseSession):
    def __init__(self, peer, link):
        self.peer, self.link = peer, link

    def opened(self):
        Deferred.fromCoroutine(self.perform())

    async def perform(self):
        """Perform all of them, once no other node holds the names for the client before."""
        while self.link.open:
            try:
                await self.peer.perform([f"faulty.{code}" for code in FAILURES])
                return self.link.send(b"ready")
            except errors.Taken:
                await self.peer.pause(0.02)

    def request(self, request):
        raise FAILURES[request.procedure.removeprefix("faulty.")]("what", "name")


@implementer(IWebSocketDialect)
class Dialect:
    name = "faulty"
    websocket_paths = ("/faulty",)
    subprotocols = ()

    async def session(self, peer, link):
        peer.identify(link.handshake.headers["authorization"])
        return Session(peer, link)


def dialect(settings):
    return Dialect()
