"""The native dialect: what ``@owlmeans/socket`` speaks, over WebSocket.

One JSON object a frame.  ``wire`` says how frames look, ``session`` what each of
them does, ``auth`` who the client is, ``reserved`` and ``keys`` what can be asked of the broker
itself, ``marshalled`` how errors are written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
from zope.interface import implementer

from broker.interfaces import ILink, IPeer, IWebSocketDialect
from protocols.owlmeans.auth import handshake, parameters
from protocols.owlmeans.session import Session

if TYPE_CHECKING:
    from broker.config.settings import Settings


@implementer(IWebSocketDialect)
@attrs.frozen
class OwlMeans:
    """Makes a session of each connection."""

    settings: Settings
    name: str = "owlmeans"
    websocket_paths: tuple[str, ...] = ("/", "/owlmeans", "/v1/ws")
    subprotocols: tuple[str, ...] = ("owlmeans",)

    async def session(self, peer: IPeer, link: ILink) -> Session:
        """Return the session of a client; see the interface.

        ``?token=`` or the header ``Authorization`` show a credential, ``?client=``
        gives a name, ``?subscribe=a,b.*`` subscribes.
        """
        query = parameters(link.handshake)
        token = query.get("token") or link.handshake.headers.get("authorization", "")
        name = query.get("client", "")
        authenticated = handshake(peer, token, name)
        wanted = (topic for topic in query.get("subscribe", "").split(",") if topic)
        topics = tuple(dict.fromkeys((*self.settings.owlmeans_default_subscriptions, *wanted)))
        session = Session(peer, link, self.settings, peer.clock, name="" if peer.admitted else name, topics=topics)
        session.authenticated = authenticated
        return session


def dialect(settings: Settings) -> OwlMeans:
    """Return this dialect for a daemon with *settings*."""
    return OwlMeans(settings)
