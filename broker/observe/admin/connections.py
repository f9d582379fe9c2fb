"""The connections of this node and the sessions on them, each as a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary

import attrs

from broker.core.parts import Parts
from broker.core.slices import slices_of
from broker.errors import NotFound
from broker.observe.admin.paging import Page, Query, Row, page_of
from broker.web.net.sockets import buffered_bytes, transferred_bytes

MIN_INTERVAL = 1.0  # seconds over which a rate is taken at least
MAX_LISTED = 100  # names that one session is shown with

CONNECTION_SORTS = {
    "queue": True,
    "rate": True,
    "rate_in": True,
    "rate_out": True,
    "bytes_in": True,
    "bytes_out": True,
    "seconds": True,
    "dialect": False,
    "address": False,
    "client": False,
    "id": False,
}
SESSION_SORTS = {
    "seconds": True,
    "subscriptions": True,
    "calling": True,
    "serving": True,
    "queue": True,
    "held": True,
    "dialect": False,
    "address": False,
    "client": False,
    "principal": False,
    "id": False,
}


@attrs.define
class Flow:
    """What has passed on one connection: when it was looked at last, and the bytes per second before that."""

    looked: float
    bytes_in: int
    bytes_out: int
    rate_in: float | None = None
    rate_out: float | None = None

    @property
    def rate(self) -> float | None:
        """The bytes per second in both directions."""
        known = self.rate_in is not None and self.rate_out is not None
        return round((self.rate_in or 0.0) + (self.rate_out or 0.0), 1) if known else None


class Connections:
    """Shows who is connected to this node.

    The bytes of a connection are counted by the kernel, and asked of it by whoever looks: a message costs nothing more.

    Args:
        parts: of the core.
        open_connections: returns the connections of the public port.
    """

    def __init__(self, parts: Parts, open_connections: Callable[[], Iterable[Any]]) -> None:
        self._parts, self._open = parts, open_connections
        self._slices = slices_of(parts.clock)
        self._flows: WeakKeyDictionary[Any, Flow] = WeakKeyDictionary()
        self._ids: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
        self._numbers = count(1)

    async def connections(self, query: Query) -> Page:
        """Return connections, WebSockets and those that speak HTTP."""
        members = self._members()
        open_ones = [link for link in self._open() if link.transport is not None]
        texts = ("id", "dialect", "address", "client", "path")
        return await page_of(
            open_ones,
            lambda link: {name: read(link) for name, read in members.items()},
            query,
            CONNECTION_SORTS,
            texts,
            self._slices,
            lambda link, name: members[name](link),
        )

    def _members(self) -> dict[str, Callable[[Any], Any]]:
        """Return what makes each member of a row, of a connection as it is now."""
        peers = {peer.flow: peer for peer in self._peers() if peer.flow is not None}
        now = self._parts.clock.seconds()

        def peer_of(link: Any) -> Any:
            return peers.get(link) or getattr(_request(link), "peer", None)

        def session_of(link: Any) -> Any:
            peer = peer_of(link)
            return None if peer is None or peer.session is None else peer

        def seconds(link: Any) -> float | None:
            peer = peer_of(link)
            return round(now - peer.since, 3) if peer is not None and peer.since else None

        def flow(name: str) -> Callable[[Any], Any]:
            return lambda link: getattr(self._flow(link, now), name, None)

        return {
            "id": lambda link: getattr(session_of(link) if _is_socket(link) else None, "id", "") or self._id(link),
            "transport": _transport_of,
            "dialect": lambda link: getattr(peer_of(link), "dialect", "http"),
            "address": lambda link: link.address,
            "client": lambda link: getattr(session_of(link), "client", ""),
            "path": lambda link: getattr(_request(link), "path", "")[:200],
            "seconds": seconds,
            "queue": lambda link: link.unsent if _is_socket(link) else buffered_bytes(link.transport) or 0,
            **{name: flow(name) for name in ("bytes_in", "bytes_out", "rate_in", "rate_out", "rate")},
        }

    def _id(self, link: Any) -> str:
        """Return what a connection without a session is called; never that of another one."""
        if link not in self._ids:
            self._ids[link] = f"connection-{next(self._numbers)}"
        return self._ids[link]

    def _flow(self, link: Any, now: float) -> Flow | None:
        """Return what has passed on *link*, with the rates since it was looked at before."""
        counted = transferred_bytes(link.transport)
        if counted is None:
            return None
        flow = self._flows.get(link)
        if flow is None:
            flow = self._flows[link] = Flow(now, *counted)
            return flow
        seconds = now - flow.looked
        if seconds >= MIN_INTERVAL:
            flow.rate_in = round((counted[0] - flow.bytes_in) / seconds, 1)
            flow.rate_out = round((counted[1] - flow.bytes_out) / seconds, 1)
            flow.looked, flow.bytes_in, flow.bytes_out = now, *counted
        return flow

    def find(self, id: str) -> Any:
        """Return the connection without a session that is called *id*, or None."""
        return next((link for link in self._open() if self._ids.get(link) == id), None)

    # Sessions

    def _peers(self) -> Iterable[Any]:
        return iter(self._parts.lifetimes)

    async def sessions(self, query: Query) -> Page:
        """Return the sessions, those without a connection of their own included, as of Engine.IO polling."""
        members = self._session_members()
        texts = ("id", "dialect", "address", "client", "principal")
        return await page_of(
            self._peers(),
            lambda peer: {name: read(peer) for name, read in members.items()},
            query,
            SESSION_SORTS,
            texts,
            self._slices,
            lambda peer, name: members[name](peer),
        )

    def _session_members(self) -> dict[str, Callable[[Any], Any]]:
        """Return what makes each member of a row, of the peer of a session as it is now."""
        now, held = self._parts.clock.seconds(), self._parts.memory.held

        def queue(peer: Any) -> int:
            return peer.flow.unsent if peer.flow is not None else getattr(peer.session, "waiting", 0)

        return {
            **{name: attrgetter(name) for name in ("id", "dialect", "address", "client")},
            "principal": lambda peer: peer.identity.principal,
            "admitted": attrgetter("admitted"),
            "seconds": lambda peer: round(now - peer.since, 3),
            "subscriptions": lambda peer: len(peer.subscriptions),
            "calling": lambda peer: len(peer.calling),
            "serving": lambda peer: len(peer.serving),
            "queue": queue,
            "held": lambda peer: held.of(peer if peer.flow is None else peer.flow),
            "token": attrgetter("token"),
        }

    def session(self, id: str) -> Row:
        """Return all that is shown of one session.

        Raises:
            NotFound: there is none on this node.
        """
        for peer in self._peers():
            if peer.id == id and not peer.closed:
                row = {name: read(peer) for name, read in self._session_members().items()}
                calls = self._parts.calls
                names = {
                    "topics": peer.subscriptions,
                    "procedures": calls.performers.names_of(peer),
                    "services": calls.services.names_of(peer),
                    "consumes": peer.consumed,
                }
                expires = peer.identity.expires or None
                return row | {name: list(found[:MAX_LISTED]) for name, found in names.items()} | {"expires": expires}
        raise NotFound("session", id, message=f"There is no session {id[:100]} on this node.")

    def peers_of(self, *, session: str = "", client: str = "") -> list[Any]:
        """Return the peers of a session id or of a client id on this node."""
        return [peer for peer in self._peers() if (peer.id == session if session else peer.client == client)]


def _transport_of(link: Any) -> str:
    if not hasattr(link, "handshake"):
        return "http"
    return "websocket" if link.handshake.method else "stream"  # see ``IStreamDialect``


def _is_socket(link: Any) -> bool:
    return hasattr(link, "handshake")


def _request(link: Any) -> Any:
    """Return the handshake of a WebSocket, or the request that is being answered, if there is one."""
    return link.handshake if _is_socket(link) else link.request
