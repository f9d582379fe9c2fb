"""Changes that depend on what is stored in a way that only Python knows: compare and swap.

The new value is computed here from the entry that was read, and written only if
that is still the entry; else Redis answers with the present one, and it is computed again.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from hashlib import sha1
from typing import Any, ClassVar, cast

import attrs

from broker.errors import RateLimited
from broker.messages import Entry, Quota, encode_text
from broker.redis.chains import LEFT, NOT_KNOWN, Computed
from broker.redis.operations import Operation

OVER_QUOTA, FULL, CONFLICT = -1, -2, -3  # what verbs return when they refuse to create, or to add


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


class LogOperation(Operation):
    """An operation on the log that its first argument names."""

    __slots__ = ()

    def place(self) -> Hashable:
        """Return the name of the log."""
        return self.words[1]


@attrs.define(eq=False)
class Append(LogOperation):
    """Appends to a log, as to one that exists; if it does not, the script stops, and it is begun.

    Attributes:
        quota: what a new log counts against.
    """

    quota: Quota | None = None

    passes_reads: ClassVar[bool] = True

    def found(self, state: Any) -> None:
        """Notice that the log does not exist, or not any more."""
        self.words = (b"open", *self.words[1:4], self.quota.words if self.quota else b"")


class KeyOperation(Operation):
    """An operation on the key that its first arguments name, with its space."""

    __slots__ = ()

    def place(self) -> Hashable:
        """Return space and key."""
        return (self.words[1], self.words[2])

    def foresee(self, state: bytes | None) -> Any:
        """Return what a change leaves, unless a quota or a lack of room refuses it."""
        verb, _, _, *words = self.words
        if verb not in (b"set", b"delete"):
            return state if self.reads else NOT_KNOWN
        revision = 0 if state is None else decode_entry(state).revision
        if words[0] and int(words[0]) != revision:
            return state
        return b"%d %b %b" % (revision + 1, words[1], words[2]) if verb == b"set" else None


class CompareAndSwap(Computed):
    """Replaces the entry of a key by what a function makes of it.

    Args:
        space: of the key.
        key: which one.
        change: returns the new entry for the present one, or for None; may raise.
        size: the bytes that it carries.
        quota: what a new key counts against.
    """

    def __init__(
        self,
        space: str,
        key: str,
        change: Callable[[Entry | None], Entry],
        size: int = 0,
        quota: Quota | None = None,
    ) -> None:
        super().__init__((), self._outcome, size)
        self.chained = True
        self._quota = quota
        self._place = (encode_text(space), encode_text(key))
        self._change = change
        self._made: Entry | Exception = AssertionError("nothing was made yet")

    def place(self) -> Hashable:
        """Return space and key."""
        return self._place

    def question(self) -> Sequence[bytes]:
        """Ask for the present entry."""
        return (b"get", *self._place)

    def make(self, state: bytes | None) -> bytes | None:
        """Return the new entry as Redis holds it."""
        try:
            self._made = self._change(None if state is None else decode_entry(state))
        except Exception as error:
            # It has failed only if it was given what is there.
            self._made = error
            return state
        return encode_entry(self._made)

    def lead(self, followers: Sequence[Computed], before: bytes | None, after: bytes | None) -> None:
        """Swap, or look whether the entry is still that with which they have failed."""
        self.followers = followers
        digest = b"" if before is None else sha1(before).hexdigest().encode()
        writers = [each for each in self._members() if isinstance(each._made, Entry)]
        if not writers:
            self.words = (b"same", *self._place, digest)
            return
        assert after is not None
        # The first of them creates the key, if it is missing.
        quota = writers[0]._quota
        expires = repr(cast(Entry, writers[-1]._made).expires).encode()
        self.words = (b"swap", *self._place, digest, after, expires, quota.words if quota else b"")

    def _members(self) -> list[CompareAndSwap]:
        return [self, *cast(Sequence[CompareAndSwap], self.followers)]

    def share(self, result: Any) -> list[Any]:
        """Return *result* for each; only the one that would have created the key is over its quota."""
        members = self._members()
        if result != OVER_QUOTA:
            return [result] * len(members)
        refused = next(index for index, each in enumerate(members) if isinstance(each._made, Entry))
        return [None] * refused + [result] + [LEFT] * (len(members) - refused - 1)

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
        self.chained = False
        self.words = (b"add", *self._place, amount, quota.words if quota else b"")

    def found(self, state: Any) -> None:
        """Compute the sum here, since Redis could not."""
        super().found(state)
        self.chained = True

    def make(self, state: bytes | None) -> bytes | None:
        """Compute the sum here, for one before it is computed here."""
        self.chained = True
        return super().make(state)

    def _outcome(self, result: Any) -> Entry:
        if not self.chained and result != OVER_QUOTA:
            return decode_entry(result)
        return super()._outcome(result)
