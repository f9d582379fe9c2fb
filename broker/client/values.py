"""What a client gets: answers of the broker, events and changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

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
