"""A dialect of server-sent events: ``curl -N localhost:8000/sse/news``, or ``new EventSource("/sse/news")``."""

import re
from typing import Any
from urllib.parse import parse_qs, unquote

import attrs
from zope.interface import implementer

from broker.interfaces import IHttpDialect, IPeer
from broker.messages import Event, HttpRequest, Response
from broker.streams import StreamSession

LINE_END = re.compile(rb"\r\n?|\n")  # in JSON it stands between two tokens only, so that it may be another
CONTROL = re.compile(r"[\x00-\x1f]")


def render(event: Event) -> bytes:
    """Return *event* as the client gets it; called once for all who hear it."""
    name = CONTROL.sub(" ", event.name).encode()
    data = LINE_END.sub(b"\ndata: ", event.json)
    return b"event: %b\ndata: %b\n\n" % (name, data)


@attrs.define(eq=False)
class Listener(StreamSession):
    heartbeat = b":\n\n"  # a comment, every 15 seconds

    def event(self, event: Event, pattern: str) -> None:
        self.send(event.render(render))


@implementer(IHttpDialect)
class ServerSentEvents:
    name, http_paths = "sse", ("/sse/",)
    example = 'curl -N "{http}/sse/news?token={key}"'

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        if request.method not in ("GET", "HEAD"):
            return Response(405, headers=(("Allow", "GET, HEAD"),))
        scheme, _, credential = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":  # an EventSource can not send one
            credential = parse_qs(request.query).get("token", [""])[0]
        if credential or not peer.admitted:
            peer.identify(credential)
        # First what may be refused: once the answer has begun, an error is the end of the connection.
        peer.subscribe(unquote(request.path.removeprefix("/sse/")))
        listener = Listener(peer)
        peer.bind(listener)
        return Response(200, listener, "text/event-stream", (("Cache-Control", "no-store"),))


def dialect(settings: Any) -> ServerSentEvents:
    return ServerSentEvents()
