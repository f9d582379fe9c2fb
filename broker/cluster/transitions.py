"""The states of a name of this node among the nodes, and what leads from one to another."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """What this node knows of a name."""

    FREE = "not held"
    CLAIMING = "asked for"
    HELD = "held under the present lease"
    STALE = "to be claimed again, or given back: nobody knows whether it is held"
    RELEASING = "being given back"


class Event(Enum):
    """What may happen to a name."""

    JOIN = "somebody here needs it"
    LEAVE = "nobody here needs it any more"
    AGAIN = "it is its turn to be claimed again"
    GRANTED = "claimed"
    CHANGED = "claimed, but as shared where it is wanted alone now, or the other way round"
    REFUSED = "another node holds it"
    WAIT = "it can not be had yet"
    FAILED = "it is not known whether it was claimed, or it was under a lease that has ended"
    RELEASED = "given back"
    UNRELEASED = "it is not known whether it was given back"
    LAPSED = "the lease has ended, or the names under it may have been forgotten"
    LEASED = "there is a lease since"


# What becomes of a name, and what is done.  What is not here changes nothing: while the bus has been asked for
# something, its answer decides.
TRANSITIONS: dict[tuple[State, Event], tuple[State, str]] = {
    (State.FREE, Event.JOIN): (State.CLAIMING, "ask"),
    (State.CLAIMING, Event.GRANTED): (State.HELD, "answer"),
    (State.CLAIMING, Event.CHANGED): (State.RELEASING, "release"),
    (State.CLAIMING, Event.REFUSED): (State.FREE, "refuse"),
    (State.CLAIMING, Event.WAIT): (State.CLAIMING, "ask_later"),
    (State.CLAIMING, Event.FAILED): (State.STALE, "fail"),
    (State.HELD, Event.JOIN): (State.HELD, "answer"),
    (State.HELD, Event.LEAVE): (State.RELEASING, "release"),
    (State.HELD, Event.LAPSED): (State.STALE, ""),
    (State.STALE, Event.JOIN): (State.STALE, "queue"),
    (State.STALE, Event.AGAIN): (State.CLAIMING, ""),
    (State.STALE, Event.LEAVE): (State.RELEASING, "release"),
    (State.STALE, Event.LEASED): (State.STALE, "queue"),
    (State.RELEASING, Event.RELEASED): (State.FREE, "begin_again"),
    (State.RELEASING, Event.UNRELEASED): (State.STALE, "retry"),
}
