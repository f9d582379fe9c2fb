"""The provider: accepts every client, and calls the hooks of plugins."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

from zope.interface import implementer

from broker.core.slices import slices_of
from broker.interfaces import ILink, IPeer, IWebSocketDialect
from protocols.thinws.frames import NAME
from protocols.thinws.session import Hook, Session

REFUSAL_DELAY = 3.0  # seconds that a refused handshake is held
EVENTS = ("connect", "disconnect", "subscribe", "unsubscribe", "message")


def dialect(settings: Any) -> ThinWs:
    """Return the dialect; see ``broker.app.dialects``."""
    made = ThinWs(settings.thinws_open_rooms)
    if settings.auth == "required":
        made.example = '{websocket} "{ws}/thinws?token={key}"'
    return made


@implementer(IWebSocketDialect)
class ThinWs:
    """The ThinWS dialect.

    Args:
        open_rooms: whether those outside a room may send to it, as to the original server.
    """

    name = NAME
    websocket_paths = ("/thinws",)
    subprotocols = ("thinws",)
    refusal_delay = REFUSAL_DELAY
    comes_back = True  # about a millisecond after any close
    example = ""

    def __init__(self, open_rooms: bool = False) -> None:
        self._open_rooms = open_rooms
        self._hooks: dict[str, list[Hook]] = {name: [] for name in EVENTS}

    def on(self, name: str, hook: Hook) -> None:
        """Call *hook* at each server event *name*.

        ``connect`` and ``disconnect`` give it the connection, a ``Session``;
        ``subscribe`` and ``unsubscribe`` the connection and the room;
        ``message`` the connection, the room and the received object.

        Raises:
            KeyError: there is no such event.
        """
        self._hooks[name].append(hook)

    async def session(self, peer: IPeer, link: ILink) -> Session:
        """Take every client; one with a wrong token is refused frame by frame."""
        session = Session(link, peer, self._hooks, self._open_rooms)
        session.slices = slices_of(peer.clock)
        query = parse_qs(link.handshake.query).get("token", [""])
        token = link.handshake.headers.get("authorization") or query[-1]
        if token:
            session.authenticate(token)
        peer.bind(session)
        return session
