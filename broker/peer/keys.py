"""The verbs of keys."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred

from broker.core.epochs import epoch_of
from broker.core.keys import Predicate
from broker.core.slices import slices_of
from broker.errors import Invalid
from broker.messages import MAX_ID, Entry, Event, Quota, quota_of
from broker.patterns import BROKER, KEY_PREFIX, check_key, check_pattern, is_key_of_broker, predicate_of
from broker.peer.client import Client

CHANGES_PER_LOOK = 100  # that are compared with a pattern before others may get their turn


class KeyVerbs(Client):
    """Read, change and watch keys."""

    __slots__ = ()

    def get(self, key: str) -> Deferred[Entry | None]:
        """See ``IPeer.get``."""
        self._allow("read", KEY_PREFIX + key)
        return self._parts.keys.get(key)

    async def range(
        self,
        first: str,
        last: str,
        limit: int,
        *,
        predicate: Predicate | None = None,
        max_bytes: int = 0,
        rate_limited: bool = True,
    ) -> list[tuple[str, Entry]]:
        """See ``IPeer.range``."""
        self._allow("read", KEY_PREFIX + first, rate_limited=rate_limited, check_permission=False)
        async with self._reading("read", "range", self._parts.keys.reading):
            return await self._parts.keys.range(
                first, last, limit, predicate=self._may("read", predicate), max_bytes=max_bytes
            )

    def set(self, key: str, value: bytes, *, revision: int | None = None, expires: float = 0.0) -> Deferred[Entry]:
        """See ``IPeer.set``."""
        self._allow("write", KEY_PREFIX + key)
        if key.startswith(BROKER) and is_key_of_broker(key):
            raise self.deny("write", key, "")
        return self._parts.keys.set(key, value, revision=revision, expires=expires, origin=self.id, quota=self._keys())

    def _keys(self) -> Quota:
        return quota_of("keys", self.identity.kind, self.identity.name, self._parts.settings.max_keys)

    def patch(self, key: str, value: bytes) -> Deferred[Entry]:
        """See ``IPeer.patch``."""
        self._allow("write", KEY_PREFIX + key)
        if key.startswith(BROKER) and is_key_of_broker(key):
            raise self.deny("write", key, "")
        return self._parts.keys.patch(key, value, origin=self.id, quota=self._keys())

    def increment(self, key: str, amount: bytes) -> Deferred[Entry]:
        """See ``IPeer.increment``."""
        self._allow("write", KEY_PREFIX + key)
        if key.startswith(BROKER) and is_key_of_broker(key):
            raise self.deny("write", key, "")
        return self._parts.keys.increment(key, amount, origin=self.id, quota=self._keys())

    def delete(self, key: str, *, revision: int | None = None) -> Deferred[bool]:
        """See ``IPeer.delete``."""
        self._allow("write", KEY_PREFIX + key)  # also one that is reserved: an older version may have let it in
        return self._parts.keys.delete(key, revision=revision, origin=self.id)

    def watch(self, predicate: Predicate | None = None, names: Iterable[str] = ()) -> None:
        """See ``IPeer.watch``."""
        self._allow("watch", KEY_PREFIX, rate_limited=False, check_permission=False)
        if self.identity.grants is None:
            self._parts.keys.watch(self, predicate, names)
        else:
            may = self._may("subscribe", predicate)
            self._parts.keys.watch(self, may if predicate else None, filter(self._may("subscribe"), names))

    def watch_pattern(self, pattern: str, *, exact: bool = False) -> None:
        """See ``IPeer.watch_pattern``."""
        self._allow("watch", KEY_PREFIX, rate_limited=False, check_permission=False)
        check_key(pattern) if exact else check_pattern(pattern)
        self._parts.keys.watch_pattern(self, pattern, self._may("subscribe"), exact=exact)

    def unwatch_pattern(self, pattern: str, *, exact: bool = False) -> None:
        """See ``IPeer.unwatch_pattern``."""
        self._parts.keys.unwatch_pattern(self, pattern, exact=exact)

    def revision(self) -> Deferred[int]:
        """See ``IPeer.revision``."""
        self._allow("watch", KEY_PREFIX, rate_limited=False, check_permission=False)
        return self._parts.keys.revision()

    async def keep_changes(self, *, previous: bool = False) -> None:
        """See ``IPeer.keep_changes``."""
        self._allow("watch", KEY_PREFIX, rate_limited=False, check_permission=False)
        await self._parts.keys.keep_changes(self, previous)

    async def changes(self, pattern: str, epoch: str, after: int, *, exact: bool = False) -> list[Event] | None:
        """See ``IPeer.changes``."""
        self._allow("watch", KEY_PREFIX, rate_limited=False, check_permission=False)
        check_key(pattern) if exact else check_pattern(pattern)
        if not 0 <= after <= MAX_ID:
            raise Invalid("from")
        if epoch != await epoch_of(self._parts.store, epoch):
            return None
        async with self._reading("watch", "changes", self._parts.keys.reading_changes):
            found = await self._parts.keys.changes(after)
            if found is None or epoch != self.epoch:
                return None
            return await self._matching(found, predicate_of(pattern, exact=exact))

    async def _matching(self, changes: list[Event], predicate: Predicate) -> list[Event]:
        """Return those of keys for which *predicate* holds, and which it may watch."""
        may, slices = self._may("subscribe", predicate), slices_of(self._parts.clock)
        end = slices.deadline()
        found = []
        for number, change in enumerate(changes, 1):
            if may is None or may(change.topic[len(KEY_PREFIX) :]):
                found.append(change)
            if number % CHANGES_PER_LOOK == 0:
                end = await slices.checked(end)
        return found

    def unwatch(self) -> None:
        """See ``IPeer.unwatch``."""
        self._parts.keys.unwatch(self)
