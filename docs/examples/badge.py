"""A dialect of which every client must say who it is: ``/badge?token=…``, or ``Authorization: Bearer …``."""

from typing import Any
from urllib.parse import parse_qs

import attrs
from msgspec.json import encode
from zope.interface import implementer

from broker.errors import BrokerError, Refused
from broker.interfaces import ILink, IPeer, IWebSocketDialect
from broker.messages import Mail
from broker.sessions import BaseSession


@attrs.define(eq=False)
class Badge(BaseSession):
    """Sends what the client says to the client whom it names, ``bob json``, and it gets what others send to it."""

    peer: IPeer
    link: ILink

    def opened(self) -> None:
        self.link.send(encode({"you": self.peer.client}))
        self.peer.appear()  # under that name, from now on

    def received(self, data: bytes, binary: bool) -> None:
        name, _, text = data.decode(errors="replace").partition(" ")
        try:
            self.peer.enqueue("", encode(text), recipient=name).addErrback(lambda failure: self.refuse(failure.value))
        except BrokerError as error:
            self.refuse(error)

    def refuse(self, error: Any) -> None:
        self.link.send(encode({"error": error.code}))

    def mail(self, mail: Mail) -> bool:
        self.link.send(b'{"from":%b,"text":%b}' % (encode(mail.source), mail.body))
        return self.link.open

    def warn(self, seconds: float) -> None:
        self.link.send(encode({"seconds": seconds}))  # until the credential ends


@implementer(IWebSocketDialect)
class Badges:
    name, websocket_paths, subprotocols = "badge", ("/badge",), ()

    async def session(self, peer: IPeer, link: ILink) -> Badge:
        shown = link.handshake.headers.get("authorization", "").removeprefix("Bearer ")
        identity = peer.identify(shown or parse_qs(link.handshake.query).get("token", [""])[0])  # 401 if it is wrong
        if not identity.name:
            raise Refused(403)  # the shared secret names nobody
        return Badge(peer, link)


def dialect(settings: Any) -> Badges:
    return Badges()
