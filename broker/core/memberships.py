"""Memberships: what a client has joined, kept while it is away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
import msgspec

from broker.errors import RateLimited
from broker.interfaces import IStore
from broker.messages import Event
from broker.patterns import CONTROL_PREFIX, MAX_NAME, pair_key

SPACE = "member"
CONTROL = CONTROL_PREFIX + "left"  # topic by which nodes notify each other

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, str]).decode


class Session(Protocol):
    """What memberships need of a peer."""

    def unsubscribe(self, topic: str, *, exact: bool = False) -> None:
        """Undo ``subscribe``; a no-op without one."""


@attrs.define(eq=False)
class Member:
    """A member that is connected, perhaps several times.

    Attributes:
        sessions: those it is connected by.
        topics: what it has joined, as the store has it.
    """

    sessions: set[Session] = attrs.field(factory=set)
    topics: set[str] = attrs.field(factory=set)


class Memberships:
    """Who has joined what.

    Args:
        store: keeps a key for each membership.
        publish: notifies all nodes that a member has left.
        max_topics: how many one member may have joined.
    """

    def __init__(self, store: IStore, publish: Callable[[Event], object], max_topics: int) -> None:
        self._store, self._publish, self._max_topics = store, publish, max_topics
        self._members: dict[str, Member] = {}

    def __len__(self) -> int:
        return len(self._members)

    async def enter(self, member: str, session: Session) -> list[str]:
        """Count *session* among those of *member*; return what that has joined, sorted."""
        # Before reading: what is left meanwhile must reach this session too.
        sessions = self._members.setdefault(member, Member()).sessions
        known = session in sessions
        sessions.add(session)
        first = pair_key(member, "")
        try:
            entries = await self._store.range(SPACE, first, first + "\U0010ffff" * MAX_NAME, self._max_topics)
        except Exception:
            if not known:
                self.exit(member, session)
            raise
        topics = [key[len(first) :] for key, _ in entries]
        if member in self._members:  # else *session* has left meanwhile
            self._members[member].topics = set(topics)
        return topics

    def exit(self, member: str, session: Session) -> None:
        """Undo ``enter``, but for what is stored; a no-op without one."""
        present = self._members.get(member)
        if present is not None:
            present.sessions.discard(session)
            if not present.sessions:
                del self._members[member]

    async def join(self, member: str, topic: str) -> None:
        """Remember that *member*, which has entered, has joined *topic*.

        Raises:
            RateLimited: it has joined too many.
        """
        topics = self._members[member].topics
        if topic in topics:
            return
        if len(topics) >= self._max_topics:
            raise RateLimited("limit", "memberships")
        await self._store.set(SPACE, pair_key(member, topic), b"")
        topics.add(topic)

    async def leave(self, member: str, topic: str) -> None:
        """Forget that *member* has joined *topic*: all its sessions, on every node, are unsubscribed."""
        await self._store.delete(SPACE, pair_key(member, topic))
        self._publish(Event(CONTROL, "left", _encode((member, topic))))

    async def restore(self) -> None:
        """Store again what those who are connected have joined: the store has lost it."""
        for member, present in list(self._members.items()):
            for topic in list(present.topics):
                await self._store.set(SPACE, pair_key(member, topic), b"")

    def left(self, event: Event) -> None:
        """Let every session here of the member that *event* names leave its topic."""
        member, topic = _decode(event.body or b"")
        present = self._members.get(member)
        if present is not None:
            present.topics.discard(topic)
            for session in list(present.sessions):
                session.unsubscribe(topic, exact=True)
