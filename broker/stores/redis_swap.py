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
from broker.messages import NO_VALUE, VALUE, Entry, Quota, encode_text
from broker.redis.chains import LEFT, NOT_KNOWN, Computed
from broker.redis.operations import Operation
from broker.stores.entries import Content
from broker.stores.redis_announcements import FOUND, KeyEvent, announced, split

OVER_QUOTA, FULL, CONFLICT = -1, -2, -3  # what verbs return when they refuse to create, or to add
CREATED = b"+"  # before an entry that an increment has created


def decode_entry(stored: bytes) -> Entry:
    """Return the entry that Redis holds as *stored*."""
    revision, expires, value = stored.split(b" ", 2)
    return Entry(value, int(revision), float(expires))


def encode_entry(value: bytes, expires: float) -> bytes:
    """Return an entry as Redis holds it, expiry and value behind the revision, which is 0: Redis gives it another."""
    return b"0 %b %b" % (repr(expires).encode(), value)


def content_of(stored: bytes) -> bytes:
    """Return the entry that Redis holds as *stored*, without the revision."""
    return stored.partition(b" ")[2]


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


@attrs.define(eq=False)
class KeyOperation(Operation):
    """An operation on the key that the first arguments of its verb name, with its space.

    Attributes:
        ahead: how many words are before the verb: those that announce the change.
    """

    ahead: int = 0

    def place(self) -> Hashable:
        """Return space and key."""
        return (self.words[self.ahead + 1], self.words[self.ahead + 2])

    def foresee(self, state: bytes | None) -> Any:
        """Return what a change leaves, unless a quota or a lack of room refuses it."""
        verb, _, _, *words = self.words[self.ahead :]
        if verb not in (b"set", b"delete"):
            return state if self.reads else NOT_KNOWN
        if words[0]:
            revision = 0 if state is None else decode_entry(state).revision
            if state is not None and not revision:
                return NOT_KNOWN
            if int(words[0]) != revision:
                return state
        return b"0 %b %b" % (words[1], words[2]) if verb == b"set" else None


class Range(Operation):
    """Reads keys of a space: what was submitted before it and changes one of them is done before it."""

    __slots__ = ()
    follows_all: ClassVar[bool] = True


class CompareAndSwap(Computed):
    """Replaces the entry of a key by what a function makes of it.

    Args:
        space: of the key.
        key: which one.
        change: returns the new value and expiry for the present entry, or for None; may raise.
        size: the bytes that it carries.
        quota: what a new key counts against.
        event: that of the change, if the script makes it.
    """

    def __init__(
        self,
        space: str,
        key: str,
        change: Callable[[Entry | None], Content],
        size: int = 0,
        quota: Quota | None = None,
        event: KeyEvent | None = None,
    ) -> None:
        super().__init__((), self._outcome, size, origin="" if event is None else event.origin)
        self.chained = True
        self._quota = quota
        self._place = (encode_text(space), encode_text(key))
        self._change = change
        self._event = event
        self._announced: Sequence[bytes] = ()  # the words of that of ``_made``
        self._ids: list[int] = []  # of the event
        self._made: Content | Exception = AssertionError("nothing was made yet")
        self._creates = False  # whether the key is missing before it
        self._revision = 0  # of what was made

    def place(self) -> Hashable:
        """Return space and key."""
        return self._place

    def question(self) -> Sequence[bytes]:
        """Ask for the present entry, or how long it is."""
        return (b"glance", *self._place)

    def make(self, state: bytes | None) -> bytes | None:
        """Return the new entry as Redis holds it."""
        self._announced, self.carried = (), 0
        self._creates = state is None
        try:
            self._made = value, expires = self._change(None if state is None else decode_entry(state))
        except Exception as error:
            # It has failed only if it was given what is there.
            self._made = error
            return state
        if self._event is not None:
            self._announced = self._event.encode(
                value, NO_VALUE if state is None else VALUE + decode_entry(state).value
            )
            self.carried = sum(map(len, self._announced))
        return encode_entry(value, expires)

    def lead(self, followers: Sequence[Computed], before: bytes | None, after: bytes | None) -> None:
        """Swap, or look whether the entry is still that with which they have failed."""
        self.followers = followers
        digest = b"" if before is None else sha1(content_of(before)).hexdigest().encode()
        writers = self._writers()
        if not writers:
            self.words = (b"same", *self._place, digest)
            return
        assert after is not None
        # The first of them creates the key, if it is missing.
        quota = writers[0]._quota
        expires = repr(cast(Content, writers[-1]._made)[1]).encode()
        words = quota.words if quota else b""
        if writers[0]._announced:
            log, kind, *rest = writers[0]._announced
            writers[0]._announced = (log, kind[:1] + FOUND if kind[1:] else kind, *rest)
        swap = (b"swap", *self._place, digest, content_of(after), expires, words, b"%d" % len(writers))
        self.words = announced(swap, [each._announced for each in writers if each._announced])

    def _members(self) -> list[CompareAndSwap]:
        return [self, *cast(Sequence[CompareAndSwap], self.followers)]

    def _writers(self) -> list[CompareAndSwap]:
        return [each for each in self._members() if not isinstance(each._made, Exception)]

    def share(self, result: Any) -> list[Any]:
        """Return *result* for each; only the one that would have created the key is over its quota."""
        members = self._members()
        result, ids = split(result)
        if result != OVER_QUOTA:
            writers = self._writers()
            if type(result) is int:  # else it is an error, for all of them
                for revision, each in enumerate(writers, result - len(writers) + 1):
                    each._revision = revision
            announced = [each for each in writers if each._announced]
            for each, id in zip(announced, ids, strict=False):
                each._ids = [id]
            return [result] * len(members)
        refused = next(index for index, each in enumerate(members) if not isinstance(each._made, Exception))
        return [None] * refused + [result] + [LEFT] * (len(members) - refused - 1)

    def _outcome(self, result: Any) -> Entry:
        if result == OVER_QUOTA:
            raise over_quota(self._quota)
        if isinstance(self._made, Exception):
            raise self._made
        value, expires = self._made
        return self._stored(Entry(value, self._revision, expires, self._creates))

    def _stored(self, entry: Entry) -> Entry:
        """Note the revision of the change that has left *entry*, and the id of its event."""
        if self._event is not None:
            self._event.made(entry.revision, entry.value, self._ids)
        return entry


class Increment(CompareAndSwap):
    """Adds a small whole number, which Redis does by itself unless the stored one is another kind of number."""

    def __init__(
        self,
        space: str,
        key: str,
        amount: bytes,
        change: Callable[[Entry | None], Content],
        quota: Quota | None = None,
        event: KeyEvent | None = None,
    ) -> None:
        super().__init__(space, key, change, 0, quota, event)
        self.chained = False
        verb = (b"add",) if event is None else (b"add_announced", *event.encode_around())
        self.words = (*verb, *self._place, amount, quota.words if quota else b"")

    def found(self, state: Any) -> None:
        """Compute the sum here, since Redis could not; of a long entry, only its length is known then."""
        if type(state) is not int:
            super().found(state)
        self.chained = True

    def make(self, state: bytes | None) -> bytes | None:
        """Compute the sum here, for one before it is computed here."""
        self.chained = True
        return super().make(state)

    def share(self, result: Any) -> list[Any]:
        """Return *result*, and for each of those that it leads, if it was computed here."""
        return super().share(result) if self.chained else [result]

    def _outcome(self, result: Any) -> Entry:
        if self.chained or result == OVER_QUOTA:
            return super()._outcome(result)
        stored, self._ids = split(result)
        entry = decode_entry(stored.removeprefix(CREATED))
        entry.created = stored.startswith(CREATED)
        return self._stored(entry)
