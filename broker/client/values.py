"""What a client gets: answers of the broker, events, changes, and notices of its own life."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import attrs
import msgspec
from msgspec import UNSET, UnsetType


class Position(msgspec.Struct, frozen=True):
    """A place in a stored topic.  Ids of two epochs are never compared."""

    epoch: str
    id: int


Origin: TypeAlias = "Position | int | Literal['start', 'new'] | Mapping[str, Position]"


class Published(msgspec.Struct, frozen=True):
    """What has become of a publication.

    Attributes:
        id: of a stored event, else 0.
        epoch: of the store, or "".
        time: milliseconds since 1970, or 0.
        duplicate: whether the topic had an event by that key already.
        delivered: how many sessions of the node have got a live event; None for a stored one.
    """

    id: int = 0
    epoch: str = ""
    time: int = 0
    duplicate: bool = False
    delivered: int | None = None


class Stored(msgspec.Struct, frozen=True):
    """One event of a batch, and where it is stored."""

    topic: str
    epoch: str
    id: int
    duplicate: bool = False


class Event(msgspec.Struct, frozen=True):
    """An event, live or stored.

    Attributes:
        topic: its name, and not the pattern by which it came.
        name: the kind of event.
        payload: decoded; bytes if it was published so.
        sender: the client id of who has published it.
        time: milliseconds since 1970.
        id: of a stored one, else 0.
        epoch: of a stored one, else "".
        cursor: that acknowledges it, or "".
        content_type: of the payload, or "".
    """

    topic: str
    name: str
    payload: Any
    sender: str = ""
    time: int = 0
    id: int = 0
    epoch: str = ""
    cursor: str = ""
    content_type: str = ""

    @property
    def position(self) -> Position:
        """Where a stored event is."""
        return Position(self.epoch, self.id)


class Page(msgspec.Struct, frozen=True):
    """Stored events of one topic, rising; ``first`` is the oldest id that is kept, ``head`` the newest."""

    events: list[Event]
    epoch: str
    first: int
    head: int


class CursorState(msgspec.Struct, frozen=True):
    """A cursor, and how many events it is behind; ``moved`` is in milliseconds since 1970."""

    cursor: str
    topic: str
    id: int
    lag: int
    moved: int | None = None


class Acknowledged(msgspec.Struct, frozen=True):
    """Where a cursor is now; ``back``: it was further before."""

    cursor: str
    id: int
    back: bool


class Entry(msgspec.Struct, frozen=True):
    """A key: a missing one has the value None and the revision 0; ``expires`` is in milliseconds since 1970."""

    key: str
    value: str | None = None
    revision: int = 0
    expires: int | None = None


class Change(msgspec.Struct, frozen=True):
    """A key as it is now.

    Attributes:
        key: its name.
        value: None when it was removed.
        revision: of the change.
        kind: "present" for one that was there before, "missed" for one that was removed
            while the client was away, else the broker's name of the change.
        previous: the value before, if that was asked for and is known; None when the key was missing.
        time: milliseconds since 1970, or 0.
    """

    key: str
    value: str | None
    revision: int
    kind: str = ""
    previous: str | UnsetType | None = UNSET
    time: int = 0


class Enqueued(msgspec.Struct, frozen=True):
    """The id of a job, and whether it was there already."""

    id: str
    duplicate: bool = False


class QueueState(msgspec.Struct, frozen=True):
    """How many jobs a queue has by state; ``oldest`` is the age of the first that is ready, in seconds."""

    depth: int
    delayed: int
    in_flight: int
    dead: int
    oldest: float | None = None


class Member(msgspec.Struct, frozen=True):
    """Who is present on a topic, and what it says of itself."""

    id: str
    sessions: int
    info: Any = None


class Identity(msgspec.Struct, frozen=True):
    """Who the broker says that the client is."""

    id: str
    session: str
    stage: str


class Start(msgspec.Struct, frozen=True):
    """Where a subscription begins: ``id`` of a topic, ``positions`` of the topics of a pattern."""

    subscribed: list[str] = []
    epoch: str = ""
    id: int = 0
    positions: dict[str, Position] = {}
    recovered: bool = True
    lost: Any = None
    members: list[Member] = []


@attrs.frozen
class Gap:
    """Events, or changes of keys, that can not be had.

    Attributes:
        topic: of the events, or the pattern that was watched.
        why: "retention", "epoch", "missed", or "slow" for live ones that were not read in time.
        first: the first id that is missing, if it is known.
        last: the last one, if it is known.
        count: how many live events.
    """

    topic: str
    why: str
    first: int | None = None
    last: int | None = None
    count: int | None = None


NoticeKind: TypeAlias = Literal[
    "connecting",
    "ready",
    "lost",
    "waiting",
    "stopped",
    "expiring",
    "refreshed",
    "auth-failed",
    "rate-limited",
    "gap",
    "registration-failed",
    "job-failed",
    "job-lost",
    "error",
]


@attrs.frozen
class Notice:
    """Something in the life of a client.

    Attributes:
        kind: what has happened.
        reason: in words, perhaps empty.
        code: the close code or the HTTP status, or 0.
        delay: seconds until the next attempt, or until the credential ends.
        error: what has gone wrong, if something has.
        gap: what can not be had, of a "gap".
    """

    kind: NoticeKind
    reason: str = ""
    code: int = 0
    delay: float = 0.0
    error: BaseException | None = None
    gap: Gap | None = None


@attrs.frozen
class Statistics:
    """Counts since the client was made; ``started`` is the sum of the five after it.

    Attributes:
        state: of the connection.
        connections: that were ready.
        losses: connections that have ended by themselves.
        started: calls and the like.
        succeeded: with a result.
        failed: with an error of the broker or the callee, or for want of a connection.
        timed_out: at their deadlines.
        cancelled: by the application.
        pending: not ended yet.
        resent: sent once more after a loss.
        buffered: that wait to be sent.
        buffered_bytes: of these.
        late: answers that came after the deadline.
        events: handed to the application.
        duplicates: events that came again and were dropped.
        jobs: that have come.
        served: calls that were performed.
        rate_limited: refusals for the rate.
        rate: operations per second that the throttle lets pass; None: all.
    """

    state: str
    connections: int
    losses: int
    started: int
    succeeded: int
    failed: int
    timed_out: int
    cancelled: int
    pending: int
    resent: int
    buffered: int
    buffered_bytes: int
    late: int
    events: int
    duplicates: int
    jobs: int
    served: int
    rate_limited: int
    rate: float | None
