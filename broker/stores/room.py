"""How much a store may hold, and what may still be done when it is full."""

from __future__ import annotations

from hashlib import sha1

from broker.errors import RateLimited, Unavailable, with_detail
from broker.messages import Entry, Quota, encode_text

# What a full store accepts all the same: without the positions of queues nothing
# could be delivered from them, and without the revocations a stolen token would stay good.
ESSENTIAL_SPACES = frozenset({"mail-at", "token"})
SMALL_VALUE = 64  # bytes that the value of an existing key may have in any case, so that cursors move
HYSTERESIS = 64  # once full, a store has room again when this part of its limit is free

FULL = "The store is full."  # what clients are told of it

# Bytes that an event or a key takes beside what it carries, about.
ROW_BYTES = 200

FLOOR_DIGITS = 3  # of the hash that says which logs share the floor of their ids: 4096 groups


class Room:
    """Says whether a store of at most *max_bytes* has room; 0: it always has.

    What is under way when it has none any more may still be added, so that one large
    message that would not fit is no reason to refuse the others.

    Attributes:
        shortage: why nothing may be added; "" when it may.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.shortage = ""

    def judge(self, used: int) -> str:
        """Return, and remember, why nothing can be added to *used* bytes; "" when something can."""
        limit = self.max_bytes
        if limit and self.shortage:
            limit -= limit // HYSTERESIS
        full = 0 < limit <= used
        self.shortage = f"{used} of {self.max_bytes} bytes are used (TXBROKER_MAX_STORE_BYTES)" if full else ""
        return self.shortage


def full_refusal(shortage: str) -> Unavailable:
    """Return the refusal of a write that would make a full store larger."""
    return Unavailable("store", message=FULL, detail=shortage)


def full_text(shortage: str) -> str:
    """Return the sentence that tells of *shortage* to operators."""
    return with_detail(FULL, shortage)


def fits_when_full(space: str, stored: Entry | None, size: int) -> bool:
    """Whether a full store accepts a value of *size* bytes in the place of *stored*, None for a new key."""
    if space in ESSENTIAL_SPACES:
        return True
    return stored is not None and size <= max(SMALL_VALUE, len(stored.value))


def check_quota(quota: Quota, count: int) -> None:
    """Raise ``RateLimited`` when *count* is all that *quota* allows."""
    if 0 < quota.limit <= count:
        raise RateLimited("limit", quota.kind)


def floor_group(log: str) -> str:
    """Return the name of the group of logs that share with *log* the floor of their ids.

    When a log is forgotten, its last id remains as the floor of its group: a new
    log begins above it.  So no id is given twice, and what remains of all logs
    that ever were has a bound.
    """
    return sha1(encode_text(log)).hexdigest()[:FLOOR_DIGITS]
