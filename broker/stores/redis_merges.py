"""Changes of a key that depend on its value in a way that only Python knows.

The new value is computed here from the entry that was found, and written only if
that is still the entry; else Redis says what it has found, and it is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any

from broker.messages import Entry
from broker.redis.batches import Operation
from broker.redis.events import pack

UNKNOWN: Any = object()


def entry_of(stored: bytes) -> Entry:
    """Return the entry that Redis holds."""
    revision, expires, value = stored.split(b" ", 2)
    return Entry(value, int(revision), float(expires))


def stored_of(entry: Entry) -> bytes:
    """Return *entry* as Redis holds it."""
    return b"%d %b %b" % (entry.revision, repr(entry.expires).encode(), entry.value)


class Merge(Operation):
    """Replaces the entry of a key by what a function makes of it.

    Args:
        space: of the key.
        key: which one.
        change: makes the new entry of the present one, or None; may raise.
        size: the bytes that it carries.
    """

    chained = True

    def __init__(self, space: str, key: str, change: Callable[[Entry | None], Entry], size: int = 0) -> None:
        super().__init__((), self._outcome, size)
        self._place = (pack(space), pack(key))
        self._change = change
        self._known: bytes | None = UNKNOWN
        self._made: Entry | Exception = AssertionError("nothing was made yet")

    def peek(self) -> Sequence[bytes]:
        """Ask for the present entry."""
        return (b"get", *self._place)

    def found(self, state: bytes | None) -> None:
        """Take the entry that there is."""
        self._known = state

    def follow(self, before: dict[Any, Any]) -> None:
        """Build on what changes of the same key *before* it will have made."""
        known = self._known = before.get(self._place, self._known)
        digest = b"" if known is None else sha1(known).hexdigest().encode()
        try:
            made = self._made = self._change(None if known is None else entry_of(known))
        except Exception as error:
            # It has failed only if it was given what is there.
            self._made = error
            self.words = (b"same", *self._place, digest)
            before[self._place] = known
        else:
            stored = before[self._place] = stored_of(made)
            self.words = (b"swap", *self._place, digest, stored, repr(made.expires).encode())

    def _outcome(self, _: Any) -> Entry:
        if isinstance(self._made, Exception):
            raise self._made
        return self._made


class Addition(Merge):
    """Adds a small whole number, which Redis does by itself unless the stored one is another kind of number."""

    def __init__(self, space: str, key: str, amount: bytes, change: Callable[[Entry | None], Entry]) -> None:
        super().__init__(space, key, change)
        self.words = (b"add", *self._place, amount)

    def peek(self) -> Sequence[bytes]:
        """Ask nothing."""
        return ()

    def follow(self, before: dict[Any, Any]) -> None:
        """Compute the sum here once Redis could not."""
        if self._known is not UNKNOWN:
            super().follow(before)

    def _outcome(self, result: Any) -> Entry:
        return entry_of(result) if self._known is UNKNOWN else super()._outcome(result)
