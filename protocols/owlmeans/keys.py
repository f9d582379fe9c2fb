"""The reserved methods for keys: beyond get and set, times to live, revisions and watches.

A value is a string; a change of key ``K`` is an event on topic ``kv/K``.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING

import msgspec

from broker.errors import Invalid, TooLarge
from broker.messages import Entry
from broker.patterns import check_name, check_pattern, is_pattern, matches
from protocols.owlmeans.method import Answer, Method, Options
from protocols.owlmeans.watches import TOPIC
from protocols.owlmeans.wire import milliseconds

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session

LAST = "\U0010ffff"  # nothing sorts after it
MAX_ENTRIES = 1000  # of one answer
MAX_PAGE_BYTES = 1 << 19  # bytes of one answer after which it ends


class Condition(Options):
    """``revision``: only if that is the stored one; 0: only if there is none."""

    revision: int | None = None


class Lifetime(Condition):
    """``ttl``: seconds after which the key goes by itself."""

    ttl: float | None = None


class Limit(Options):
    """``limit``: how many entries at most."""

    limit: int = 100


class Get(Method):
    """Read a key."""

    called = "broker.get"
    key: str

    async def run(self, session: Session) -> Answer:
        """Answer with value and revision; a missing key has the value null and the revision 0."""
        return _entry(self.key, await session.peer.get(_checked(self.key)))


class Set(Method):
    """Create or replace a key."""

    called = "broker.set"
    key: str
    value: str
    options: Lifetime | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the new revision."""
        options = self.options or Lifetime()
        expires = 0.0
        if options.ttl is not None:
            if not options.ttl > 0:
                raise Invalid("ttl")
            expires = session.clock.seconds() + options.ttl
        value = self.value.encode()
        entry = await session.peer.set(_checked(self.key), value, revision=_revision(options), expires=expires)
        return {"key": self.key, "revision": entry.revision}


class Patch(Method):
    """Merge an object into a key's object, one level deep, or append to another value."""

    called = "broker.patch"
    key: str
    value: str

    async def run(self, session: Session) -> Answer:
        """Answer with the new value and revision."""
        return _entry(self.key, await session.peer.patch(_checked(self.key), self.value.encode()))


class Increment(Method):
    """Add a number to a key; a missing one counts as 0."""

    called = "broker.increment"
    key: str
    amount: msgspec.Raw = msgspec.Raw(b"1")

    async def run(self, session: Session) -> Answer:
        """Answer with the new value and revision."""
        amount = bytes(self.amount)
        if amount[:1] not in b"-0123456789":
            raise Invalid("amount")
        return _entry(self.key, await session.peer.increment(_checked(self.key), amount))


class Delete(Method):
    """Remove a key."""

    called = "broker.delete"
    key: str
    options: Condition | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with whether it was there."""
        revision = _revision(self.options or Condition())
        return {"key": self.key, "deleted": await session.peer.delete(_checked(self.key), revision=revision)}


class Range(Method):
    """Read the keys from *first* to *last*, both included, in the order of their UTF-8 bytes."""

    called = "broker.range"
    first: str
    last: str
    options: Limit | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the entries, and with whether there may be more."""
        limit = (self.options or Limit()).limit
        if not 0 < limit <= MAX_ENTRIES:
            raise Invalid("limit")
        found = await session.peer.range(self.first, self.last, limit + 1, max_bytes=MAX_PAGE_BYTES)
        more = len(found) > limit or _size(found) > MAX_PAGE_BYTES
        return {"entries": [_entry(key, entry) for key, entry in found[:limit]], "more": more}


class Watch(Method):
    """Hear the changes of a key, or of all keys that match a pattern, from what is there now on.

    Changes come as events named ``kv/<pattern>``, one's own changes included.
    """

    called = "broker.watch"
    pattern: str

    async def run(self, session: Session) -> Answer:
        """Answer with the present entries; the changes come after them."""
        pattern = check_pattern(self.pattern)
        first, last = _bounds(pattern)
        fresh = session.watches.begin(pattern)
        try:
            # Watching before reading: a change in between must not be missed.
            await session.peer.listening()
            found = await session.peer.range(
                first, last, MAX_ENTRIES + 1, predicate=lambda key: matches(pattern, key), max_bytes=MAX_PAGE_BYTES
            )
            if len(found) > MAX_ENTRIES or _size(found) > MAX_PAGE_BYTES:
                raise TooLarge("snapshot", pattern)
        except BaseException:  # cancelled, too
            if fresh:
                session.watches.end(pattern)
            else:
                session.watches.go_on(pattern)
            raise
        return {"watching": session.watches.patterns, "entries": [_entry(key, entry) for key, entry in found]}

    def sent(self, session: Session) -> None:
        """Let the changes follow."""
        session.watches.go_on(self.pattern)


class Unwatch(Method):
    """Hear the changes of a key or a pattern no more."""

    called = "broker.unwatch"
    pattern: str

    async def run(self, session: Session) -> Answer:
        """Answer with the patterns that are left."""
        session.watches.end(self.pattern)
        return {"watching": session.watches.patterns}


def _checked(key: str) -> str:
    check_name(key, "key")
    check_name(TOPIC + key, "key")
    return key


def _revision(options: Condition) -> int | None:
    if options.revision is not None and options.revision < 0:
        raise Invalid("revision")
    return options.revision


def _entry(key: str, entry: Entry | None) -> Answer:
    if entry is None:
        return {"key": key, "value": None, "revision": 0}
    answer = {"key": key, "value": entry.value.decode("utf-8", "replace"), "revision": entry.revision}
    return {**answer, "expires": milliseconds(entry.expires)} if entry.expires else answer


def _size(entries: list[tuple[str, Entry]]) -> int:
    return sum(len(key) + len(entry.value) for key, entry in entries)


def _bounds(pattern: str) -> tuple[str, str]:
    """Return the first and the last key that *pattern* could match."""
    if not is_pattern(pattern):
        return pattern, pattern
    fixed = "".join(f"{token}." for token in takewhile(lambda token: token not in ("*", ">"), pattern.split(".")))
    return fixed, fixed + LAST


METHODS = (Get, Set, Patch, Increment, Delete, Range, Watch, Unwatch)
