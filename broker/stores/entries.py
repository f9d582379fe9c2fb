"""How the entry of one key changes: the same in every store."""

from __future__ import annotations

from collections.abc import Callable

from broker.errors import Conflict
from broker.messages import Entry
from broker.stores.expiry import Expiry
from broker.stores.numbers import add

EXPIRED_KEPT = 3600.0  # seconds for which sweeping leaves an expired key to ``IStore.expired``
ANNOUNCED_SPACES = frozenset({"kv"})  # whose expired keys are announced, however late: sweeping leaves them for ever


def alive(entry: Entry | None, expiry: Expiry) -> Entry | None:
    """Return *entry*, or None if it has expired."""
    if entry is None or (entry.expires > 0 and expiry.is_over(entry.expires)):
        return None
    return entry


def check_revision(stored: Entry | None, revision: int | None, key: str) -> None:
    """Raise ``Conflict`` unless *revision* is None or that of *stored*, which is 0 for a missing key."""
    if revision is not None and revision != (0 if stored is None else stored.revision):
        raise Conflict("revision", key)


def replaced(stored: Entry | None, value: bytes, expires: float) -> Entry:
    """Return the entry that replaces *stored*, or the first one of a missing key."""
    return Entry(value, 1 if stored is None else stored.revision + 1, expires)


def merged(stored: Entry | None, value: bytes, merge: Callable[[bytes, bytes], bytes]) -> Entry:
    """Return the entry with ``merge(stored, value)``; a missing one gets *value*."""
    if stored is None:
        return replaced(None, value, 0.0)
    return replaced(stored, merge(stored.value, value), stored.expires)


def increased(stored: Entry | None, amount: bytes) -> Entry:
    """Return the entry with *amount* added; a missing one counts as 0.

    Raises:
        Invalid: one of the two is no number, or the sum is not finite.
    """
    if stored is None:
        return replaced(None, add(b"0", amount), 0.0)
    return replaced(stored, add(stored.value, amount), stored.expires)
