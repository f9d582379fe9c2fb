"""Changes that depend on what is stored in a way that only Python knows: compare and swap.

The new value is computed here from the entry that was read, and written only if
that is still the entry; else Redis answers with the present one, and it is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha1
from typing import Any

import attrs

from broker.errors import RateLimited
from broker.messages import Entry, Quota, encode_text
from broker.redis.batcher import Operation

NOT_READ: Any = object()
OVER_QUOTA, FULL = -1, -2  # what verbs return when they refuse to create, or to add


def decode_entry(stored: bytes) -> Entry:
    """Return the entry that Redis holds as *stored*."""
    revision, expires, value = stored.split(b" ", 2)
    return Entry(value, int(revision), float(expires))


def encode_entry(entry: Entry) -> bytes:
    """Return *entry* as Redis holds it: revision, expiry and value, with a blank between them."""
    return b"%d %b %b" % (entry.revision, repr(entry.expires).encode(), entry.value)


def over_quota(quota: Quota | None) -> RateLimited:
    """Return the refusal of what would be one more than *quota* allows."""
    return RateLimited("limit", "" if quota is None else quota.kind)


@attrs.define(eq=False)
class Append(Operation):
    """Appends to a log, as to one that exists; if it does not, the script stops, and it is begun.

    Attributes:
        quota: what a new log counts against.
    """

    quota: Quota | None = None

    def found(self, state: Any) -> None:
        """Notice that the log does not exist, or not any more."""
        self.words = (b"open", *self.words[1:], self.quota.words if self.quota else b"")


class CompareAndSwap(Operation):
    """Replaces the entry of a key by what a function makes of it.

    Args:
        space: of the key.
        key: which one.
        change: returns the new entry for the present one, or for None; may raise.
        size: the bytes that it carries.
        quota: what a new key counts against.
    """

    chained = True

    def __init__(
        self,
        space: str,
        key: str,
        change: Callable[[Entry | None], Entry],
        size: int = 0,
        quota: Quota | None = None,
    ) -> None:
        super().__init__((), self._outcome, size)
        self._quota = quota
        self._place = (encode_text(space), encode_text(key))
        self._change = change
        self._present: bytes | None = NOT_READ
        self._made: Entry | Exception = AssertionError("nothing was made yet")

    def peek(self) -> Sequence[bytes]:
        """Ask for the present entry."""
        return (b"get", *self._place)

    def found(self, state: bytes | None) -> None:
        """Take the present entry as Redis holds it, None for a missing key."""
        self._present = state

    def follow(self, before: dict[Any, Any]) -> None:
        """Build on what changes of the same key *before* it will have made."""
        present = self._present = before.get(self._place, self._present)
        digest = b"" if present is None else sha1(present).hexdigest().encode()
        try:
            made = self._made = self._change(None if present is None else decode_entry(present))
        except Exception as error:
            # It has failed only if it was given what is there.
            self._made = error
            self.words = (b"same", *self._place, digest)
            before[self._place] = present
        else:
            stored = before[self._place] = encode_entry(made)
            expires, quota = repr(made.expires).encode(), self._quota.words if self._quota else b""
            self.words = (b"swap", *self._place, digest, stored, expires, quota)

    def _outcome(self, result: Any) -> Entry:
        if result == OVER_QUOTA:
            raise over_quota(self._quota)
        if isinstance(self._made, Exception):
            raise self._made
        return self._made


class Increment(CompareAndSwap):
    """Adds a small whole number, which Redis does by itself unless the stored one is another kind of number."""

    def __init__(
        self,
        space: str,
        key: str,
        amount: bytes,
        change: Callable[[Entry | None], Entry],
        quota: Quota | None = None,
    ) -> None:
        super().__init__(space, key, change, quota=quota)
        self.words = (b"add", *self._place, amount, quota.words if quota else b"")

    def peek(self) -> Sequence[bytes]:
        """Return no words: Redis adds without a look."""
        return ()

    def follow(self, before: dict[Any, Any]) -> None:
        """Compute the sum here once Redis could not."""
        if self._present is not NOT_READ:
            super().follow(before)

    def _outcome(self, result: Any) -> Entry:
        if self._present is NOT_READ and result != OVER_QUOTA:
            return decode_entry(result)
        return super()._outcome(result)
