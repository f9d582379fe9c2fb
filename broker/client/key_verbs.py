"""Reading and writing keys."""

from __future__ import annotations

import attrs
import msgspec

from broker.client import wire
from broker.client.base_verbs import BaseVerbs
from broker.client.outcomes import Operation
from broker.client.values import Entry
from broker.client.wire import options


class _Entries(msgspec.Struct):
    entries: list[Entry]


class _Deleted(msgspec.Struct):
    deleted: bool


_entry = wire.reader(Entry)
_entries = wire.reader(_Entries)
_deleted = wire.reader(_Deleted)


@attrs.define(eq=False)
class KeyVerbs(BaseVerbs):
    """Of keys."""

    def get(self, key: str) -> Operation[Entry]:
        """Read a key."""
        return self.core.ask("broker.get", [key], _entry, again=True)

    def set(self, key: str, value: str, *, ttl: float | None = None, revision: int | None = None) -> Operation[Entry]:
        """Create or replace a key, if *revision* is the stored one (0: there is none), else ``Conflict``."""
        given = options(ttl=ttl, revision=revision)
        return self.core.ask("broker.set", [key, value, *given], _entry)

    def patch(self, key: str, value: str) -> Operation[Entry]:
        """Merge an object into a key's object, one level deep, or append to another value."""
        return self.core.ask("broker.patch", [key, value], _entry)

    def increment(self, key: str, amount: float = 1) -> Operation[Entry]:
        """Add a number to a key."""
        return self.core.ask("broker.increment", [key, amount], _entry)

    def delete(self, key: str, *, revision: int | None = None) -> Operation[bool]:
        """Remove a key; ends with whether it was there."""
        given = options(revision=revision)
        return self.core.ask("broker.delete", [key, *given], lambda data: _deleted(data).deleted)

    def range(self, first: str, last: str, *, limit: int | None = None) -> Operation[list[Entry]]:
        """Read the keys from *first* to *last*, both included."""
        given = options(limit=limit)
        return self.core.ask("broker.range", [first, last, *given], lambda data: _entries(data).entries, again=True)
