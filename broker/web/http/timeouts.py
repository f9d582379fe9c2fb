"""Time limits of an HTTP connection: how long each is, and what it is for."""

from __future__ import annotations

import math
from enum import IntEnum

import attrs

# Far less than the connection really stays open, so that a request that is sent at the last
# moment does not meet a closing connection.
MAX_ADVERTISED = 5  # seconds
CHECKS = 4  # for progress, within one limit of that kind
HALF_CLOSED_CHECK = 1.0  # seconds between two checks whether a half-closed client is still there


class Timeout(IntEnum):
    """Which of the :class:`Times` is running."""

    SILENT = 0
    HEAD = 1
    BODY = 2
    IDLE = 3
    STALLED = 4
    LINGER = 5
    HALF_CLOSED = 6


STALLED = Timeout.STALLED  # looking a member up in its class costs more than what is done with it


@attrs.frozen
class Times:
    """How long a client may take, in seconds.

    Those of the first kind are for the whole: nothing extends them.  Those of the second
    are without progress, which is looked for :data:`CHECKS` times in each: the connection
    ends between once and one and a quarter times the limit after the last byte.

    Attributes:
        silent: in all, before the first byte of a new connection.
        head: in all, from a request's first byte to the end of its header.
        linger: in all, for reading a refusal while still sending.
        half_closed: in all, for one answer to be ready, once the client has shut down its side.
        body: without a byte of the body; in all it may take as long as it likes.
        idle: without a request.
        stalled: without taking a byte of an answer that does not fit into the socket's buffer.
    """

    silent: float = 10.0
    head: float = 10.0
    body: float = 60.0
    idle: float = 75.0
    stalled: float = 60.0
    linger: float = 2.0
    half_closed: float = 60.0
    advertised: int = attrs.field(init=False, eq=False)
    """What a client is told of *idle*, in whole seconds."""
    checks: tuple[tuple[int, float], ...] = attrs.field(init=False, eq=False, repr=False)
    """For each Timeout the number of checks, and the seconds before each."""

    @advertised.default
    def _advertised(self) -> int:
        return max(1, int(min(MAX_ADVERTISED, self.idle / 2)))

    @checks.default
    def _checks(self) -> tuple[tuple[int, float], ...]:
        looks = max(1, math.ceil(self.half_closed / HALF_CLOSED_CHECK))
        return (
            (1, self.silent),
            (1, self.head),
            (CHECKS, self.body / CHECKS),
            (CHECKS, self.idle / CHECKS),
            (CHECKS, self.stalled / CHECKS),
            (1, self.linger),
            (looks, self.half_closed / looks),
        )
