"""The connected sessions, by session id and by client id."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from broker.messages import Event


class Present(Protocol):
    """What presence needs of a peer."""

    id: str

    @property
    def client(self) -> str:
        """Its client id."""


P = TypeVar("P", bound=Present)


class Presence(Generic[P]):
    """The sessions of each client, in the order in which they came.

    Args:
        changed: called with (``"online"`` or ``"offline"``, client id, session
            id) when a session came or went under that client id.
    """

    def __init__(self, changed: Callable[[str, str, str], object]) -> None:
        self._changed = changed
        self._sessions: dict[str, P] = {}
        self._clients: dict[str, list[P]] = {}
        self._known_as: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[P]:
        return iter(list(self._sessions.values()))

    def enter(self, peer: P) -> None:
        """Add *peer*, or notice that its client id has changed."""
        client = peer.client
        before = self._known_as.get(peer.id)
        if before == client:
            return
        if before is not None:
            self._drop(peer, before)
        self._sessions[peer.id] = peer
        self._known_as[peer.id] = client
        self._clients.setdefault(client, []).append(peer)
        self._changed("online", client, peer.id)

    def leave(self, peer: P) -> None:
        """Remove *peer*, which may be gone already."""
        before = self._known_as.pop(peer.id, None)
        if before is not None:
            del self._sessions[peer.id]
            self._drop(peer, before)

    def sessions(self, recipient: str) -> list[P]:
        """Return the sessions of a client id, or the one of that session id, newest first."""
        peers = self._clients.get(recipient)
        if peers:
            return peers[::-1]
        peer = self._sessions.get(recipient)
        return [] if peer is None else [peer]

    def sessions_of(self, client: str) -> list[P]:
        """Return the sessions of a client id, newest first."""
        return self._clients.get(client, [])[::-1]

    def excluded(self, event: Event) -> set[str]:
        """Return the ids of the sessions that *event* is not to be delivered to."""
        named = {peer.id for recipient in event.exclude for peer in self.sessions(recipient)}
        return named.union(event.exclude)

    def _drop(self, peer: P, client: str) -> None:
        peers = self._clients[client]
        peers.remove(peer)
        if not peers:
            del self._clients[client]
        self._changed("offline", client, peer.id)
