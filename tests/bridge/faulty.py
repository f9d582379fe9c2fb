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
        ready = Deferred.fromCoroutine(self.peer.perform([f"faulty.{code}" for code in FAILURES]))
        ready.addCallback(lambda _: self.link.send(b"ready"))

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
