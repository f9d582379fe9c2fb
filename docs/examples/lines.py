"""A dialect of lines: ``AUTH secret``, ``SUB topic`` and ``PUB topic json``."""

from typing import Any

import attrs
from twisted.internet.defer import Deferred
from zope.interface import implementer

from broker.errors import BrokerError, Invalid
from broker.interfaces import ILink, IPeer, IWebSocketDialect
from broker.jsontext import check_json, read_text
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
        done = Deferred.fromCoroutine(self.obey(data))
        done.addCallbacks(lambda _: self.link.send(b"OK"), self.refused)

    async def obey(self, line: bytes) -> None:
        verb, topic, body = [*read_text(line, "line").split(" ", 2), "", ""][:3]
        if verb == "AUTH":
            self.peer.identify(topic)
        elif verb == "SUB":
            self.peer.subscribe(topic)
        elif verb == "PUB":
            await self.peer.publish(topic, "line", check_json(body.encode(), "line"))
        else:
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
