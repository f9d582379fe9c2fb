"""A dialect of lines: ``SUB topic`` and ``PUB topic json``."""

from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from zope.interface import implementer

from broker.errors import BrokerError, Invalid
from broker.interfaces import ILink, IPeer, IWebSocketDialect
from broker.messages import Event, text_frame
from broker.sessions import BaseSession


def render(event: Event) -> Any:
    """Return the frame of *event*; called once for all who hear it."""
    return text_frame(b"EVENT %b %b" % (event.topic.encode(), event.json))


@attrs.define(eq=False)
class LineSession(BaseSession):
    peer: IPeer
    link: ILink

    def received(self, data: bytes, binary: bool) -> None:
        done = Deferred.fromCoroutine(self.obey(*data.partition(b" ")))
        done.addCallbacks(lambda _: self.link.send(b"OK"), self.refused)

    async def obey(self, verb: bytes, _: bytes, rest: bytes) -> None:
        topic, _, body = rest.partition(b" ")
        try:
            if verb == b"SUB":
                return self.peer.subscribe(topic.decode())
            if verb == b"PUB" and msgspec.json.decode(body, type=msgspec.Raw):
                return await self.peer.publish(topic.decode(), "line", body)
        except ValueError:  # neither UTF-8 nor JSON
            pass
        raise Invalid("line")

    def refused(self, failure: Any) -> None:
        failure.trap(BrokerError)
        self.link.send(f"ERR {failure.value.code} {failure.value}".encode())

    def event(self, event: Event, pattern: str) -> None:
        self.link.send_frame(event.render(render))


@implementer(IWebSocketDialect)
class Lines:
    name, websocket_paths, subprotocols = "lines", ("/lines",), ()

    async def session(self, peer: IPeer, link: ILink) -> LineSession:
        return LineSession(peer, link)


def dialect(settings: Any) -> Lines:
    return Lines()
