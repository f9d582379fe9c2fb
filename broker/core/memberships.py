"""Memberships: what a client has joined, kept while it is away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol
from uuid import uuid4

import attrs
import msgspec
from twisted.internet.defer import ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.lives import life_end
from broker.errors import BrokerError, RateLimited
from broker.interfaces import IStore
from broker.messages import Event, Quota
from broker.patterns import CONTROL_PREFIX, MAX_NAME, pair_key, split_kind

log = Logger()

SPACE = "member"
MEMBERS_PER_STEP = 100  # looked at before the reactor gets to other work
CONTROL = CONTROL_PREFIX + "left"  # topic by which nodes notify each other

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(tuple[str, str]).decode


class Session(Protocol):
    """What memberships need of a peer."""

    def unsubscribe(self, topic: str, *, exact: bool = False) -> None:
        """Undo ``subscribe``; a no-op without one."""

    async def keep_ids(self) -> None:
        """Extend the claims of the ids by which it is connected."""


@attrs.define(eq=False)
class Member:
    """A member that is connected, perhaps several times.

    Attributes:
        sessions: those it is connected by.
        topics: what it has joined, as the store has it.
        end: when its memberships end unless they are prolonged, as far as is known.
    """

    sessions: set[Session] = attrs.field(factory=set)
    topics: set[str] = attrs.field(factory=set)
    end: float = 0.0


class Memberships:
    """Who has joined what.

    Args:
        store: keeps a key for each membership.
        publish: notifies all nodes that a member has left.
        max_topics: how many one member may have joined.
        clock: gives the time.
        life: seconds for which they are kept while the member is away; 0: for ever.
    """

    def __init__(
        self,
        store: IStore,
        publish: Callable[[Event], object],
        max_topics: int,
        clock: IReactorTime,
        life: float = 0.0,
    ) -> None:
        self._store, self._publish, self._max_topics = store, publish, max_topics
        self._clock, self._life = clock, life
        self._members: dict[str, Member] = {}
        self._source = uuid4().hex  # tells what this node has published

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
            self._members[member].end = min((entry.expires for _, entry in entries), default=self._end())
            ensureDeferred(self._prolong(member))
        return topics

    def sessions(self) -> list[Session]:
        """Return all sessions of members."""
        return [session for member in self._members.values() for session in member.sessions]

    def sessions_of(self, id: str) -> list[Session]:
        """Return the sessions of the members called *id*, one of each dialect."""
        members = [member for name, member in self._members.items() if split_kind(name)[1] == id]
        return [session for member in members for session in member.sessions]

    def _end(self) -> float:
        return life_end(self._clock.seconds(), self._life)

    async def prolong(self) -> None:
        """Let the memberships of all who are connected here live on; for most of the time there is nothing to do."""
        for number, member in enumerate(list(self._members), 1):
            await self._prolong(member)
            if number % MEMBERS_PER_STEP == 0:
                await deferLater(self._clock, 0)

    async def _prolong(self, member: str) -> None:
        present, end = self._members.get(member), self._end()
        if present is None or present.end == end:
            return
        present.end = end
        for topic in list(present.topics):
            try:
                await self._prolong_one(pair_key(member, topic), end)
            except BrokerError:
                pass  # the life has further steps

    async def _prolong_one(self, key: str, end: float) -> None:
        entry = await self._store.get(SPACE, key)
        if entry is not None and entry.expires != end:  # else it was left meanwhile
            await self._store.set(SPACE, key, entry.value, revision=entry.revision, expires=end)

    def exit(self, member: str, session: Session) -> None:
        """Undo ``enter``, but for what is stored; a no-op without one."""
        present = self._members.get(member)
        if present is not None:
            present.sessions.discard(session)
            if not present.sessions:
                del self._members[member]

    async def join(self, member: str, topic: str, *, again: bool = False, quota: Quota | None = None) -> None:
        """Remember that *member*, which has entered, has joined *topic*.

        With *again*, a session of it has joined *topic* before, so that nothing is to be stored:
        otherwise another node may have just forgotten what is known here.
        A new one counts against *quota*.

        Raises:
            RateLimited: it has joined too many.
        """
        topics = self._members[member].topics
        if topic in topics:
            if again:
                return
        elif len(topics) >= self._max_topics:
            raise RateLimited("limit", "memberships")
        await self._store.set(SPACE, pair_key(member, topic), b"", expires=self._end(), quota=quota)
        topics.add(topic)

    async def leave(self, member: str, topic: str) -> None:
        """Forget that *member* has joined *topic*: all its sessions, on every node, are unsubscribed."""
        await self._store.delete(SPACE, pair_key(member, topic))
        # At once, and not by the event: when that comes, a session may have joined again.
        self._unsubscribe(member, topic)
        self._publish(Event(CONTROL, "left", _encode((member, topic)), source=self._source))

    async def restore(self) -> None:
        """Store again what those who are connected have joined: the store has lost it."""
        for member, present in list(self._members.items()):
            for topic in list(present.topics):
                await self._store.set(SPACE, pair_key(member, topic), b"", expires=self._end())

    def left(self, event: Event) -> None:
        """Let every session here of the member that *event* names leave its topic, if another node has published it."""
        if event.source == self._source:
            return
        member, topic = _decode(event.body or b"")
        present = self._members.get(member)
        if present is not None:
            present.topics.discard(topic)
            ensureDeferred(self._left(member, topic, present.topics)).addErrback(_failed)

    async def _left(self, member: str, topic: str, topics: set[str]) -> None:
        try:
            joined_again = await self._store.get(SPACE, pair_key(member, topic)) is not None
        except BrokerError:
            joined_again = False
        if joined_again:
            topics.add(topic)
        elif topic not in topics:
            self._unsubscribe(member, topic)

    def _unsubscribe(self, member: str, topic: str) -> None:
        present = self._members.get(member)
        if present is not None:
            present.topics.discard(topic)
            for session in list(present.sessions):
                session.unsubscribe(topic, exact=True)


def _failed(failure: Failure) -> None:
    log.failure("a membership that was left stays", failure)
