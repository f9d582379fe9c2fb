"""A dialect for tests of the daemon itself: polls one channel, keeps sockets open."""

from zope.interface import implementer

from broker.interfaces import IHttpDialect, IWebSocketDialect
from broker.messages import Response


class Session:
    def opened(self):
        pass

    def received(self, data, binary):
        raise RuntimeError(f"provoked by {data!r}")

    def closed(self, code, reason):
        pass


@implementer(IWebSocketDialect, IHttpDialect)
class Dialect:
    name = "waiter"
    websocket_paths = ("/socket",)
    subprotocols = ()
    http_paths = ("/poll", "/fail")
    example = "curl '{http}/poll?room=1'"

    def __init__(self, settings):
        self.settings = settings

    async def session(self, peer, link):
        return Session()

    async def answer(self, peer, request):
        if request.path == "/fail":
            raise RuntimeError(f"provoked by {request.query}")
        events = await peer.poll("some channel", 0, 10, 30.0)
        return Response(200, repr([event.name for event in events]).encode())
