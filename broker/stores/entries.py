"""How the entry of one key changes: the same in every store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from broker.errors import Conflict
from broker.messages import Entry
from broker.stores.expiry import Expiry
from broker.stores.numbers import add

EXPIRED_KEPT = 3600.0  # seconds for which sweeping leaves an expired key to ``IStore.expired``
ANNOUNCED_SPACES = frozenset({"kv"})  # whose expired keys are announced, however late: sweeping leaves them for ever

Content: TypeAlias = tuple[bytes, float]  # value and expiry of an entry


def alive(entry: Entry | None, expiry: Expiry) -> Entry | None:
    """Return *entry*, or None if it has expired."""
    if entry is None or (entry.expires > 0 and expiry.is_over(entry.expires)):
        return None
    return entry


def check_revision(stored: Entry | None, revision: int | None, key: str) -> None:
    """Raise ``Conflict`` unless *revision* is None or that of *stored*, which is 0 for a missing key."""
    if revision is not None and revision != (0 if stored is None else stored.revision):
        raise Conflict("revision", key)


def merged(stored: Entry | None, value: bytes, merge: Callable[[bytes, bytes], bytes]) -> Content:
    """Return ``merge(stored, value)`` and the expiry; a missing entry gets *value*."""
    if stored is None:
        return value, 0.0
    return merge(stored.value, value), stored.expires


def increased(stored: Entry | None, amount: bytes) -> Content:
    """Return the value with *amount* added, and the expiry; a missing entry counts as 0.

    Raises:
        Invalid: one of the two is no number, or the sum is not finite.
    """
    if stored is None:
        return add(b"0", amount), 0.0
    return add(stored.value, amount), stored.expires
