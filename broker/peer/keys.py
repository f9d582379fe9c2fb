"""The verbs of keys."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred

from broker.core.keys import Predicate
from broker.messages import Entry
from broker.patterns import KEY_PREFIX
from broker.peer.client import Client


class KeyVerbs(Client):
    """Read, change and watch keys."""

    __slots__ = ()

    def get(self, key: str) -> Deferred[Entry | None]:
        """Return the entry of *key*, or None."""
        self._allow("read", KEY_PREFIX + key)
        return self._parts.keys.get(key)

    async def range(
        self, first: str, last: str, limit: int, *, predicate: Predicate | None = None, max_bytes: int = 0
    ) -> list[tuple[str, Entry]]:
        """Return the entries with first <= key <= last that it may read; see ``Keys.range``."""
        self._allow("read", KEY_PREFIX + first, check_permission=False)
        return await self._parts.keys.range(
            first, last, limit, predicate=self._may("read", predicate), max_bytes=max_bytes
        )

    def set(self, key: str, value: bytes, *, revision: int | None = None, expires: float = 0.0) -> Deferred[Entry]:
        """Create or replace *key*; *revision* and *expires* as in ``IStore.set``."""
        self._allow("write", KEY_PREFIX + key)
        return self._parts.keys.set(key, value, revision=revision, expires=expires, origin=self.id)

    def patch(self, key: str, value: bytes) -> Deferred[Entry]:
        """Merge *value* into *key* in one step; see ``keys.merge``."""
        self._allow("write", KEY_PREFIX + key)
        return self._parts.keys.patch(key, value, origin=self.id)

    def increment(self, key: str, amount: bytes) -> Deferred[Entry]:
        """Add the decimal number *amount* to *key* in one step."""
        self._allow("write", KEY_PREFIX + key)
        return self._parts.keys.increment(key, amount, origin=self.id)

    def delete(self, key: str, *, revision: int | None = None) -> Deferred[bool]:
        """Remove *key*; fires with whether it was there."""
        self._allow("write", KEY_PREFIX + key)
        return self._parts.keys.delete(key, revision=revision, origin=self.id)

    def watch(self, predicate: Predicate | None = None, names: Iterable[str] = ()) -> None:
        """Get the changes of the keys *names* and of all for which *predicate* holds; once each."""
        self._allow("watch", KEY_PREFIX, rate_limited=False, check_permission=False)
        if self.identity.grants is None:
            self._parts.keys.watch(self, predicate, names)
        else:
            may = self._may("subscribe", predicate)
            self._parts.keys.watch(self, may if predicate else None, filter(self._may("subscribe"), names))

    def unwatch(self) -> None:
        """Undo ``watch``; a no-op without one."""
        self._parts.keys.unwatch(self)
