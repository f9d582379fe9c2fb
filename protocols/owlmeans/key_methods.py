"""The reserved methods of keys.

The value of a key is a string; a change of key ``K`` is an event on topic ``kv/K``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from broker.errors import Invalid
from broker.messages import MAX_EXPIRY, MAX_ID
from broker.patterns import check_key, check_pattern
from protocols.owlmeans.methods import Answer, Method, Options
from protocols.owlmeans.watches import MAX_ANSWER_BYTES, MAX_ENTRIES, size_of
from protocols.owlmeans.wire import entry_of

if TYPE_CHECKING:
    from protocols.owlmeans.session import Session


class Condition(Options):
    """``revision``: only if that is the stored one; 0: only if there is none."""

    revision: int | None = None


class Lifetime(Condition):
    """``ttl``: seconds after which the key expires."""

    ttl: float | None = None


class Limit(Options):
    """``limit``: how many entries at most."""

    limit: int = 100


class Get(Method):
    """Read a key."""

    called = "get"
    key: str

    async def run(self, session: Session) -> Answer:
        """Answer with value and revision; a missing key has the value null and the revision 0."""
        return entry_of(self.key, await session.peer.get(check_key(self.key)))


class Set(Method):
    """Create or replace a key."""

    called = "set"
    key: str
    value: str
    options: Lifetime | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the new revision."""
        options = self.options or Lifetime()
        expires = 0.0
        if options.ttl is not None:
            expires = session.peer.wall.time() + options.ttl
            if not (options.ttl > 0 and expires <= MAX_EXPIRY):
                raise Invalid("ttl")
        value = self.value.encode()
        entry = await session.peer.set(check_key(self.key), value, revision=_revision(options), expires=expires)
        return {"key": self.key, "revision": entry.revision}


class Patch(Method):
    """Merge an object into a key's object, one level deep, or append to another value."""

    called = "patch"
    key: str
    value: str

    async def run(self, session: Session) -> Answer:
        """Answer with the new value and revision."""
        return entry_of(self.key, await session.peer.patch(check_key(self.key), self.value.encode()))


class Increment(Method):
    """Add a number to a key; a missing one counts as 0."""

    called = "increment"
    key: str
    amount: msgspec.Raw = msgspec.Raw(b"1")

    async def run(self, session: Session) -> Answer:
        """Answer with the new value and revision."""
        amount = bytes(self.amount)
        if amount[:1] not in b"-0123456789":
            raise Invalid("amount")
        return entry_of(self.key, await session.peer.increment(check_key(self.key), amount))


class Delete(Method):
    """Remove a key."""

    called = "delete"
    key: str
    options: Condition | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with whether it was there."""
        revision = _revision(self.options or Condition())
        return {"key": self.key, "deleted": await session.peer.delete(check_key(self.key), revision=revision)}


class Range(Method):
    """Read the keys from *first* to *last*, both included, in the order of their UTF-8 bytes."""

    called = "range"
    first: str
    last: str
    options: Limit | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the entries, and with whether there may be more."""
        limit = (self.options or Limit()).limit
        if not 0 < limit <= MAX_ENTRIES:
            raise Invalid("limit")
        found = await session.peer.range(self.first, self.last, limit + 1, max_bytes=MAX_ANSWER_BYTES)
        more = len(found) > limit or size_of(found) > MAX_ANSWER_BYTES
        return {"entries": [entry_of(key, entry) for key, entry in found[:limit]], "more": more}


class Moment(Options):
    """A revision of an epoch; ``broker.watch`` goes on after it."""

    epoch: str
    revision: int


class WatchOptions(Options):
    """What who watches wants.

    Attributes:
        since: ``from``: the changes after it that are still known, in the place of the present entries.
        previous: the values before the changes, too.
        exact: wildcards to be ordinary characters.
    """

    since: Moment | None = msgspec.field(name="from", default=None)
    previous: bool = False
    exact: bool = False


class Watch(Method):
    """Get the changes of a key, or of all keys that match a pattern, from the present entries or from a revision on.

    Changes come as events named ``kv/<pattern>``, one's own changes included.
    """

    called = "watch"
    pattern: str
    options: WatchOptions | None = None

    async def run(self, session: Session) -> Answer:
        """Answer with the present entries, or with none if the changes from a revision on follow."""
        options = self.options or WatchOptions()
        check_key(self.pattern) if options.exact else check_pattern(self.pattern)
        since = None if options.since is None else (options.since.epoch, options.since.revision)
        start = await session.watches.begin(self.pattern, exact=options.exact, previous=options.previous, since=since)
        return {
            "watching": session.watches.patterns,
            "entries": [entry_of(key, entry) for key, entry in start.entries],
            "epoch": start.epoch,
            "revision": start.revision,
            "snapshot": start.snapshot,
        }

    def sent(self, session: Session) -> None:
        """Let the changes follow."""
        session.watches.go_on(self.pattern)


class Unwatch(Method):
    """Undo the watch of a key or a pattern; a no-op without one."""

    called = "unwatch"
    pattern: str

    async def run(self, session: Session) -> Answer:
        """Answer with the patterns that are left."""
        session.watches.end(self.pattern)
        return {"watching": session.watches.patterns}


def _revision(options: Condition) -> int | None:
    if options.revision is not None and not 0 <= options.revision <= MAX_ID:
        raise Invalid("revision")
    return options.revision


KEY_METHODS = (Get, Set, Patch, Increment, Delete, Range, Watch, Unwatch)
