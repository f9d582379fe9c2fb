"""The store without a file: for tests, and for what may be lost."""

from __future__ import annotations

import heapq
import secrets
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from broker.interfaces import IStore
from broker.messages import Entry, Event
from broker.stores.entries import EXPIRED_KEPT, alive, check_revision, increased, merged, replaced
from broker.stores.states import NOT_RUNNING, refused

P = ParamSpec("P")
T = TypeVar("T")


@attrs.define(eq=False)
class MemoryLog:
    """The events of one log.

    Attributes:
        rows: of each event the first arguments of ``Event``, from the topic to the id, and its author.
        trimmed: the last id that was trimmed; the first row has the next one.
    """

    rows: list[tuple[str, str, bytes | None, str, float, int, str]] = attrs.field(factory=list)
    trimmed: int = 0

    @property
    def head(self) -> int:
        """The last id that was given, 0 for none."""
        return self.trimmed + len(self.rows)

    def trim(self, upto: int) -> int:
        """Remove the events up to the id *upto*; return how many those were."""
        count = max(0, min(upto, self.head) - self.trimmed)
        del self.rows[:count]
        self.trimmed += count
        return count


class MemorySpace:
    """The keys of one space, by name, in their order and by their expiry."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self._sorted: list[str] = []  # code points sort as their UTF-8 does
        self._due: list[tuple[float, str]] = []  # a heap, also of times that were replaced

    def put(self, key: str, entry: Entry) -> Entry:
        """Set *key* to *entry*, and return that."""
        before = self.entries.get(key)
        if before is None:
            insort(self._sorted, key)
        self.entries[key] = entry
        if entry.expires > 0 and (before is None or before.expires != entry.expires):
            heapq.heappush(self._due, (entry.expires, key))
        return entry

    def remove(self, key: str) -> None:
        """Remove *key*, which exists."""
        del self.entries[key]
        del self._sorted[bisect_left(self._sorted, key)]

    def between(self, first: str, last: str) -> Iterator[str]:
        """Yield the keys from *first* to *last*, both included, in their order."""
        for index in range(bisect_left(self._sorted, first), bisect_right(self._sorted, last)):
            yield self._sorted[index]

    def expire(self, limit: int, now: float) -> list[str]:
        """Remove and return at most *limit* keys that have expired at *now*, the earliest first."""
        keys: list[str] = []
        while self._due and self._due[0][0] <= now and len(keys) < limit:
            when, key = heapq.heappop(self._due)
            entry = self.entries.get(key)
            if entry is not None and entry.expires == when:
                self.remove(key)
                keys.append(key)
        return keys


@implementer(IStore)
class MemoryStore(Service):
    """A store that is empty at each start.

    Args:
        clock: its time is that of events and of expiry.
    """

    shared = False
    announces = False
    description = "memory; everything is lost at the end of the process"

    def __init__(self, clock: IReactorTime) -> None:
        self.epoch = ""
        self.ready = NOT_RUNNING
        self._clock = clock
        self._logs: dict[str, MemoryLog] = {}
        self._spaces: dict[str, MemorySpace] = {}

    def startService(self) -> None:
        """Begin empty."""
        super().startService()
        self.epoch = secrets.token_hex(8)
        self.ready = ""

    def stopService(self) -> None:
        """Forget everything."""
        super().stopService()
        self.ready = NOT_RUNNING
        self._logs.clear()
        self._spaces.clear()

    def append(self, log: str, event: Event) -> Deferred[Event]:
        """See ``IStore.append``."""
        return self._do(self._append, log, event)

    def _append(self, log: str, event: Event) -> Event:
        stored = self._logs.get(log)
        if stored is None:
            stored = self._logs[log] = MemoryLog()
        row = (
            event.topic,
            event.name,
            event.body,
            event.source,
            event.time or self._clock.seconds(),
            stored.head + 1,
        )
        stored.rows.append((*row, event.author))
        return Event(*row, self.epoch, event.origin, event.dialect, event.original, event.author)

    def read(self, log: str, after: int, limit: int) -> Deferred[list[Event]]:
        """See ``IStore.read``."""
        return self._do(self._read, log, after, limit)

    def _read(self, log: str, after: int, limit: int) -> list[Event]:
        stored = self._logs.get(log)
        if stored is None:
            return []
        start = max(0, after - stored.trimmed)
        rows = stored.rows[start : start + max(0, limit)]
        return [Event(*row[:6], self.epoch, author=row[6]) for row in rows]

    def latest(self, log: str, limit: int) -> Deferred[list[Event]]:
        """See ``IStore.latest``."""
        return self._do(lambda: self._read(log, self._head(log) - limit, limit))

    def head(self, log: str) -> Deferred[int]:
        """See ``IStore.head``."""
        return self._do(self._head, log)

    def _head(self, log: str) -> int:
        stored = self._logs.get(log)
        return 0 if stored is None else stored.head

    def trim(self, log: str, upto: int) -> Deferred[None]:
        """See ``IStore.trim``."""
        return self._do(self._trim, log, upto)

    def _trim(self, log: str, upto: int) -> None:
        if log in self._logs:
            self._logs[log].trim(upto)

    def sweep(self, prefix: str, before: float, keep: int) -> Deferred[int]:
        """See ``IStore.sweep``."""
        return self._do(self._sweep, prefix, before, keep)

    def _sweep(self, prefix: str, before: float, keep: int) -> int:
        removed = 0
        for name, log in self._logs.items():
            if name.startswith(prefix):
                removed += log.trim(log.head - keep) if keep > 0 else 0
                # Up to the first young one: taking an old one behind it would leave a hole.
                young = (row[5] for row in log.rows if row[4] >= before)
                removed += log.trim(next(young, log.head + 1) - 1)
        for space in self._spaces.values():
            space.expire(len(space.entries), self._clock.seconds() - EXPIRED_KEPT)
        return removed

    def logs(self, prefix: str, after: str, limit: int) -> Deferred[list[str]]:
        """See ``IStore.logs``."""
        return self._do(lambda: sorted(n for n in self._logs if n.startswith(prefix) and n > after)[: max(0, limit)])

    def get(self, space: str, key: str) -> Deferred[Entry | None]:
        """See ``IStore.get``."""
        return self._do(self._get, space, key)

    def _get(self, space: str, key: str) -> Entry | None:
        return alive(self._space(space).entries.get(key), self._clock.seconds())

    def _space(self, space: str) -> MemorySpace:
        stored = self._spaces.get(space)
        if stored is None:
            stored = self._spaces[space] = MemorySpace()
        return stored

    def set(
        self, space: str, key: str, value: bytes, *, revision: int | None = None, expires: float = 0.0
    ) -> Deferred[Entry]:
        """See ``IStore.set``."""
        return self._do(self._set, space, key, value, revision, expires)

    def _set(self, space: str, key: str, value: bytes, revision: int | None, expires: float) -> Entry:
        stored = self._get(space, key)
        check_revision(stored, revision, key)
        return self._space(space).put(key, replaced(stored, value, expires))

    def delete(self, space: str, key: str, *, revision: int | None = None) -> Deferred[bool]:
        """See ``IStore.delete``."""
        return self._do(self._delete, space, key, revision)

    def _delete(self, space: str, key: str, revision: int | None) -> bool:
        stored = self._get(space, key)
        check_revision(stored, revision, key)
        if stored is None:
            return False
        self._space(space).remove(key)
        return True

    def patch(self, space: str, key: str, value: bytes, merge: Callable[[bytes, bytes], bytes]) -> Deferred[Entry]:
        """See ``IStore.patch``."""
        return self._do(lambda: self._space(space).put(key, merged(self._get(space, key), value, merge)))

    def increment(self, space: str, key: str, amount: bytes) -> Deferred[Entry]:
        """See ``IStore.increment``."""
        return self._do(lambda: self._space(space).put(key, increased(self._get(space, key), amount)))

    def range(self, space: str, first: str, last: str, limit: int) -> Deferred[list[tuple[str, Entry]]]:
        """See ``IStore.range``."""
        return self._do(self._range, space, first, last, limit)

    def _range(self, space: str, first: str, last: str, limit: int) -> list[tuple[str, Entry]]:
        found: list[tuple[str, Entry]] = []
        for key in self._space(space).between(first, last):
            if len(found) >= limit:
                break
            entry = self._get(space, key)
            if entry is not None:
                found.append((key, entry))
        return found

    def expired(self, space: str, limit: int) -> Deferred[list[str]]:
        """See ``IStore.expired``."""
        return self._do(lambda: self._space(space).expire(limit, self._clock.seconds()))

    def _do(self, act: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Deferred[T]:
        """Return the result of *act*, or what it raises, as a Deferred."""
        if self.ready:
            return refused(self.ready)
        return execute(act, *arguments, **named)
