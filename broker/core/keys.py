"""Keys and values, and the events of their changes.

A change of key ``K`` is an event on topic ``kv/K``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Protocol, TypeVar

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from broker.errors import Invalid, TooLarge
from broker.interfaces import IBus, IStore
from broker.jsontext import members, object_text
from broker.messages import MAX_EXPIRY, MAX_ID, Entry, Event
from broker.patterns import KEY_PREFIX

SPACE = "kv"
ENTRIES_PER_READ = 64  # entries read at once, since each may be as large as a message
YIELD_AFTER = 1024  # entries filtered before the reactor gets to other work
MAX_SLICE = 0.01  # seconds of filtering before it does, since a predicate may be slow

T = TypeVar("T")

_encode = msgspec.json.Encoder().encode


class Watcher(Protocol):
    """What keys need of a peer."""

    def on_event(self, event: Event, pattern: str) -> None:
        """Hand *event* to the client; never raises."""


Predicate = Callable[[str], bool]


def merge(stored: bytes, patch: bytes) -> bytes:
    """Return *stored* changed by *patch*.

    Two JSON objects are merged one level deep into compact JSON, old members
    first, numbers and strings as they were written; anything else is appended.
    """
    try:
        merged = object_text({**members(stored), **members(patch)})
    except Invalid:
        return stored + patch
    try:
        return msgspec.json.format(merged, indent=-1)
    except msgspec.DecodeError:  # a lone surrogate, see ``jsontext``
        return merged


def bounded_merge(stored: bytes, patch: bytes, *, max_bytes: int) -> bytes:
    """Return ``merge(stored, patch)``.

    Raises:
        TooLarge: it would have more than *max_bytes* bytes.
    """
    merged = merge(stored, patch)
    if len(merged) > max_bytes:
        raise TooLarge("value")
    return merged


class Keys:
    """Reads and changes keys and notifies the watchers.

    Args:
        store: keeps the keys.
        bus: listens to the topics of what is watched.
        publish: called with the event of each change; between nodes, it returns
            a Deferred that fires when the event is on its way, or lost.
        clock: gives the time of a change.
        max_bytes: of a value.
    """

    def __init__(
        self,
        store: IStore,
        bus: IBus,
        publish: Callable[[Event], Any],
        clock: IReactorTime,
        max_bytes: int = 1 << 20,
    ) -> None:
        self._store, self._bus, self._publish, self._clock = store, bus, publish, clock
        self._max_bytes = max_bytes
        self._merge = partial(bounded_merge, max_bytes=max_bytes)
        self._watchers: dict[str, dict[Watcher, None]] = {}
        self._predicates: dict[Predicate, dict[Watcher, None]] = {}
        self._watched: dict[Watcher, tuple[tuple[str, ...], Predicate | None]] = {}

    def get(self, key: str) -> Deferred[Entry | None]:
        """Return the entry of *key*, or None."""
        return self._store.get(SPACE, key)

    async def range(
        self, first: str, last: str, limit: int, *, predicate: Predicate | None = None, max_bytes: int = 0
    ) -> list[tuple[str, Entry]]:
        """Return entries with first <= key <= last, in the order of their UTF-8 bytes.

        Args:
            first: the lower bound.
            last: the upper bound.
            limit: how many entries at most.
            predicate: says which keys count; None: all.
            max_bytes: bytes of keys and values with which no more are read; the last
                entry may be beyond them, and two are returned however long
                they are; 0: any number.
        """
        found: list[tuple[str, Entry]] = []
        size = seen = 0
        now = self._clock.seconds
        slice_end = now() + MAX_SLICE
        while len(found) < limit:
            entries = await self._store.range(SPACE, first, last, ENTRIES_PER_READ)
            for key, entry in entries:
                seen += 1
                if predicate is not None and (now() >= slice_end or seen % YIELD_AFTER == 0):
                    await deferLater(self._clock, 0)
                    slice_end = now() + MAX_SLICE
                if predicate is None or predicate(key):
                    found.append((key, entry))
                    size += len(key) + len(entry.value)
                    if len(found) == limit or (0 < max_bytes < size and len(found) > 1):
                        return found
            if len(entries) < ENTRIES_PER_READ:
                break
            first = entries[-1][0] + "\0"  # the next key there can be
        return found

    def set(
        self, key: str, value: bytes, *, revision: int | None = None, expires: float = 0.0, origin: str = ""
    ) -> Deferred[Entry]:
        """Create or replace *key*; see ``IStore.set``."""
        if not 0 <= expires <= MAX_EXPIRY:
            return fail(Invalid("expires"))
        if revision is not None and not 0 <= revision <= MAX_ID:
            return fail(Invalid("revision"))
        if len(value) > self._max_bytes:
            return fail(TooLarge("value", key))
        changed = self._store.set(SPACE, key, value, revision=revision, expires=expires)
        return self._announced(changed, key, "set", origin)

    def patch(self, key: str, value: bytes, *, origin: str = "") -> Deferred[Entry]:
        """Merge *value* into *key* in one step; see :func:`merge`."""
        if len(value) > self._max_bytes:
            return fail(TooLarge("value", key))
        return self._announced(self._store.patch(SPACE, key, value, self._merge), key, "set", origin)

    def increment(self, key: str, amount: bytes, *, origin: str = "") -> Deferred[Entry]:
        """Add *amount* in one step; see ``IStore.increment``."""
        return self._announced(self._store.increment(SPACE, key, amount), key, "set", origin)

    def delete(self, key: str, *, revision: int | None = None, origin: str = "") -> Deferred[bool]:
        """Remove *key*; say whether it was there."""
        if revision is not None and not 0 <= revision <= MAX_ID:
            return fail(Invalid("revision"))
        return self._announced(self._store.delete(SPACE, key, revision=revision), key, "delete", origin)

    async def expire(self, limit: int = 1000) -> int:
        """Remove expired keys and announce them; return how many there were."""
        keys = await self._store.expired(SPACE, limit)
        for key in keys:
            self._publish(self._event(key, "expired", None, ""))
        return len(keys)

    def watch(self, watcher: Watcher, predicate: Predicate | None = None, names: Iterable[str] = ()) -> None:
        """Deliver to *watcher* the changes of the keys *names* and of all for which *predicate* holds.

        It replaces what *watcher* watched before.  One *predicate* is
        asked once for all who share it.
        """
        self.unwatch(watcher)
        names = tuple(names)
        self._watched[watcher] = names, predicate
        for name in names:
            self._bus.listen(KEY_PREFIX + name)
            self._watchers.setdefault(name, {})[watcher] = None
        if predicate is not None:
            self._bus.listen(KEY_PREFIX, prefix=True)
            self._predicates.setdefault(predicate, {})[watcher] = None

    def unwatch(self, watcher: Watcher) -> None:
        """Undo ``watch``; a no-op without one."""
        names, predicate = self._watched.pop(watcher, ((), None))
        for name in names:
            self._bus.forget(KEY_PREFIX + name)
            _drop(self._watchers, name, watcher)
        if predicate is not None:
            self._bus.forget(KEY_PREFIX, prefix=True)
            _drop(self._predicates, predicate, watcher)

    def arrived(self, event: Event) -> None:
        """Hand the change of a key to those who watch it, once each."""
        key = event.topic[len(KEY_PREFIX) :]
        by_name = self._watchers.get(key)
        watchers = dict(by_name) if by_name else {}
        for predicate, matching in self._predicates.items():
            if predicate(key):
                watchers.update(matching)
        for watcher in watchers:
            watcher.on_event(event, "")

    def _announced(self, changed: Deferred, key: str, name: str, origin: str) -> Deferred:  # type: ignore[type-arg]
        answer: Deferred = Deferred()  # type: ignore[type-arg]

        def done(result: Entry | bool) -> None:
            value = result.value if isinstance(result, Entry) else None
            if result and self._bus.shared:
                # Who reads the key after this answer, on whatever node, must not get the event of the change any more.
                sent = self._publish(self._event(key, name, value, origin))
                sent.addBoth(lambda _: answer.callback(result))
                return
            # The writer gets its answer before the event of the change.
            answer.callback(result)
            if result:
                self._publish(self._event(key, name, value, origin))

        changed.addCallbacks(done, answer.errback)
        return answer

    def _event(self, key: str, name: str, value: bytes | None, origin: str) -> Event:
        now = self._clock.seconds()
        text = None if value is None else value.decode("utf-8", "replace")
        body = _encode({"key": key, "value": text, "timestamp": int(now * 1000)})
        return Event(KEY_PREFIX + key, name, body, time=now, origin=origin)


def _drop(table: dict[T, dict[Watcher, None]], key: T, watcher: Watcher) -> None:
    watchers = table.get(key)
    if watchers is not None:
        watchers.pop(watcher, None)
        if not watchers:
            del table[key]
