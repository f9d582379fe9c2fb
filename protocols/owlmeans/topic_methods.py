"""The reserved methods of topics: subscribe and unsubscribe, and who is present there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from broker.core.members import shown_members, shown_page
from broker.errors import BrokerError, Invalid
from broker.interfaces import IPeer
from broker.messages import Origin, Position
from protocols.owlmeans.history_methods import MAX_LIMIT, follow, is_one_topic, origin_of, starts_of
from protocols.owlmeans.methods import Answer, Method, Name, Names, Options, distinct
from protocols.owlmeans.wire import ABSENT

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session


class SubscribeOptions(Options, rename={"origin": "from"}):
    """How to subscribe.

    Attributes:
        echo: whether the subscriber gets its own events too.
        exact: whether wildcards are ordinary characters.
        origin: where to begin: a position, ``start``, ``new``, or for a pattern a position by topic.
        cursor: the client id after whose last acknowledged event to begin.
        last: how many of the newest events that are kept come first.
        presence: whether the client is present on the topic, or what it says of itself there.
    """

    echo: bool = False
    exact: bool = False
    origin: str | int | dict[str, Any] | None = None
    cursor: Name | None = None
    last: int | None = None
    presence: msgspec.Raw = msgspec.field(default_factory=lambda: ABSENT)


class Subscribe(Method, dict=True):
    """Subscribe to names and patterns, all of them or none; with ``from`` or ``cursor``, from a position on."""

    called = "subscribe"
    free_form = True
    pattern: Names
    options: SubscribeOptions | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with all subscriptions of the session, and with where one from a position begins."""
        peer, options = session.peer, self.options or SubscribeOptions()
        topics, exact = distinct(self.pattern), options.exact
        presence, before = _presence(options, topics), peer.subscriptions
        origin: Origin | None = None
        if options.last is not None:
            origin = await self._place_of_last(peer, topics, options)
        elif options.origin is not None:
            origin = origin_of(options.origin, topics, await peer.present_epoch(), exact=exact)
        begun: Answer = {}
        if origin is None and not options.cursor:
            await _subscribe(peer, topics, exact=exact, echo=options.echo)
            if options.last is not None:
                self.kept = await peer.last(topics[0])
        else:
            self.followers = await follow(
                session, topics, origin, cursor=options.cursor or "", exact=exact, echo=options.echo
            )
            begun = starts_of(self.followers, peer.epoch, one=is_one_topic(topics, exact=exact))
        return {"subscribed": peer.subscriptions, **begun, **_enter(peer, topics, presence, before, exact=exact)}

    async def _place_of_last(self, peer: IPeer, topics: list[str], options: SubscribeOptions) -> Position | None:
        """Return the position before the newest events that are kept; None: none of them is stored.

        Raises:
            Invalid: they can not be had, as it is a pattern, or there is another beginning.
        """
        last = options.last or 0
        other = options.origin is not None or options.cursor
        if other or not 0 < last <= MAX_LIMIT or not is_one_topic(topics, exact=options.exact):
            raise Invalid("last")
        place, kept = await peer.place_of_last(topics[0], last)
        self.kept = [] if kept is None else [kept]
        return place

    def sent(self, session: Session) -> None:
        """Let the events follow."""
        for event in getattr(self, "kept", ()):
            session.event(event, event.topic)
        for follower in getattr(self, "followers", ()):
            follower.start()


class Unsubscribe(Method):
    """Unsubscribe from names and patterns; a no-op for those not subscribed to."""

    called = "unsubscribe"
    pattern: Names

    async def run(self, session: Session) -> Answer:
        """Answer with the subscriptions that are left."""
        for pattern in distinct(self.pattern):
            for exact in (False, True):
                session.peer.unsubscribe(pattern, exact=exact)
        return {"subscribed": session.peer.subscriptions}


class MembersOptions(Options):
    """For a page of them, in the order of their ids: ``limit``: how many at most; ``after``: the id they follow."""

    limit: int = MAX_LIMIT
    after: str = ""


class Members(Method):
    """Ask who is present on a topic, on all nodes."""

    called = "members"
    topic: str
    options: MembersOptions | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the members, each with what it says of itself and how many sessions it has."""
        peer, options = session.peer, self.options
        if options is None:
            members, count = _members(peer, self.topic)
            return {"members": members, "count": count}
        page = peer.page_of_members(self.topic, options.after, options.limit)
        return shown_page(page, peer.send_queue_bytes // 2)


async def _subscribe(peer: IPeer, topics: list[str], *, exact: bool, echo: bool) -> None:
    """Subscribe to all of *topics* or none."""
    before = set(peer.subscriptions)
    added: list[str] = []
    try:
        for topic in topics:
            peer.subscribe(topic, exact=exact, echo=echo, rate_limited=not added)
            added.append(topic)
    except BrokerError:
        for topic in added:
            if topic not in before:
                peer.unsubscribe(topic, exact=exact)
        raise
    await peer.listening()


def _presence(options: SubscribeOptions, topics: list[str]) -> bytes:
    """Return what *options* say of the presence on the only topic: JSON text, or b"": nothing.

    Raises:
        Invalid: there are several topics, or it is a pattern.
    """
    presence = bytes(options.presence)
    if presence in (b"", b"null"):
        return b""
    if not is_one_topic(topics, exact=options.exact):
        raise Invalid("presence")
    return presence


def _enter(peer: IPeer, topics: list[str], presence: bytes, before: Sequence[str], *, exact: bool) -> Answer:
    """Do what *presence* says, and return who is present; nothing when it says nothing.

    When it can not be done, the subscription is undone if it was not one of those *before*.
    """
    if not presence:
        return {}
    topic = topics[0]
    try:
        if presence == b"false":
            peer.exit(topic)
        else:
            peer.enter(topic, b"" if presence == b"true" else presence)
    except BrokerError:
        if topic not in before:
            peer.unsubscribe(topic, exact=exact)
        raise
    return {"members": _members(peer, topic, rate_limited=False)[0]}


def _members(peer: IPeer, topic: str, *, rate_limited: bool = True) -> tuple[list[Answer], int]:
    """Return the members of *topic*, as many as half of the send queue holds, and how many there are."""
    members = peer.members(topic, rate_limited=rate_limited)
    return shown_members(members, peer.send_queue_bytes // 2), len(members)


TOPIC_METHODS = (Subscribe, Unsubscribe, Members)
