"""What a client tells of its own life: notices, gaps, statistics."""

from __future__ import annotations

from typing import Literal, TypeAlias

import attrs


@attrs.frozen
class Gap:
    """Events, or changes of keys, that can not be had.

    Attributes:
        topic: of the events, or the pattern that was watched.
        why: "retention", "epoch", "missed", "slow" for live ones that were not read in time, or "away" for those that
            there may have been while there was no connection.
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
    "untrusted",
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
