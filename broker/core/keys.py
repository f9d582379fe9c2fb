"""Keys and values, and the events of their changes.

A change of key ``K`` is an event on topic ``kv/K``, one step with the change.  A key with a lone surrogate, which an
older version may have stored, can be told to nobody: it is passed over, expires and can be removed.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from math import inf
from typing import Any, Protocol, TypeVar, cast

import attrs
import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime

from broker.core.announcements import Announcer
from broker.core.changes import MAX_SECONDS, RecentChanges
from broker.core.fan_outs import FEW, FanOuts
from broker.core.missed_changes import MissedChanges
from broker.core.semaphore import Semaphore
from broker.core.slices import slices_of
from broker.core.tree import PatternTree
from broker.errors import BrokerError, Invalid, TooLarge
from broker.interfaces import IBus, ISharedStore, IStore
from broker.jsontext import members, object_text
from broker.messages import (
    MAX_EXPIRY,
    MAX_ID,
    Announcement,
    CloseCode,
    Entry,
    Event,
    KeyAnnouncement,
    Quota,
    revision_of,
)
from broker.objects import has_more_members_than
from broker.patterns import KEY_PREFIX, is_pattern, is_unicode, matches

SPACE = "kv"
ENTRIES_PER_READ = 64  # entries read at once, since each may be as large as a message
EXPIRED_PER_STEP = 1000  # keys that are announced before others get their turn
RANGES_AT_ONCE = 16  # of all clients: each may hold as much as an answer, and may take long by its predicate
CHANGES_AT_ONCE = 2  # of all clients: each may hold all that are kept, 16 MiB and what they take as objects
BYTES_PER_READ = 1 << 18  # bytes after which one read of the store returns no more
MAX_PREDICATES = 2  # that are asked at once, since each may be slow
# For how many seconds a store that several nodes share is told to keep changes, and to tell the values before them.
KEPT_SECONDS, PREVIOUS_SECONDS = 600, 60
RENEWAL = 20.0  # seconds until it is told again
MAX_MERGED = 20_000  # members of a value and a patch that are merged
MAX_LATE = 1000  # changes that wait until it is known who watches their keys

T = TypeVar("T")


class Watcher(Protocol):
    """What keys need of a peer."""

    id: str

    def on_event(self, event: Event, pattern: str) -> None:
        """Hand *event* to the client; never raises."""

    def disconnect(self, code: int, reason: str) -> None:
        """Close the connection."""


Predicate = Callable[[str], bool]


@attrs.define(eq=False)
class Late:
    """A change of which it is not known yet who watches its key.

    Attributes:
        predicates: those that were not asked yet.
    """

    event: Event
    key: str
    watchers: dict[Watcher, None]
    predicates: Iterator[Predicate]


def merge(stored: bytes, patch: bytes) -> bytes:
    """Return *stored* changed by *patch*.

    Two JSON objects are merged one level deep into compact JSON, old members
    first, numbers and strings as they were written; anything else is appended.

    Raises:
        TooLarge: they have more than ``MAX_MERGED`` members: nobody is served while they are merged.
    """
    try:
        changed = _members(patch)
        old = _members(stored)
    except Invalid:
        return stored + patch
    if len(changed) + len(old) > MAX_MERGED:
        raise TooLarge("value")
    merged = object_text({**old, **changed})
    try:
        return msgspec.json.format(merged, indent=-1)
    except msgspec.DecodeError:  # a lone surrogate, see ``jsontext``
        return merged


def _members(text: bytes) -> dict[str, msgspec.Raw]:
    if has_more_members_than(text, MAX_MERGED):
        raise TooLarge("value")
    return members(text)


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
        publish: called with the event of each change that the store does not publish; between nodes, it returns
            a Deferred that fires when the event is on its way, or lost.
        clock: whose slices long work shares.
        max_bytes: of a value.
        durable: patterns of the topics whose events are stored.
        fan_outs: deliver the changes of keys that very many watch; None: some of its own do.

    Attributes:
        missed: finds the changes that the bus has not brought; None where there is no other node.
        reading: how many ranges of all clients are read at once.
        reading_changes: how many of them read what has changed while they were away.
    """

    def __init__(
        self,
        store: IStore,
        bus: IBus,
        publish: Callable[[Event], Any],
        clock: IReactorTime,
        max_bytes: int = 1 << 20,
        durable: Iterable[str] = (),
        fan_outs: FanOuts | None = None,
    ) -> None:
        self._store, self._bus = store, bus
        self._slices = slices_of(clock)
        self._fan_outs = fan_outs or FanOuts(self._slices)
        self.reading = Semaphore(RANGES_AT_ONCE, sys.maxsize, "ranges", self._slices)
        self.reading_changes = Semaphore(CHANGES_AT_ONCE, sys.maxsize, "changes", self._slices)
        self._announcer = Announcer(publish, self._slices, bus.shared)
        self._durable = tuple(durable)
        self._max_bytes = max_bytes
        self._merge = partial(bounded_merge, max_bytes=max_bytes)
        self._watchers: dict[str, dict[Watcher, None]] = {}
        self._predicates: dict[Predicate, dict[Watcher, None]] = {}
        self._watched: dict[Watcher, tuple[tuple[str, ...], Predicate | None]] = {}
        self._patterns: PatternTree[Watcher, Predicate | None] = PatternTree()
        self._names: dict[str, dict[Watcher, Predicate | None]] = {}
        self._patterns_of: dict[Watcher, dict[tuple[str, bool], None]] = {}  # each with whether it is a name
        # What other nodes change is not all brought here: a store that they share keeps it.
        self._recent = None if bus.shared else RecentChanges(clock)
        self._keeping: dict[Watcher, bool] = {}  # for whom they are kept, each with whether it wants the values before
        self._renew_at = -inf  # when the store is to be told that again
        self._with_previous = False  # what it was told
        self.missed: MissedChanges | None = None
        self._subscribed = 0
        self._late: deque[Late] = deque()
        self._costs: dict[Predicate, float] = {}  # seconds since changes began to wait

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
        size = 0
        slices, now = self._slices, self._slices.now
        end = slices.deadline()
        while len(found) < limit:
            count = ENTRIES_PER_READ if predicate else min(ENTRIES_PER_READ, limit - len(found))
            entries = await self._store.range(SPACE, first, last, count, BYTES_PER_READ)
            for key, entry in entries:
                if now() >= end:  # a predicate may be slow, and so may reading
                    end = await slices.checked(end)
                if (predicate is None or predicate(key)) and (key.isascii() or is_unicode(key)):
                    found.append((key, entry))
                    size += len(key) + len(entry.value)
                    if len(found) == limit or (0 < max_bytes < size and len(found) > 1):
                        return found
            if len(entries) < count and _size_of(entries) < BYTES_PER_READ:
                break
            first = entries[-1][0] + "\0"  # the next key there can be
        return found

    def set(
        self,
        key: str,
        value: bytes,
        *,
        revision: int | None = None,
        expires: float = 0.0,
        origin: str = "",
        quota: Quota | None = None,
    ) -> Deferred[Entry]:
        """Create or replace *key*; see ``IStore.set``."""
        if not 0 <= expires <= MAX_EXPIRY or not (key.isascii() or is_unicode(key)):
            return fail(Invalid("key" if 0 <= expires <= MAX_EXPIRY else "expires"))
        if revision is not None and not 0 <= revision <= MAX_ID:
            return fail(Invalid("revision"))
        if len(value) > self._max_bytes:
            return fail(TooLarge("value", key))
        change = partial(self._store.set, SPACE, key, value, revision=revision, expires=expires, quota=quota)
        return self._announced(change, key, "set", origin)

    def patch(self, key: str, value: bytes, *, origin: str = "", quota: Quota | None = None) -> Deferred[Entry]:
        """Merge *value* into *key* in one step; see :func:`merge`."""
        if not is_unicode(key):
            return fail(Invalid("key"))
        if len(value) > self._max_bytes:
            return fail(TooLarge("value", key))
        change = partial(self._store.patch, SPACE, key, value, self._merge, quota=quota)
        return self._announced(change, key, "set", origin)

    def increment(self, key: str, amount: bytes, *, origin: str = "", quota: Quota | None = None) -> Deferred[Entry]:
        """Add *amount* in one step; see ``IStore.increment``."""
        if not is_unicode(key):
            return fail(Invalid("key"))
        return self._announced(partial(self._store.increment, SPACE, key, amount, quota=quota), key, "set", origin)

    async def changes(self, after: int) -> list[Event] | None:
        """Return the changes of all keys after the revision *after*, in their order; None: not all are known any more.

        Raises:
            Invalid: it is a revision that was not given yet.
        """
        if self._recent is not None:
            head = await self._store.revision(SPACE)
            kept = self._recent.after(after, head)
            changes = None if kept is None else await self._in_slices(kept)
        else:
            head, changes = await cast(ISharedStore, self._store).key_changes(SPACE, after, MAX_SECONDS)
        if after > head:
            raise Invalid("from")
        return changes

    async def _in_slices(self, changes: Iterable[Event]) -> list[Event]:
        """Return *changes*, of which there may be thousands."""
        found, end = [], self._slices.deadline()
        for change in changes:
            end = await self._slices.checked(end)
            found.append(change)
        return found

    async def keep_changes(self, watcher: Watcher, previous: bool) -> None:
        """Return when changes are kept, and with *previous* say the value before, as long as *watcher* watches."""
        if not (watcher in self._patterns_of or watcher in self._watched):
            return
        known = self._keeping.get(watcher)
        self._keeping[watcher] = previous or bool(known)
        if self._recent is not None:
            self._recent.keep()
        elif self._slices.now() >= self._renew_at or (previous and not self._with_previous):
            await self._renew()

    async def _renew(self) -> None:
        """Let the shared store go on to keep changes, as long as somebody here may want them."""
        self._with_previous = any(self._keeping.values())
        previous = PREVIOUS_SECONDS if self._with_previous else 0
        await cast(ISharedStore, self._store).keep_changes(KEPT_SECONDS, previous)
        self._renew_at = self._slices.now() + RENEWAL

    @property
    def is_watched(self) -> bool:
        """Whether anybody here gets changes of keys."""
        return bool(self._watched or self._patterns_of or self._subscribed)

    @property
    def watchers(self) -> list[Watcher]:
        """All who watch."""
        return list({**self._watched, **self._patterns_of})

    def is_stored(self, topic: str) -> bool:
        """Whether the change of the key of *topic* is stored in a log, too."""
        return any(matches(pattern, topic) for pattern in self._durable)

    def is_next(self, change: Event) -> bool:
        """Whether *change*, which the bus has brought, is to be delivered now; else it waits, or was delivered."""
        missed = self.missed
        if missed is None or not missed.is_idle:
            return missed is None or missed.is_next(change)
        revision = revision_of(change)
        if revision > missed.known:
            missed.known = revision
        return True

    def subscribed(self, change: int) -> None:
        """Notice that the bus brings *change* more topics of keys, or fewer, for who has subscribed to these."""
        if change > 0:
            self._begin()
        self._subscribed += change

    def _begin(self) -> None:
        """Let changes be kept that are missed, from now on; to be called before somebody watches."""
        if self.missed is not None and not self.is_watched:
            self.missed.begin()
            if self._slices.now() >= self._renew_at:
                Deferred.fromCoroutine(self._renew()).addErrback(lambda failure: failure.trap(BrokerError))

    def beat(self) -> None:
        """Find out how far changes have come, now and then; to be called each second."""
        if self.missed is not None and self.is_watched:
            self.missed.beat()

    def revision(self) -> Deferred[int]:
        """Return the revision of the last change of any key."""
        return self._store.revision(SPACE)

    def delete(self, key: str, *, revision: int | None = None, origin: str = "") -> Deferred[bool]:
        """Remove *key*; say whether it was there."""
        if revision is not None and not 0 <= revision <= MAX_ID:
            return fail(Invalid("revision"))
        change = partial(self._store.delete, SPACE, key, revision=revision)
        return self._announced(change, key, "delete", origin) if is_unicode(key) else change()

    async def expire(self, limit: int = EXPIRED_PER_STEP, go_on: Callable[[], bool] = lambda: True) -> int:
        """Remove all expired keys and announce them; return how many there were.

        There are *limit* in one step.  Between two of them others get their turn, and all announcements of
        the first are on their way; the second is taken only if *go_on* says so.
        """
        count = 0
        if self._recent is not None:
            if self._keeping:
                self._recent.keep()
            self._recent.drop()
        if self.missed is not None and self.is_watched and self._slices.now() >= self._renew_at:
            await self._renew()
        while True:
            made: dict[str, Announcement | None] = {}
            keys = await self._store.expired(SPACE, limit, partial(self._announce_end, made))
            ended = [made[key] if key in made else self._announce_end(made, key) for key in keys]
            unpublished = [each for each in ended if each is not None and not each.published]
            await self._announcer.publish_all([each.event or each.event_of(None) for each in unpublished])
            count += len(keys)
            if len(keys) < limit or not go_on():
                return count
            await self._slices.pause()

    def _announce_end(self, made: dict[str, Announcement | None], key: str) -> Announcement | None:
        announcement = made[key] = self._announcement(key, "expired", "") if is_unicode(key) else None
        return announcement

    def watch(self, watcher: Watcher, predicate: Predicate | None = None, names: Iterable[str] = ()) -> None:
        """Deliver to *watcher* the changes of the keys *names* and of all for which *predicate* holds.

        It replaces what *watcher* watched before.  One *predicate* is
        asked once for all who share it.
        """
        self.unwatch(watcher)
        names = tuple(names)
        self._begin()
        self._watched[watcher] = names, predicate
        for name in names:
            self._bus.listen(KEY_PREFIX + name)
            self._watchers.setdefault(name, {})[watcher] = None
        if predicate is not None:
            self._bus.listen(KEY_PREFIX, prefix=True)
            self._predicates.setdefault(predicate, {})[watcher] = None

    def watch_pattern(
        self, watcher: Watcher, pattern: str, may: Predicate | None = None, *, exact: bool = False
    ) -> None:
        """Deliver to *watcher* the changes of the keys that *pattern*, or a name, matches; idempotent.

        Those apart for which *may* does not hold.  It comes on top of what was watched before.  With *exact*,
        wildcards are ordinary characters.
        """
        place = pattern, exact or not is_pattern(pattern)
        self._begin()
        mine = self._patterns_of.setdefault(watcher, {})
        if place in mine:
            return
        mine[place] = None
        if place[1]:
            self._bus.listen(KEY_PREFIX + pattern)
            self._names.setdefault(pattern, {})[watcher] = may
        else:
            self._bus.listen(KEY_PREFIX, prefix=True)
            self._patterns.insert(pattern)[watcher] = may

    def unwatch_pattern(self, watcher: Watcher, pattern: str, *, exact: bool = False) -> None:
        """Undo ``watch_pattern`` of the same *pattern* and *exact*; a no-op without one."""
        place = pattern, exact or not is_pattern(pattern)
        mine = self._patterns_of.get(watcher, {})
        if place not in mine:
            return
        del mine[place]
        if not mine:
            del self._patterns_of[watcher]
            self._see_to_keeping(watcher)
        if place[1]:
            self._bus.forget(KEY_PREFIX + pattern)
            _drop(self._names, pattern, watcher)
        else:
            self._bus.forget(KEY_PREFIX, prefix=True)
            self._patterns.remove(pattern, watcher)

    def is_watching(self, watcher: Watcher) -> bool:
        """Whether *watcher* watches anything."""
        names, predicate = self._watched.get(watcher, ((), None))
        return bool(names or predicate or self._patterns_of.get(watcher))

    def leave(self, watcher: Watcher) -> None:
        """Undo all that *watcher* watches."""
        if self._fan_outs.waiting:
            self._fan_outs.forget(watcher, "")
        self.unwatch(watcher)
        for pattern, exact in list(self._patterns_of.get(watcher, ())):
            self.unwatch_pattern(watcher, pattern, exact=exact)

    def unwatch(self, watcher: Watcher) -> None:
        """Undo ``watch``; a no-op without one."""
        names, predicate = self._watched.pop(watcher, ((), None))
        self._see_to_keeping(watcher)
        for name in names:
            self._bus.forget(KEY_PREFIX + name)
            _drop(self._watchers, name, watcher)
        if predicate is not None:
            self._bus.forget(KEY_PREFIX, prefix=True)
            _drop(self._predicates, predicate, watcher)

    def _see_to_keeping(self, watcher: Watcher) -> None:
        """Keep no changes for *watcher* if it watches nothing any more."""
        if not self.is_watching(watcher):
            self._keeping.pop(watcher, None)

    def arrived(self, event: Event) -> None:
        """Hand the change of a key to those who watch it, once each."""
        if self._recent is not None:
            self._recent.add(event)
        key = event.topic[len(KEY_PREFIX) :]
        by_name = self._watchers.get(key)
        watchers = dict(by_name) if by_name else {}
        named = self._names.get(key)
        listeners = [named] if named else []
        if self._patterns.count:
            listeners += [node.listeners for node in self._patterns.matching(key)]
        for several in listeners:
            for watcher, may in several.items():
                if may is None or may(key):
                    watchers[watcher] = None
        if self._late or len(self._predicates) > MAX_PREDICATES:
            self._ask(Late(event, key, watchers, iter(list(self._predicates))))
            return
        for predicate, matching in self._predicates.items():
            if predicate(key):
                watchers.update(matching)
        self._deliver(event, watchers)

    def _deliver(self, event: Event, watchers: dict[Watcher, None]) -> None:
        if self._fan_outs.waiting or len(watchers) > FEW:
            self._fan_outs.add(event, "", watchers)
            return
        for watcher in watchers:
            watcher.on_event(event, "")

    def _ask(self, late: Late) -> None:
        """Ask the predicates and deliver, in slices if that takes long; changes keep their order."""
        if self._late:
            self._late.append(late)
            if len(self._late) > MAX_LATE:
                self._drop_slowest()
        elif self._asked(late):
            self._costs.clear()
        else:
            self._late.append(late)
            self._slices.add(self._ask_late)

    def _asked(self, late: Late) -> bool:
        """Ask the predicates that were not asked yet; deliver and return True unless the slice ends before."""
        now = self._slices.now
        began, end = now(), self._slices.deadline()
        for predicate in late.predicates:
            watchers = self._predicates.get(predicate)
            if watchers is None:
                continue  # they have gone meanwhile
            if predicate(late.key):
                late.watchers.update(watchers)
            time = now()
            self._costs[predicate] = self._costs.get(predicate, 0.0) + time - began
            if time >= end:
                return False
            began = time
        self._deliver(late.event, late.watchers)
        return True

    def _ask_late(self) -> None:
        late = self._late
        while late and self._asked(late[0]):
            late.popleft()
            if self._slices.over():
                break
        if late:
            self._slices.add(self._ask_late)
        else:
            self._costs.clear()

    def _drop_slowest(self) -> None:
        """Disconnect those whose predicate takes the longest: all watchers wait for it."""
        if not self._costs:
            return  # one was dropped just now
        slowest = max(self._costs, key=self._costs.__getitem__)
        self._costs.clear()
        for watcher in list(self._predicates.get(slowest, ())):
            self.unwatch(watcher)
            watcher.disconnect(CloseCode.TRY_AGAIN_LATER, "patterns that take too long")

    def _announcement(self, key: str, name: str, origin: str) -> Announcement:
        topic = KEY_PREFIX + key
        stored = any(matches(pattern, topic) for pattern in self._durable)  # as ``is_stored``, without the call
        return KeyAnnouncement(topic, name, self._store.wall.time(), origin=origin, stored=stored, key=key)

    def _announced(self, change: Callable[..., Deferred[T]], key: str, name: str, origin: str) -> Deferred[T]:
        announcement = self._announcement(key, name, origin)
        changed = change(announcement=announcement)
        if announcement.published:
            return changed
        answer: Deferred[T] = Deferred()

        def done(result: T) -> None:
            if result:
                value = None
                if isinstance(result, Entry):
                    value = result.value
                    if not announcement.original:  # a store of Redis that does not publish
                        announcement.made(result.revision, None, known=False)
                self._announcer.publish(announcement.event or announcement.event_of(value), answer, result)
            else:
                answer.callback(result)

        changed.addCallbacks(done, answer.errback)
        return answer


def _size_of(entries: list[tuple[str, Entry]]) -> int:
    """Return at most how many bytes *entries* have in a store."""
    return sum(len(entry.value) + 4 * len(key) + 100 for key, entry in entries)


def _drop(table: dict[T, dict[Watcher, Any]], key: T, watcher: Watcher) -> None:
    watchers = table.get(key)
    if watchers is not None:
        watchers.pop(watcher, None)
        if not watchers:
            del table[key]
