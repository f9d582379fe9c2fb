"""Memberships: what a client has joined, kept while it is away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol, TypeVar
from uuid import uuid4

import attrs
import msgspec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.lives import life_end
from broker.core.uncancelled import uncancelled
from broker.errors import BrokerError, RateLimited
from broker.interfaces import IStore
from broker.messages import Announcement, Event, Quota
from broker.patterns import CONTROL_PREFIX, MAX_NAME, pair_key, split_kind

log = Logger()

T = TypeVar("T")

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
        sessions: those it is connected by, and how often each has entered.
        topics: what it has joined, as the store has it when what is under way was done; but for ``joining``.
        joining: what its sessions are joining while the store has not answered yet, and how often.
        leaving: what it is leaving, likewise.
        left: what was left before a session began to join it, whose subscription depends on that now.
        end: when its memberships end unless they are prolonged, as far as is known.
    """

    sessions: Counter[Session] = attrs.field(factory=Counter)
    topics: set[str] = attrs.field(factory=set)
    joining: Counter[tuple[Session, str]] = attrs.field(factory=Counter)
    leaving: Counter[str] = attrs.field(factory=Counter)
    left: set[tuple[Session, str]] = attrs.field(factory=set)
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
        self._lost = False  # whether the store has yet to get what is known here
        self._source = uuid4().hex  # tells what this node has published

    def __len__(self) -> int:
        return len(self._members)

    async def enter(self, member: str, session: Session) -> None:
        """Count *session* among those of *member*, once more if it was, and see what that has joined."""
        # Before reading: what is left meanwhile must reach this session too.
        present = self._members.setdefault(member, Member())
        present.sessions[session] += 1
        first, before = pair_key(member, ""), set(present.topics)
        try:
            entries = await self._store.range(SPACE, first, first + "\U0010ffff" * MAX_NAME, self._max_topics)
        except BaseException:  # to be cancelled is one
            self.exit(member, session)
            raise
        topics = {key[len(first) :] for key, _ in entries} - present.leaving.keys()
        topics = (topics | (present.topics - before)) - (before - present.topics)  # what has changed meanwhile
        if self._lost:
            topics |= present.topics
        present.topics.clear()
        present.topics |= topics
        present.end = min((entry.expires for _, entry in entries), default=self._end())
        ensureDeferred(self._prolong(member))

    def topics_of(self, member: str) -> list[str]:
        """Return what *member*, of which there are sessions here, has joined, sorted."""
        return sorted(self._members[member].topics)

    def sessions(self) -> list[Session]:
        """Return all sessions of members."""
        return [session for member in self._members.values() for session in member.sessions]

    def sessions_of(self, id: str) -> list[Session]:
        """Return the sessions of the members called *id*, one of each dialect."""
        members = [member for name, member in self._members.items() if split_kind(name)[1] == id]
        return [session for member in members for session in member.sessions]

    def _end(self) -> float:
        return life_end(self._store.wall.time(), self._life)

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
        """Undo one ``enter``, but for what is stored; a no-op without one."""
        present = self._members.get(member)
        if present is not None and session in present.sessions:
            _drop_one(present.sessions, session)
            if not present.sessions:
                del self._members[member]

    def join(
        self, member: str, session: Session, topic: str, *, joined: bool = False, quota: Quota | None = None
    ) -> Deferred[None]:
        """Remember that *member* has joined *topic* by *session*, which has entered and is subscribed.

        If *joined* before, nothing is to be stored as far as that is known: otherwise
        another node may have just forgotten what is known here.  If not, the
        session is unsubscribed when it fails.  A new one counts against *quota*.
        Cancelling gives up the answer only.

        Raises:
            RateLimited: it has joined too many.
        """
        present = self._members[member]
        joined = joined and not present.joining[session, topic]
        return uncancelled(self._join(member, present, session, topic, joined, quota))

    async def _join(
        self, member: str, present: Member, session: Session, topic: str, joined: bool, quota: Quota | None
    ) -> None:
        if joined and topic in present.topics:
            return
        key = session, topic
        present.joining[key] += 1
        try:
            if topic not in present.topics and len(present.topics) >= self._max_topics:
                raise RateLimited("limit", "memberships")
            await self._store.set(SPACE, pair_key(member, topic), b"", expires=self._end(), quota=quota)
            present.topics.add(topic)
            present.left.discard(key)
        except BaseException:
            needed = topic in present.topics or present.joining[key] > 1
            if not needed and (not joined or key in present.left):
                session.unsubscribe(topic, exact=True)
            raise
        finally:
            _drop_one(present.joining, key)
            if key not in present.joining:
                present.left.discard(key)

    def leave(self, member: str, topic: str) -> Deferred[None]:
        """Forget that *member* has joined *topic*: all its sessions, on every node, are unsubscribed.

        Cancelling gives up the answer only.
        """
        return uncancelled(self._leave(member, topic, self._members.get(member) or Member()))

    async def _leave(self, member: str, topic: str, present: Member) -> None:
        known = topic in present.topics
        present.topics.discard(topic)  # at once: nothing may store it again after this
        present.leaving[topic] += 1
        try:
            announced = await self._forget(member, topic)
        except BaseException:
            if known:
                present.topics.add(topic)
            raise
        finally:
            _drop_one(present.leaving, topic)
        # At once, and not by the event: when that comes, a session may have joined again.
        self._unsubscribe(member, topic)
        if not announced:
            self._publish(Event(CONTROL, "left", _encode((member, topic)), source=self._source))

    async def _forget(self, member: str, topic: str) -> bool:
        """Remove the membership from the store; say whether that has notified the other nodes in the same step."""
        key = pair_key(member, topic)
        if not self._store.announces:
            await self._store.delete(SPACE, key)
            return False
        body, now = _encode((member, topic)), self._store.wall.time()
        left = Announcement(CONTROL, "left", now, body, self._source, stored=True)
        return await self._store.delete(SPACE, key, announcement=left)

    def lost(self) -> None:
        """Notice that the store has lost them: until ``restore`` is done, what is known here counts, too."""
        self._lost = True

    async def restore(self) -> None:
        """Store again what those who are connected have joined: the store has lost it.

        Raises:
            Unavailable: some of it is not stored.
        """
        for member, present in list(self._members.items()):
            for topic in list(present.topics):
                if topic in present.topics and present.sessions:  # else it was left meanwhile
                    await self._store.set(SPACE, pair_key(member, topic), b"", expires=self._end())
        self._lost = False

    def left(self, event: Event) -> None:
        """Let every session here of the member that *event* names leave its topic, if another node has published it."""
        if event.source == self._source:
            return
        member, topic = _decode(event.body or b"")
        present = self._members.get(member)
        if present is not None:
            present.topics.discard(topic)
            ensureDeferred(self._left(member, topic, present)).addErrback(_failed)

    async def _left(self, member: str, topic: str, present: Member) -> None:
        try:
            joined_again = await self._store.get(SPACE, pair_key(member, topic)) is not None
        except BrokerError:
            joined_again = False
        if joined_again and topic not in present.leaving:
            present.topics.add(topic)
        elif topic not in present.topics:
            self._unsubscribe(member, topic)

    def _unsubscribe(self, member: str, topic: str) -> None:
        present = self._members.get(member)
        if present is None:
            return
        present.topics.discard(topic)
        for session in list(present.sessions):
            if (session, topic) in present.joining:
                # The store does one after the other: it has begun to join again after this.
                present.left.add((session, topic))
            else:
                session.unsubscribe(topic, exact=True)


def _drop_one(counter: Counter[T], key: T) -> None:
    counter[key] -= 1
    if counter[key] <= 0:
        del counter[key]


def _failed(failure: Failure) -> None:
    log.failure("a membership that was left stays", failure)
