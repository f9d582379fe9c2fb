"""What a channel is doing with its answers: its states, and the table of their transitions.

What the client sends is the other half of the state: ``parser.Phase``.  As in h11, both
are enums, each side moves by its own events, and no flag says the same a second time.
"""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """What a channel is doing with the answers; what the client sends is in ``RequestParser.phase``.

    Integers, because a table of other enums is looked up more slowly.
    """

    READY = 0  # the next request is answered at once
    ANSWERING = 1  # an answer is awaited; requests are queued
    BLOCKED = 2  # the client does not read what was sent; requests are queued
    ANSWERING_BLOCKED = 3  # both
    FLUSHING = 4  # the last answer is written; the connection closes when it is sent
    LINGERING = 5  # the last answer is written and the write side shut down; input is discarded
    CLOSED = 6  # the connection is lost, or belongs to another protocol


class ChannelEvent(IntEnum):
    """What changes the state of a channel."""

    AWAIT = 0  # an answer is not ready at once
    RESULT = 1  # what it awaited is there
    PAUSE = 2  # the transport's buffer is full
    RESUME = 3  # it is empty again
    CLOSE = 4  # an answer was the last, or there is no request and none may follow
    LINGER = 5  # the last answer was written while the client may still be sending
    DETACH = 6  # the connection is lost, or was handed over


READY, ANSWERING, BLOCKED, ANSWERING_BLOCKED, FLUSHING, LINGERING, CLOSED = State
AWAIT, RESULT, PAUSE, RESUME, CLOSE, LINGER, DETACH = ChannelEvent

TRANSITIONS: dict[tuple[State, ChannelEvent], State] = {
    (READY, AWAIT): ANSWERING,
    (READY, PAUSE): BLOCKED,
    (READY, RESUME): READY,
    (READY, CLOSE): FLUSHING,
    (READY, LINGER): LINGERING,
    (READY, DETACH): CLOSED,
    (ANSWERING, RESULT): READY,
    (ANSWERING, PAUSE): ANSWERING_BLOCKED,
    (ANSWERING, RESUME): ANSWERING,
    (ANSWERING, DETACH): CLOSED,
    (BLOCKED, AWAIT): ANSWERING_BLOCKED,  # an answer that awaits twice
    (BLOCKED, PAUSE): BLOCKED,
    (BLOCKED, RESUME): READY,
    (BLOCKED, CLOSE): FLUSHING,
    (BLOCKED, LINGER): LINGERING,
    (BLOCKED, DETACH): CLOSED,
    (ANSWERING_BLOCKED, RESULT): BLOCKED,
    (ANSWERING_BLOCKED, PAUSE): ANSWERING_BLOCKED,
    (ANSWERING_BLOCKED, RESUME): ANSWERING,
    (ANSWERING_BLOCKED, DETACH): CLOSED,
    (FLUSHING, DETACH): CLOSED,
    (LINGERING, DETACH): CLOSED,
    # An answer may ignore that it was cancelled.
    (CLOSED, AWAIT): CLOSED,
    (CLOSED, RESULT): CLOSED,
}
IS_ANSWERING = frozenset((ANSWERING, ANSWERING_BLOCKED))
IS_ENDING = frozenset((FLUSHING, LINGERING, CLOSED))  # nothing is parsed or answered any more
