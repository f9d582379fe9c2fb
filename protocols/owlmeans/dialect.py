"""Who may connect, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from zope.interface import implementer

from broker.interfaces import ILink, IPeer, IWebSocketDialect
from protocols.owlmeans.auth import handshake, on_auth, parameters
from protocols.owlmeans.codec import Codec, codec
from protocols.owlmeans.reserved import METHODS
from protocols.owlmeans.session import Session, make_tables

if TYPE_CHECKING:
    from broker.config.settings import Settings

TABLES = make_tables(on_auth, METHODS.read)
RATE_LIMITED_TABLES = make_tables(on_auth, METHODS.read, rate_limited=True)


@implementer(IWebSocketDialect)
@attrs.frozen
class OwlMeans:
    """Makes a session of each connection."""

    settings: Settings
    codec: Codec
    example: str = ""
    name: str = "owlmeans"
    websocket_paths: tuple[str, ...] = ("/", "/owlmeans", "/v1/ws")
    subprotocols: tuple[str, ...] = ("owlmeans",)

    async def session(self, peer: IPeer, link: ILink) -> Session:
        """Return the session of a client; see the interface.

        ``?token=`` or the header ``Authorization`` show a credential, ``?client=``
        gives a name, ``?subscribe=a,b.*`` subscribes.
        """
        query = parameters(link.handshake)
        wanted = (topic for topic in query.get("subscribe", "").split(",") if topic)
        topics = tuple(dict.fromkeys((*self.settings.owlmeans_default_subscriptions, *wanted)))
        tables = RATE_LIMITED_TABLES if self.settings.rate else TABLES
        session = Session(peer, link, self.settings, self.codec, tables, topics=topics)
        token = query.get("token") or link.handshake.headers.get("authorization", "")
        await handshake(session, token, query.get("client", ""))
        peer.bind(session, link=link)
        return session


def dialect(settings: Settings) -> OwlMeans:
    """Return this dialect for a daemon with *settings*."""
    example = '{websocket} "{ws}/?token={key}"' if settings.auth == "required" else ""
    return OwlMeans(settings, codec(settings.speedups), example)
