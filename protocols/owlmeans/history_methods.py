"""The methods by which a client reads what is stored, and comes back to where it was.

A position is an object ``{epoch, id}``; a bare id is of the present epoch.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from broker.answers import milliseconds
from broker.core.starts import MAX_TOPICS
from broker.errors import BrokerError, Invalid, TooLarge
from broker.interfaces import MAX_PAGE_BYTES, IFollower
from broker.messages import MAX_ID, NEW, START, Origin, Position
from broker.patterns import is_pattern
from protocols.owlmeans.methods import Answer, Method, Options
from protocols.owlmeans.wire import lost, stored_event

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session

MAX_LIMIT = 1000  # events of one answer
MAX_POSITION_BYTES = 1000  # of one position: more than a long epoch needs

Id = Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)]


class PositionFields(Options):
    """A position as the wire has it."""

    epoch: str
    id: Id


class ReadOptions(Options):
    """Which events: those after a position, the last before one, or the newest; and how many at most."""

    after: PositionFields | Id | None = None
    before: PositionFields | Id | None = None
    last: int | None = None
    limit: int = 100


class Read(Method):
    """Read stored events: from the oldest on, or as the options say."""

    called = "read"
    topic: str
    options: ReadOptions | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the events, and with epoch, oldest and newest id."""
        options = self.options or ReadOptions()
        given = [name for name in ("after", "before", "last") if getattr(options, name) is not None]
        if len(given) > 1:
            raise Invalid(given[1])
        if options.last is not None and not 0 < options.last <= MAX_LIMIT:
            raise Invalid("last")
        peer = session.peer
        epoch = await peer.present_epoch()
        page = await peer.page(
            self.topic,
            after=_position(options.after, epoch),
            before=_position(options.before, epoch),
            last=options.last is not None,
            limit=options.limit if options.last is None else options.last,
            max_bytes=min(MAX_PAGE_BYTES, session.settings.send_queue_bytes),
        )
        events = [stored_event(event) for event in page.events]
        return {"events": events, "epoch": page.epoch, "first": page.first, "head": page.head}


class Ack(Method):
    """Acknowledge the events of a topic up to a position: a subscription by this cursor begins after it."""

    called = "ack"
    cursor: str
    topic: str
    id: msgspec.Raw

    async def run(self, session: Session) -> Answer:
        """Answer with where the cursor is, and whether it went back."""
        if len(bytes(self.id)) > MAX_POSITION_BYTES:
            raise Invalid("id")
        position = _checked_position(msgspec.json.decode(self.id), await session.peer.present_epoch(), "id")
        back = await session.peer.acknowledge_events(self.cursor, self.topic, position)
        return {"cursor": self.cursor, "id": position.id, "back": back}


class Cursors(Method):
    """List your own cursors, or those of one topic."""

    called = "cursors"
    topic: str = ""

    async def run(self, session: Session) -> Answer:
        """Answer with a list; ``more`` says that there are others."""
        found, more = await session.peer.cursors(self.topic)
        cursors = [
            {
                "cursor": each.client,
                "topic": each.topic,
                "id": each.id,
                "lag": each.lag,
                "moved": milliseconds(each.moved) if each.moved else None,
            }
            for each in found
        ]
        return {"cursors": cursors, **({"more": True} if more else {})}


def is_one_topic(topics: list[str], *, exact: bool) -> bool:
    """Whether *topics* is one name, rather than a pattern or several."""
    return len(topics) == 1 and (exact or not is_pattern(topics[0]))


def origin_of(value: object, topics: list[str], epoch: str, *, exact: bool) -> Origin:
    """Return where the option ``from`` lets the subscription to *topics* begin.

    Raises:
        Invalid: it does not say that.
    """
    if value in (START, NEW):
        return str(value)
    if is_one_topic(topics, exact=exact):
        return _checked_position(value, epoch, "from")
    if len(topics) == 1 and isinstance(value, dict):
        if len(value) > MAX_TOPICS:
            raise TooLarge("topics", topics[0])
        return {topic: _checked_position(position, epoch, "from") for topic, position in value.items()}
    raise Invalid("from")


def _checked_position(value: object, epoch: str, what: str) -> Position:
    try:
        fields = msgspec.convert(value, PositionFields | Id)
    except msgspec.ValidationError:
        raise Invalid(what) from None
    position = _position(fields, epoch)
    assert position is not None
    return position


def _position(fields: PositionFields | int | None, epoch: str) -> Position | None:
    if isinstance(fields, PositionFields):
        return Position(fields.epoch, fields.id)
    return None if fields is None else Position(epoch, fields)


async def follow(
    session: Session, topics: list[str], origin: Origin | None, *, cursor: str, exact: bool, echo: bool
) -> list[IFollower]:
    """Follow all of *topics* or none; see ``IPeer.follow``."""
    peer, backlog = session.peer, session.backlog
    followers: list[IFollower] = []
    try:
        for topic in topics:
            follower = await peer.follow(
                topic,
                origin,
                partial(backlog.offer, topic, cursor),
                backlog.report_loss,
                cursor=cursor,
                exact=exact,
                echo=echo,
                rate_limited=not followers,
            )
            followers.append(follower)
    except BrokerError:
        for follower in followers:
            peer.unsubscribe(follower.topic, exact=exact)
        raise
    return followers


def starts_of(followers: list[IFollower], epoch: str, *, one: bool) -> Answer:
    """Return where *followers* begin: in *one* topic, or in any number."""
    starts = [start for follower in followers for start in follower.starts]
    losses = [start.loss for start in starts if start.loss is not None]
    answer: Answer = {"epoch": epoch, "recovered": not losses}
    if one:
        answer["id"] = starts[0].position.id
        told: Any = lost(losses[0]) if losses else None
    else:
        answer["positions"] = {each.topic: {"epoch": epoch, "id": each.position.id} for each in starts}
        told = [{"topic": loss.topic, **lost(loss)} for loss in losses]
    return {**answer, "lost": told} if losses else answer


HISTORY_METHODS = (Read, Ack, Cursors)
