"""The store without a file: for tests, and for what may be lost."""

from __future__ import annotations

import heapq
import secrets
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, ParamSpec, TypeVar

import attrs
from twisted.application.service import Service
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from zope.interface import implementer

from broker.core.clocks import monotonic_time_of, wall_clock_of
from broker.interfaces import IStore, IWallClock
from broker.messages import MAX_TIME, Addition, Announce, Announcement, Entry, Event, Quota, decode_text, encode_text
from broker.patterns import LOG_PREFIX
from broker.stores.additions import First, Plan, add_all
from broker.stores.embedded_jobs import EmbeddedJobs, MemoryJobTables
from broker.stores.entries import ANNOUNCED_SPACES, EXPIRED_KEPT, Content, alive, check_revision, increased, merged
from broker.stores.expiry import Expiry
from broker.stores.revisions import Revisions
from broker.stores.room import ROW_BYTES, Room, check_quota, fits_when_full, floor_group, full_refusal, full_text
from broker.stores.states import NOT_RUNNING, refused

NO_FIRST = (0, 0.0, 0.0)  # what is remembered by an unknown key
SWEEP_STEP = 1000  # logs that are swept before the reactor gets to other work

P = ParamSpec("P")
T = TypeVar("T")


@attrs.define(eq=False)
class MemoryLog:
    """The events of one log.

    Attributes:
        rows: of each event the first arguments of ``Event``, from the topic to the id; its author, content type and
            expiry, and whom it excludes.
        trimmed: the last id that was trimmed; the first row has the next one.
    """

    rows: list[tuple[str, str, bytes | None, str, float, int, str, str, float, tuple[str, ...], bool]] = attrs.field(
        factory=list
    )
    trimmed: int = 0
    owner: Quota | None = None

    @property
    def head(self) -> int:
        """The last id that was given, 0 for none."""
        return self.trimmed + len(self.rows)

    def not_before(self, now: float) -> float:
        """Return *now*, or the time of the last event if that is later."""
        last = self.rows[-1][4] if self.rows else 0.0
        return last if now < last <= MAX_TIME else now

    def trim(self, upto: int) -> list[int]:
        """Remove the events up to the id *upto*; return the sizes of their bodies."""
        count = max(0, min(upto, self.head) - self.trimmed)
        sizes = [len(row[2] or b"") for row in self.rows[:count]]
        del self.rows[:count]
        self.trimmed += count
        return sizes


class MemorySpace:
    """The keys of one space, by name, in their order and by their expiry."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.owners: dict[str, Quota] = {}  # of the keys that count against a quota
        self._sorted: list[str] = []  # code points sort as their UTF-8 does
        self._due: list[tuple[float, str]] = []  # a heap, also of times that were replaced

    def put(self, key: str, entry: Entry) -> None:
        """Set *key* to *entry*."""
        before = self.entries.get(key)
        if before is None:
            insort(self._sorted, key)
        self.entries[key] = entry
        if entry.expires > 0 and (before is None or before.expires != entry.expires):
            heapq.heappush(self._due, (entry.expires, key))
            if len(self._due) > 2 * len(self.entries) + SWEEP_STEP:
                self._due = sorted((there.expires, name) for name, there in self.entries.items() if there.expires > 0)

    def remove(self, key: str) -> None:
        """Remove *key*, which exists."""
        del self.entries[key]
        del self._sorted[bisect_left(self._sorted, key)]

    def between(self, first: str, last: str) -> Iterator[str]:
        """Yield the keys from *first* to *last*, both included, in their order."""
        for index in range(bisect_left(self._sorted, first), bisect_right(self._sorted, last)):
            yield self._sorted[index]

    def due(self, limit: int, after: float, upto: float) -> list[str]:
        """Return at most *limit* keys that expire after *after* and up to *upto*; they are to be removed."""
        keys: list[str] = []
        kept: list[tuple[float, str]] = []
        while self._due and self._due[0][0] <= upto and len(keys) < limit:
            when, key = heapq.heappop(self._due)
            entry = self.entries.get(key)
            if entry is None or entry.expires != when or key in keys[-1:]:
                continue
            if when > after:
                keys.append(key)
            else:
                kept.append((when, key))
        for each in kept:
            heapq.heappush(self._due, each)
        return keys


@implementer(IStore)
class MemoryStore(Service):
    """A store that is empty at each start.

    Args:
        clock: lets others work between the steps of a sweep.
        max_bytes: what it may hold, about; 0: any number.
        wall: its time is that of events and of expiry; by default the one that goes with *clock*.

    Attributes:
        used_bytes: what it holds, about.
    """

    shared = False
    announces = False
    degraded = ""
    description = "memory; everything is lost at the end of the process"

    def __init__(self, clock: IReactorTime, max_bytes: int = 0, wall: IWallClock | None = None) -> None:
        self.epoch = ""
        self.used_bytes = 0
        self.wiped: Callable[[], object] = _ignore
        self._clock = clock
        self.wall = wall or wall_clock_of(clock)
        self._expiry = Expiry(self.wall, monotonic_time_of(clock))
        self._room = Room(max_bytes)
        self._stopped_reason = NOT_RUNNING
        self.jobs = EmbeddedJobs(self._do_jobs, lambda epoch: epoch == self.epoch, lambda work: work())
        self._forget()

    def _forget(self) -> None:
        self._job_tables = MemoryJobTables(self._expiry, self._count_account, self._uncount_account, self._check_room)
        self._logs: dict[str, MemoryLog] = {}
        self._floors: dict[str, int] = {}
        self._spaces: dict[str, MemorySpace] = {}
        self._revisions = Revisions()
        self._counts: dict[str, int] = {}
        # By log and key: id and time of the event, and until when the key counts.
        self._firsts: dict[tuple[str, str], tuple[int, float, float]] = {}
        self.used_bytes = 0

    @property
    def ready(self) -> str:
        """Why writes are not accepted now; "" when they are."""
        if self._stopped_reason:
            return self._stopped_reason
        shortage = self._room.judge(self.used_bytes)
        return full_text(shortage) if shortage else ""

    def startService(self) -> None:
        """Begin empty."""
        super().startService()
        self.epoch = secrets.token_hex(8)
        self._stopped_reason = ""

    def stopService(self) -> None:
        """Forget everything."""
        super().stopService()
        self._stopped_reason = NOT_RUNNING
        self._forget()

    # Room and quotas.

    def _check_room(self) -> None:
        shortage = self._room.judge(self.used_bytes)
        if shortage:
            raise full_refusal(shortage)

    def _count(self, quota: Quota | None) -> None:
        if quota is not None:
            count = self._counts.get(quota.account, 0)
            check_quota(quota, count)
            self._counts[quota.account] = count + 1

    def _uncount(self, quota: Quota | None) -> None:
        if quota is not None:
            self._uncount_account(encode_text(quota.account))

    def _count_account(self, quota: Quota | None) -> bytes | None:
        self._count(quota)
        return None if quota is None else encode_text(quota.account)

    def _uncount_account(self, account: bytes | None) -> None:
        if account is not None:
            name = decode_text(account)
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]

    def _do_jobs(self, verb: Callable[..., Any], arguments: tuple[Any, ...], size: int, reads: bool) -> Deferred[Any]:
        return self._do(self._change_jobs, verb, arguments)

    def _change_jobs(self, verb: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        before = self._job_tables.used_bytes
        try:
            return verb(self._job_tables, *arguments)
        finally:
            self.used_bytes += self._job_tables.used_bytes - before

    # Logs.

    def append(
        self,
        log: str,
        event: Event,
        quota: Quota | None = None,
        head: int | None = None,
        key: str = "",
        key_seconds: float = 0.0,
    ) -> Deferred[Event]:
        """See ``IStore.append``."""
        if head is not None or key:
            return self.append_all([Addition(log, event, quota, head, key)], key_seconds).addCallback(itemgetter(0))
        return self._do(self._append, log, event, quota)

    def _append(self, log: str, event: Event, quota: Quota | None) -> Event:
        self._check_room()
        return self._add(log, event, quota)

    def append_all(self, additions: Sequence[Addition], key_seconds: float = 0.0) -> Deferred[list[Event]]:
        """See ``IStore.append_all``."""
        return self._do(self._append_all, additions, key_seconds)

    def _append_all(self, additions: Sequence[Addition], key_seconds: float) -> list[Event]:
        decisions = Plan(self.epoch, self._found_head, self._first, self._counted).decide(additions)
        if None in decisions:
            self._check_room()
        end = self.wall.time() + key_seconds

        def add(addition: Addition) -> Event:
            event = self._add(addition.log, addition.event, addition.quota)
            if addition.key:
                self._remember(addition.log, addition.key, (event.id, event.time, end))
            return event

        results = add_all(additions, decisions, self.epoch, add)
        self._forget_keys()
        return results

    def _found_head(self, log: str) -> tuple[int, bool]:
        return self._head(log), log in self._logs

    def _first(self, log: str, key: str) -> First | None:
        id, time, end = self._firsts.get((log, key), NO_FIRST)
        return (id, time) if id and not self._expiry.is_over(end) else None

    def _counted(self, quota: Quota) -> int:
        return self._counts.get(quota.account, 0)

    def _remember(self, log: str, key: str, first: tuple[int, float, float]) -> None:
        # Behind all others, also in the place of one that has ended.
        if self._firsts.pop((log, key), None) is None:
            self.used_bytes += ROW_BYTES + len(key)
        self._firsts[log, key] = first

    def _forget_keys(self) -> None:
        """Forget the keys that have ended; those of one setting end in the order in which they came."""
        while self._firsts:
            name, (_, _, end) = next(iter(self._firsts.items()))
            if not self._expiry.is_over(end):
                return
            del self._firsts[name]
            self.used_bytes -= ROW_BYTES + len(name[1])

    def _add(self, log: str, event: Event, quota: Quota | None = None) -> Event:
        size = len(event.body or b"")
        stored = self._logs.get(log)
        if stored is None:
            self._count(quota)
            stored = self._logs[log] = MemoryLog(trimmed=self._floors.get(floor_group(log), 0), owner=quota)
        self.used_bytes += size + ROW_BYTES
        row = (
            event.topic,
            event.name,
            event.body,
            event.source,
            event.time or stored.not_before(self.wall.time()),
            stored.head + 1,
        )
        more = event.author, event.content_type, event.expires
        stored.rows.append((*row, *more, event.exclude, event.binary))
        kept = Event(*row, self.epoch, event.origin, event.dialect, event.original, *more, exclude=event.exclude)
        kept.binary = event.binary
        return kept

    def read(self, log: str, after: int, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """See ``IStore.read``."""
        return self._do(lambda: _cut(self._read(log, after, limit), _body_bytes, max_bytes))

    def _read(self, log: str, after: int, limit: int) -> list[Event]:
        stored = self._logs.get(log)
        if stored is None:
            return []
        start = max(0, after - stored.trimmed)
        rows = stored.rows[start : start + max(0, limit)]
        epoch = self.epoch
        return [Event(*row[:6], epoch, "", "", b"", *row[6:9], exclude=row[9], binary=row[10]) for row in rows]

    def latest(self, log: str, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """See ``IStore.latest``."""
        return self._do(
            lambda: _cut(self._read(log, self._head(log) - limit, limit)[::-1], _body_bytes, max_bytes)[::-1]
        )

    def head(self, log: str) -> Deferred[int]:
        """See ``IStore.head``."""
        return self._do(self._head, log)

    def _head(self, log: str) -> int:
        stored = self._logs.get(log)
        return self._floors.get(floor_group(log), 0) if stored is None else stored.head

    def trim(self, log: str, upto: int) -> Deferred[None]:
        """See ``IStore.trim``."""
        return self._do(self._trim, log, upto)

    def _trim(self, log: str, upto: int) -> None:
        if log in self._logs:
            self._cut(self._logs[log], upto)

    def _cut(self, log: MemoryLog, upto: int) -> int:
        sizes = log.trim(upto)
        self.used_bytes -= sum(sizes) + len(sizes) * ROW_BYTES
        return len(sizes)

    def sweep(self, prefix: str, before: float, keep: int) -> Deferred[int]:
        """See ``IStore.sweep``."""
        return Deferred.fromCoroutine(self._sweep(prefix, before, keep))

    def oldest(self, seconds: float) -> float:
        """See ``IStore.oldest``."""
        return self._expiry.oldest(seconds)

    async def _sweep(self, prefix: str, before: float, keep: int) -> int:
        names = await self._do(lambda: [name for name in self._logs if name.startswith(prefix)])
        removed = 0
        for number, name in enumerate(names, 1):
            removed += self._sweep_log(name, before, keep)
            if number % SWEEP_STEP == 0:
                await deferLater(self._clock, 0)
        for space in set(self._spaces) - ANNOUNCED_SPACES:
            while len(self._expire(space, SWEEP_STEP, 0.0, self.oldest(EXPIRED_KEPT))) == SWEEP_STEP:
                await deferLater(self._clock, 0)
        self._forget_keys()
        return removed

    def _sweep_log(self, name: str, before: float, keep: int) -> int:
        log = self._logs.get(name)
        if log is None:
            return 0
        removed = self._cut(log, log.head - keep) if keep > 0 else 0
        # Up to the first young one: taking an old one behind it would leave a hole.
        young = (row[5] for row in log.rows if before <= row[4] <= MAX_TIME)
        removed += self._cut(log, next(young, log.head + 1) - 1)
        if not log.rows:
            group = floor_group(name)
            self._floors[group] = max(self._floors.get(group, 0), log.head)
            self._uncount(log.owner)
            del self._logs[name]
        return removed

    def logs(self, prefix: str, after: str, limit: int) -> Deferred[list[str]]:
        """See ``IStore.logs``."""
        return self._do(lambda: sorted(n for n in self._logs if n.startswith(prefix) and n > after)[: max(0, limit)])

    def get(self, space: str, key: str) -> Deferred[Entry | None]:
        """See ``IStore.get``."""
        return self._do(self._get, space, key)

    def _get(self, space: str, key: str) -> Entry | None:
        return alive(self._space(space).entries.get(key), self._expiry)

    def _space(self, space: str) -> MemorySpace:
        stored = self._spaces.get(space)
        if stored is None:
            stored = self._spaces[space] = MemorySpace()
        return stored

    def set(
        self,
        space: str,
        key: str,
        value: bytes,
        *,
        revision: int | None = None,
        expires: float = 0.0,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Deferred[Entry]:
        """See ``IStore.set``."""

        def change(stored: Entry | None) -> Content:
            check_revision(stored, revision, key)
            return value, expires

        return self._do(self._announced, announcement, self._change, space, key, change, quota)

    def _announced(self, announcement: Announcement | None, change: Callable[..., T], *arguments: Any) -> T:
        """Make a change of a key, and append its event if that is to be stored."""
        if announcement is None or not announcement.stored:
            return change(announcement, *arguments)
        if change != self._delete:
            self._check_room()
        result = change(announcement, *arguments)
        if result:
            self._store_event(announcement, result.value if isinstance(result, Entry) else None)
        return result

    def _store_event(self, announcement: Announcement, value: bytes | None) -> None:
        event = announcement.event_of(value)
        event.time = 0.0  # the store's, which does not go back
        announcement.event = self._add(LOG_PREFIX + announcement.topic, event)

    def _change(
        self,
        announcement: Announcement | None,
        space: str,
        key: str,
        change: Callable[[Entry | None], Content],
        quota: Quota | None,
    ) -> Entry:
        stored = self._get(space, key)
        value, expires = change(stored)
        if not fits_when_full(space, stored, len(value)):
            self._check_room()
        if stored is None:
            self._remove(space, key)  # one that has expired counts no more
            self._count(quota)
            if quota is not None:
                self._space(space).owners[key] = quota
        self.used_bytes += len(value) - len(stored.value) if stored else len(value) + ROW_BYTES
        entry = Entry(value, self._note(announcement, space, stored), expires)
        self._space(space).put(key, entry)
        return entry if stored else Entry(value, entry.revision, expires, True)

    def _note(self, announcement: Announcement | None, space: str, stored: Entry | None) -> int:
        """Give a change of *stored* its revision."""
        revision = self._revisions.next(space)
        if announcement is not None:
            announcement.made(revision, stored.value if stored else None)
        return revision

    def _remove(self, space: str, key: str) -> None:
        stored = self._space(space).entries.get(key)
        if stored is not None:
            self._space(space).remove(key)
            self._uncount(self._space(space).owners.pop(key, None))
            self.used_bytes -= len(stored.value) + ROW_BYTES

    def delete(
        self, space: str, key: str, *, revision: int | None = None, announcement: Announcement | None = None
    ) -> Deferred[bool]:
        """See ``IStore.delete``."""
        return self._do(self._announced, announcement, self._delete, space, key, revision)

    def _delete(self, announcement: Announcement | None, space: str, key: str, revision: int | None) -> bool:
        stored = self._get(space, key)
        check_revision(stored, revision, key)
        if stored is None:
            return False
        self._note(announcement, space, stored)
        self._remove(space, key)
        return True

    def revision(self, space: str) -> Deferred[int]:
        """See ``IStore.revision``."""
        return self._do(self._revisions.last, space)

    def patch(
        self,
        space: str,
        key: str,
        value: bytes,
        merge: Callable[[bytes, bytes], bytes],
        *,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Deferred[Entry]:
        """See ``IStore.patch``."""
        change = partial(merged, value=value, merge=merge)
        return self._do(self._announced, announcement, self._change, space, key, change, quota)

    def increment(
        self,
        space: str,
        key: str,
        amount: bytes,
        *,
        quota: Quota | None = None,
        announcement: Announcement | None = None,
    ) -> Deferred[Entry]:
        """See ``IStore.increment``."""
        change = partial(increased, amount=amount)
        return self._do(self._announced, announcement, self._change, space, key, change, quota)

    def range(
        self, space: str, first: str, last: str, limit: int, max_bytes: int = 0
    ) -> Deferred[list[tuple[str, Entry]]]:
        """See ``IStore.range``."""
        return self._do(self._range, space, first, last, limit, max_bytes)

    def _range(self, space: str, first: str, last: str, limit: int, max_bytes: int) -> list[tuple[str, Entry]]:
        found: list[tuple[str, Entry]] = []
        size = 0
        for key in self._space(space).between(first, last):
            if len(found) >= limit or 0 < max_bytes <= size:
                break
            entry = self._get(space, key)
            if entry is not None:
                found.append((key, entry))
                size += len(entry.value)
        return found

    def expired(self, space: str, limit: int, announce: Announce | None = None) -> Deferred[list[str]]:
        """See ``IStore.expired``."""
        return self._do(self._expire_announced, space, limit, announce)

    def _expire_announced(self, space: str, limit: int, announce: Announce | None) -> list[str]:
        self._expiry.report()
        keys: list[str] = []
        for after, upto in self._expiry.look().spans():
            keys += self._expire(space, limit - len(keys), after, upto, announce)
        return keys

    def _expire(self, space: str, limit: int, after: float, upto: float, announce: Announce | None = None) -> list[str]:
        keys = self._space(space).due(limit, after, upto)
        for key in keys:
            announcement = announce(key) if announce else None
            self._note(announcement, space, self._space(space).entries[key])
            self._remove(space, key)
            if announcement is not None and announcement.stored:
                self._store_event(announcement, None)
        return keys

    def _do(self, act: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> Deferred[T]:
        """Return the result of *act*, or what it raises, as a Deferred."""
        if self._stopped_reason:
            return refused(self._stopped_reason)
        return execute(act, *arguments, **named)


def _cut(items: list[T], size_of: Callable[[T], int], max_bytes: int) -> list[T]:
    """Return the first of *items*, up to that with which they have *max_bytes* bytes; 0: all."""
    size = 0
    for index, item in enumerate(items if max_bytes else ()):
        size += size_of(item)
        if size >= max_bytes:
            return items[: index + 1]
    return items


def _body_bytes(event: Event) -> int:
    return len(event.body or b"")


def _ignore() -> None:
    """What is called where nobody is."""
