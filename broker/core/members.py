"""Who is present on which topic, on all nodes: one member for each client, by however many sessions.

Every node knows all members, and delivers to its own listeners what changes: so the joins and leaves that a
listener gets always add up to what its node knows.  A client that goes stays a member for a short time, in which it
may come back, here or to another node.  However many go at once, their leaves are told in slices.
"""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable
from typing import Any

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime

from broker.core.deadlines import Deadlines
from broker.messages import Event
from broker.patterns import BROKER, PRESENCE_PREFIX

GRACE = 2.0  # seconds in which a client may come back before its leave is told
PLACE_BYTES = 500  # that a session costs on each topic it is present on, besides what it says of itself
MEMBER_BYTES = 50  # of one in an answer, besides id and info
HERE = ""  # stands for this node, where its own sessions are named


@attrs.frozen
class Place:
    """By what a client is present: a session of a node, :data:`HERE` or the address of another one."""

    node: str
    session: str


@attrs.define(eq=False)
class Member:
    """One client that is present on a topic.

    Attributes:
        topic: where it is present.
        id: of the client.
        places: those it is present by, the latest last, each with what it says of itself: JSON text, or b"".
        info: what it has said last.
        leaving: while there are no places, the bucket of the deadline by which it may come back.
    """

    topic: str
    id: str
    places: dict[Place, bytes] = attrs.field(factory=dict)
    info: bytes = b""
    leaving: dict[Member, float] | None = attrs.field(default=None, repr=False)


@attrs.frozen
class MemberPage:
    """Some members of a topic, sorted by their ids.

    Attributes:
        members: those.
        count: how many members the topic has.
        rest: how many of these follow the page.
    """

    members: list[Member]
    count: int
    rest: int


class Members:
    """The members of all topics.

    Args:
        clock: times the grace.
        now: returns the time of events.
        deliver: hands an event to those who listen here.
    """

    def __init__(self, clock: IReactorTime, now: Callable[[], float], deliver: Callable[[Event], object]) -> None:
        self._clock, self._now, self._deliver = clock, now, deliver
        self._leaving: Deadlines[Member] = Deadlines(clock, self._left)
        self._topics: dict[str, dict[str, Member]] = {}
        self._ids: dict[str, list[str]] = {}  # by topic, sorted: of those that somebody has asked for in pages
        self._sessions: dict[str, tuple[str, dict[str, bytes]]] = {}  # here: the client id, what it says by topic
        self._stopped = False

    def __len__(self) -> int:
        return sum(map(len, self._topics.values()))

    def of(self, topic: str) -> list[Member]:
        """Return the members of *topic*, those included that may still come back, in the order of their joins."""
        return list(self._topics.get(topic, {}).values())

    def page(self, topic: str, after: str, limit: int) -> MemberPage:
        """Return at most *limit* members whose ids sort after *after*.

        Their order is that of all nodes: a page of one may follow that of another.
        """
        members = self._topics.get(topic)
        if members is None:
            return MemberPage([], 0, 0)
        ids = self._ids.get(topic)
        if ids is None:
            ids = self._ids[topic] = sorted(members)
        start = bisect_right(ids, after)
        chosen = ids[start : start + limit]
        return MemberPage([members[id] for id in chosen], len(ids), len(ids) - start - len(chosen))

    # The sessions of this node.

    def enter(self, topic: str, client: str, session: str, info: bytes = b"") -> int:
        """Let *session* of *client* be present on *topic*, and say *info* of itself from now on.

        Return how many bytes more are held for it.
        """
        _, said = self._sessions.setdefault(session, (client, {}))
        before = said.get(topic)
        if before == info:
            return 0
        said[topic] = info
        self.add(topic, client, Place(HERE, session), info)
        self.changed(topic, client, session, info)
        return len(info) + PLACE_BYTES if before is None else len(info) - len(before)

    def exit(self, topic: str, session: str) -> int:
        """Undo ``enter``, if there was one; return how many bytes fewer are held for it."""
        client, said = self._sessions.get(session, ("", {}))
        info = said.pop(topic, None)
        if info is None:
            return 0
        if not said:
            del self._sessions[session]
        self.remove(topic, client, Place(HERE, session))
        self.changed(topic, client, session, None)
        return len(info) + PLACE_BYTES

    def leave(self, session: str) -> None:
        """Let *session*, which is gone, be present nowhere."""
        for topic in list(self._sessions.get(session, ("", {}))[1]):
            self.exit(topic, session)

    def rename(self, session: str, client: str) -> None:
        """Notice that *session* is one of *client* now."""
        before, said = self._sessions.get(session, (client, {}))
        if before == client:
            return
        said = dict(said)
        self.leave(session)
        for topic, info in said.items():
            self.enter(topic, client, session, info)

    def changed(self, topic: str, client: str, session: str, info: bytes | None) -> None:
        """Tell the other nodes of a session of this one; *info* is None when it is not present any more."""

    def beat(self) -> None:
        """See to it that all nodes know the same; to be called each second."""

    # The sessions of all nodes.

    def add(self, topic: str, client: str, place: Place, info: bytes) -> None:
        """Note that *client* is present by *place*."""
        members = self._topics.setdefault(topic, {})
        member = members.get(client)
        new = member is None
        if member is None:
            member = members[client] = Member(topic, client)
            if topic in self._ids:
                insort(self._ids[topic], client)
        elif member.leaving is not None:
            self._leaving.drop(member, member.leaving)
            member.leaving = None
        member.places.pop(place, None)
        member.places[place] = member.info = info
        if new:
            self._announce("join", topic, member)

    def remove(self, topic: str, client: str, place: Place) -> None:
        """Note that *client* is not present by *place* any more; its leave is told when it does not come back."""
        member = self._topics.get(topic, {}).get(client)
        if member is None or member.places.pop(place, None) is None:
            return
        if member.places:
            member.info = next(reversed(member.places.values()))
        elif not self._stopped:
            member.leaving = self._leaving.add(member, GRACE)

    def _left(self, member: Member) -> None:
        members = self._topics[member.topic]
        del members[member.id]
        ids = self._ids.get(member.topic)
        if ids is not None:
            del ids[bisect_left(ids, member.id)]
        if not members:
            del self._topics[member.topic]
            self._ids.pop(member.topic, None)
        self._announce("leave", member.topic, member)

    def _announce(self, name: str, topic: str, member: Member) -> None:
        body = json.dumps({"id": member.id}).encode()
        if member.info:
            body = b'%b,"info":%b}' % (body[:-1], member.info)
        self._deliver(Event(PRESENCE_PREFIX + topic, name, body, BROKER, self._now()))

    def stop(self) -> None:
        """Cancel all timers: no leaves are told any more."""
        self._stopped = True
        self._leaving.stop()


def shown_page(page: MemberPage, max_bytes: int) -> dict[str, Any]:
    """Return *page* as answers show it, ``{members, count, more}``: no more than fit into *max_bytes*."""
    shown = shown_members(page.members, max_bytes)
    return {"members": shown, "count": page.count, "more": page.rest > 0 or len(shown) < len(page.members)}


def shown_members(members: Iterable[Member], max_bytes: int) -> list[dict[str, Any]]:
    """Return *members* as answers show them, ``{id, sessions, info?}``: the first ones, within *max_bytes*."""
    shown: list[dict[str, Any]] = []
    for member in members:
        max_bytes -= len(member.id) + len(member.info) + MEMBER_BYTES
        if max_bytes < 0 and shown:
            break
        info = {"info": msgspec.Raw(member.info)} if member.info else {}
        shown.append({"id": member.id, "sessions": len(member.places), **info})
    return shown
