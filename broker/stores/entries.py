"""What happens to one stored key, the same in every store."""

from __future__ import annotations

from broker.errors import Conflict
from broker.messages import Entry
from broker.stores.numbers import add

# Seconds for which sweeping leaves an expired key to ``IStore.expired``.
GRACE = 3600.0


def alive(entry: Entry | None, now: float) -> Entry | None:
    """Return *entry* unless its time has come."""
    if entry is None or 0 < entry.expires <= now:
        return None
    return entry


def check_revision(stored: Entry | None, revision: int | None, key: str) -> None:
    """Raise ``Conflict`` unless *revision* is None or the stored one, 0 for none."""
    if revision is not None and revision != (0 if stored is None else stored.revision):
        raise Conflict("revision", key)


def replaced(stored: Entry | None, value: bytes, expires: float) -> Entry:
    """Return the entry after *stored*, or the first one of a missing key."""
    return Entry(value, 1 if stored is None else stored.revision + 1, expires)


def increased(stored: Entry | None, amount: bytes) -> Entry:
    """Return the entry with *amount* added; a missing one counts as 0.

    Raises:
        Invalid: one of the two is no number, or the sum is not finite.
    """
    if stored is None:
        return replaced(None, add(b"0", amount), 0.0)
    return replaced(stored, add(stored.value, amount), stored.expires)
