"""Keys and values, and the events of their changes.

A change of key ``K`` is an event on topic ``kv/K``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from broker.interfaces import IStore
from broker.messages import Entry, Event

SPACE = "kv"
TOPIC = "kv/"

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class Watcher(Protocol):
    """What keys need of a peer."""

    def take(self, event: Event, pattern: str) -> None:
        """Hand *event* to the client; never raises."""


Admits = Callable[[str], bool]


def merge(stored: bytes, patch: bytes) -> bytes:
    """Return *stored* changed by *patch*.

    Two JSON objects are merged one level deep, old members first, each value
    with its exact text; anything else is appended.
    """
    try:
        members, changes = _decode_object(stored), _decode_object(patch)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return stored + patch
    return bytes(_encode({**members, **changes}))


class Keys:
    """Reads and changes keys and tells those who watch.

    Args:
        store: keeps the keys.
        publish: called with the event of each change.
        clock: gives the time of a change.
    """

    def __init__(self, store: IStore, publish: Callable[[Event], object], clock: IReactorTime) -> None:
        self._store, self._publish, self._clock = store, publish, clock
        self._watchers: dict[Watcher, Admits] = {}

    def get(self, key: str) -> Deferred[Entry | None]:
        """Return the entry of *key*, or None."""
        return self._store.get(SPACE, key)

    def range(self, first: str, last: str, limit: int) -> Deferred[list[tuple[str, Entry]]]:
        """Return at most *limit* entries with first <= key <= last, in the order of their UTF-8 bytes."""
        return self._store.range(SPACE, first, last, limit)

    def set(
        self, key: str, value: bytes, *, revision: int | None = None, expires: float = 0.0, origin: str = ""
    ) -> Deferred[Entry]:
        """Create or replace *key*; see ``IStore.set``."""
        changed = self._store.set(SPACE, key, value, revision=revision, expires=expires)
        return self._announced(changed, key, "set", origin)

    def patch(self, key: str, value: bytes, *, origin: str = "") -> Deferred[Entry]:
        """Merge *value* into *key* in one step; see :func:`merge`."""
        return self._announced(self._store.patch(SPACE, key, value, merge), key, "set", origin)

    def increment(self, key: str, amount: bytes, *, origin: str = "") -> Deferred[Entry]:
        """Add *amount* in one step; see ``IStore.increment``."""
        return self._announced(self._store.increment(SPACE, key, amount), key, "set", origin)

    def delete(self, key: str, *, revision: int | None = None, origin: str = "") -> Deferred[bool]:
        """Remove *key*; say whether it was there."""
        return self._announced(self._store.delete(SPACE, key, revision=revision), key, "delete", origin)

    async def expire(self, limit: int = 1000) -> int:
        """Tell of the keys whose time has come; return how many there were."""
        keys = await self._store.expired(SPACE, limit)
        for key in keys:
            self._publish(self._event(key, "expired", None, ""))
        return len(keys)

    def watch(self, watcher: Watcher, admits: Admits) -> None:
        """Let *watcher* hear the changes of every key that *admits* says yes to."""
        self._watchers[watcher] = admits

    def unwatch(self, watcher: Watcher) -> None:
        """Undo ``watch``."""
        self._watchers.pop(watcher, None)

    def arrived(self, event: Event) -> None:
        """Hand the change of a key to those who watch it, once each."""
        key = event.topic[len(TOPIC) :]
        for watcher, admits in list(self._watchers.items()):
            if admits(key):
                watcher.take(event, "")

    def _announced(self, changed: Deferred, key: str, name: str, origin: str) -> Deferred:  # type: ignore[type-arg]
        answer: Deferred = Deferred()  # type: ignore[type-arg]

        def done(result: Entry | bool) -> None:
            # The writer hears of its write before it is notified of it.
            answer.callback(result)
            if result:
                value = result.value if isinstance(result, Entry) else None
                self._publish(self._event(key, name, value, origin))

        changed.addCallbacks(done, answer.errback)
        return answer

    def _event(self, key: str, name: str, value: bytes | None, origin: str) -> Event:
        now = self._clock.seconds()
        text = None if value is None else value.decode("utf-8", "replace")
        body = _encode({"key": key, "value": text, "timestamp": int(now * 1000)})
        return Event(TOPIC + key, name, body, time=now, origin=origin)
