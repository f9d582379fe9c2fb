"""The connections of this node and the sessions on them, each as a row."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import count
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
        peers = {peer.flow: peer for peer in self._peers() if peer.flow is not None}
        now = self._parts.clock.seconds()
        texts = ("id", "dialect", "address", "client", "path")
        return await page_of(
            self._open(), lambda link: self._row(link, peers, now), query, CONNECTION_SORTS, texts, self._slices
        )

    def _row(self, link: Any, peers: dict[Any, Any], now: float) -> Row | None:
        if link.transport is None:
            return None
        peer, is_socket = peers.get(link), hasattr(link, "handshake")
        request = link.handshake if is_socket else link.request
        if peer is None and request is not None:
            peer = request.peer
        waiting = link.unsent if hasattr(link, "unsent") else buffered_bytes(link.transport) or 0
        return {
            "id": peer.id if is_socket and peer is not None and peer.session is not None else self._id(link),
            "transport": "websocket" if is_socket else "http",
            "dialect": peer.dialect if peer is not None else "http",
            "address": link.address,
            "client": peer.client if peer is not None and peer.session is not None else "",
            "path": request.path[:200] if request is not None else "",
            "seconds": round(now - peer.since, 3) if peer is not None and peer.since else None,
            "queue": waiting,
            **_flow_row(self._flow(link, now)),
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
        now = self._parts.clock.seconds()
        texts = ("id", "dialect", "address", "client", "principal")
        return await page_of(
            self._peers(), lambda peer: self._session(peer, now), query, SESSION_SORTS, texts, self._slices
        )

    def _session(self, peer: Any, now: float) -> Row | None:
        if peer.closed or peer.session is None:
            return None
        waiting = peer.flow.unsent if peer.flow is not None else getattr(peer.session, "waiting", 0)
        return {
            "id": peer.id,
            "dialect": peer.dialect,
            "address": peer.address,
            "client": peer.client,
            "principal": peer.identity.principal,
            "admitted": peer.admitted,
            "seconds": round(now - peer.since, 3),
            "subscriptions": len(peer.subscriptions),
            "calling": len(peer.calling),
            "serving": len(peer.serving),
            "queue": waiting if isinstance(waiting, int) else 0,
            "held": self._parts.memory.held.of(peer.flow if peer.flow is not None else peer),
            "token": peer.token,
        }

    def session(self, id: str) -> Row:
        """Return all that is shown of one session.

        Raises:
            NotFound: there is none on this node.
        """
        for peer in self._peers():
            row = self._session(peer, self._parts.clock.seconds()) if peer.id == id else None
            if row is not None:
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


def _flow_row(flow: Flow | None) -> Row:
    if flow is None:
        return dict.fromkeys(("bytes_in", "bytes_out", "rate_in", "rate_out", "rate"))
    rate = None if flow.rate_in is None or flow.rate_out is None else round(flow.rate_in + flow.rate_out, 1)
    return {
        "bytes_in": flow.bytes_in,
        "bytes_out": flow.bytes_out,
        "rate_in": flow.rate_in,
        "rate_out": flow.rate_out,
        "rate": rate,
    }
