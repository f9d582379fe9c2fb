"""A dialect that sends a whole topic, as lines of JSON: the example of a body that is sent while it is made."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

from zope.interface import implementer

from broker.interfaces import IHttpDialect, IPeer
from broker.messages import HttpRequest, Response

PAGE = 65536  # bytes that are read at once


@implementer(IHttpDialect)
class Export:
    name, http_paths = "export", ("/export/",)

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        topic = unquote(request.path.removeprefix("/export/"))
        last = await peer.head(topic)  # may be refused, which must be before the answer begins
        return Response(200, self.lines(peer, topic, last), "application/jsonl")

    async def lines(self, peer: IPeer, topic: str, last: int) -> AsyncIterator[bytes]:
        after = 0
        while after < last:
            events = await peer.read(topic, after, 1000, page_bytes=PAGE)
            if not events:
                return
            after = events[-1].id
            yield b"".join(event.json.replace(b"\n", b" ") + b"\n" for event in events)


def dialect(settings: Any) -> Export:
    return Export()
