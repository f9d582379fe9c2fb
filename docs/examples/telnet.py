"""Lines over TCP, for ``nc localhost 7000``: ``AUTH secret``, ``SUB topic``, ``PUB topic json``, ``QUIT``."""

from typing import Any

from twisted.internet.defer import Deferred
from zope.interface import implementer

from broker.errors import BrokerError, Invalid
from broker.interfaces import ILink, IPeer, IStreamDialect
from broker.jsontext import check_json, read_text
from broker.messages import Event
from broker.plugins import listen_settings, with_settings
from broker.sessions import FramedSession


class Lines(FramedSession):
    def frame_size(self, buffer: bytearray) -> int:
        return buffer.find(b"\n") + 1

    def frame(self, data: bytes, binary: bool) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.obey(data)).addErrback(self.refused)

    async def obey(self, line: bytes) -> None:
        verb, topic, body = [*read_text(line, "line").rstrip("\r\n").split(" ", 2), "", ""][:3]
        if verb == "AUTH":
            self.peer.identify(topic)
        elif verb == "SUB":
            self.peer.subscribe(topic)
        elif verb == "PUB":
            await self.peer.publish(topic, "line", check_json(body.encode()))
        elif verb == "QUIT":
            return self.link.close()
        else:
            raise Invalid("line")
        self.link.send(b"OK\n")

    def refused(self, failure: Any) -> None:
        failure.trap(BrokerError)
        self.link.send(f"ERR {failure.value.code} {failure.value}\n".encode())

    def event(self, event: Event, pattern: str) -> None:
        self.link.send(b"EVENT %b %b\n" % (event.topic.encode(), event.json.replace(b"\n", b" ")))

    def last_words(self, code: int, reason: str) -> bytes:
        return b"BYE %b\n" % reason.encode()


@implementer(IStreamDialect)
class Telnet:
    name = "telnet"

    async def session(self, peer: IPeer, link: ILink) -> Lines:
        return Lines(link, peer)


@with_settings("telnet", listen_settings(7000))  # TXBROKER_TELNET_LISTEN
def dialect(settings: Any, own: Any) -> Telnet:
    return Telnet()
