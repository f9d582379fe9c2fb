"""The keys that a session watches: what is there, or what it has missed, and then each change of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall

from broker.core.tree import PatternTree
from broker.errors import RateLimited, TooLarge
from broker.interfaces import ILink, IPeer
from broker.messages import EVENT_BYTES, CloseCode, Entry, Event, Frame, revision_of
from broker.patterns import KEY_PREFIX, is_pattern, literal_beginning, predicate_of
from protocols.owlmeans import wire

MAX_PATTERNS = 1000  # patterns of one session
MAX_HELD_BYTES = 1 << 22  # of changes that wait for snapshots, or for the client to read those before them
MAX_ENTRIES = 1000  # of one answer
MAX_ANSWER_BYTES = 1 << 19  # of the entries of one answer
MAX_BURST_BYTES = 1 << 18  # of changes that waited, until the client may have read some
BURST_INTERVAL = 0.05  # seconds until the next of them
HIGHEST = "\U0010ffff"  # nothing sorts after it

Entries = list[tuple[str, Entry]]


@attrs.frozen
class Start:
    """Where a watch begins.

    Attributes:
        entries: what is there; none if the client has that already.
        epoch: the present one.
        revision: the changes after it follow.
        snapshot: whether it begins with *entries*, and not with the changes that the client has missed.
    """

    entries: Entries
    epoch: str
    revision: int
    snapshot: bool


@attrs.define(eq=False)
class Watch:
    """A key or a pattern that is watched.

    Attributes:
        pattern: the one.
        exact: whether wildcards in it are ordinary characters.
        previous: whether the client wants the values before.
        name: of its events.
        plain: whether it is a key, and not a pattern.
        waiting: the changes that follow the answer, each with its size; None when they are sent at once.
        began: up to which revision the client has got what has changed, if some of that may come again; else None.
        included: the keys whose later changes are in the answer, too, with their revisions.
        timer: until the next of those that wait are sent.
    """

    pattern: str
    exact: bool
    previous: bool = False
    name: str = attrs.field(init=False)
    plain: bool = attrs.field(init=False)
    waiting: deque[tuple[int, Event]] | None = None
    began: int | None = None
    included: dict[str, int] = attrs.field(factory=dict)
    timer: IDelayedCall | None = None

    def __attrs_post_init__(self) -> None:
        self.name = KEY_PREFIX + self.pattern
        self.plain = self.exact or not is_pattern(self.pattern)

    def is_new(self, change: Event) -> bool:
        """Whether the client has not got *change* in its answer, or with what it has missed."""
        if self.began is None:
            return True
        revision = revision_of(change)
        if not revision:
            return True  # a node of an older version has made it
        if revision <= self.began or revision <= self.included.get(change.topic[len(KEY_PREFIX) :], 0):
            return False
        if revision > max(self.included.values(), default=0):
            self.began, self.included = None, {}  # those that come after it are new, too
        return True

    def frame(self, change: Event) -> Frame:
        """Return the frame of *change*."""
        frame: Frame = change.render(wire.change_with_previous if self.previous else wire.change, self.name)
        return frame


@attrs.define(eq=False)
class Watches:
    """The watches of one session.

    Args:
        peer: the way into the broker.
        push: sends the frame of a change.
        link: counts what is kept.
    """

    _peer: IPeer
    _push: Callable[[Frame], object]
    _link: ILink
    _watches: dict[str, Watch] = attrs.field(factory=dict)  # by the pattern, in their order
    _names: dict[str, Watch] = attrs.field(factory=dict)  # those of a key
    _tree: PatternTree[Watch, None] = attrs.field(factory=PatternTree)  # the others
    _held: int = 0  # bytes of the changes that wait

    @property
    def patterns(self) -> list[str]:
        """What is watched, in that order."""
        return list(self._watches)

    async def begin(
        self, pattern: str, *, exact: bool = False, previous: bool = False, since: tuple[str, int] | None = None
    ) -> Start:
        """Watch *pattern*; return where that begins.  Changes are kept until ``go_on``.

        With the epoch and the revision *since*, it begins with the changes after that, if they are known.

        Raises:
            Invalid: *since* is none that was given.
            RateLimited: too much is watched.
            TooLarge: there are too many entries, or they are too large.
        """
        watch, fresh = self._watches.get(pattern), False
        if watch is None or watch.exact != exact:
            watch, fresh = self._add(Watch(pattern, exact)), True
        if watch.waiting is None:
            watch.waiting = deque()
        try:
            # Watching before reading: a change in between must not be missed.
            await self._peer.listening()
            await self._peer.keep_changes(previous=previous)
            start = await self._resume(watch, since) if since is not None else None
            if start is None:
                start = await self._snapshot(watch)
        except BaseException:  # cancelled, too
            if fresh:
                self.end(pattern)
            else:
                self.go_on(pattern)
            raise
        watch.previous = previous
        return start

    def _add(self, watch: Watch) -> Watch:
        if watch.pattern not in self._watches and len(self._watches) >= MAX_PATTERNS:
            raise RateLimited("limit", "watches")
        self.end(watch.pattern)
        self._watches[watch.pattern] = watch
        if watch.plain:
            self._names[watch.pattern] = watch
        else:
            self._tree.insert(watch.pattern)[watch] = None
        self._peer.watch_pattern(watch.pattern, exact=watch.exact)
        return watch

    async def _resume(self, watch: Watch, since: tuple[str, int]) -> Start | None:
        """Let the changes after *since* wait; None: they are not known any more, or too large."""
        missed = await self._peer.changes(watch.pattern, *since, exact=watch.exact)
        if missed is None or self._held + sum(map(_size, missed)) > MAX_HELD_BYTES:
            return None
        watch.began, watch.included = revision_of(missed[-1]) if missed else since[1], {}
        self._join(watch, missed)
        return Start([], since[0], since[1], snapshot=False)

    def _join(self, watch: Watch, missed: list[Event]) -> None:
        """Let *missed* wait, and of those that wait already the ones that the client has not got otherwise."""
        if self._watches.get(watch.pattern) is watch:  # else it was ended meanwhile
            later = [change for _, change in watch.waiting or () if watch.is_new(change)]
            self._release(watch)
            watch.waiting = deque()
            for change in [*missed, *later]:
                self._hold(watch, change)

    async def _snapshot(self, watch: Watch) -> Start:
        revision = await self._peer.revision()
        epoch = self._peer.epoch  # after that: before the first answer of the store nobody knows it
        pattern = watch.pattern
        beginning = literal_beginning(pattern)
        found = await self._peer.range(
            pattern if watch.plain else beginning,
            pattern if watch.plain else beginning + HIGHEST,
            MAX_ENTRIES + 1,
            predicate=predicate_of(pattern, exact=watch.plain),
            max_bytes=MAX_ANSWER_BYTES,
            rate_limited=False,  # the frame has been counted
        )
        if len(found) > MAX_ENTRIES or size_of(found) > MAX_ANSWER_BYTES:
            raise TooLarge("snapshot", pattern)
        watch.began = revision
        watch.included = {key: entry.revision for key, entry in found if entry.revision > revision}
        self._join(watch, [])
        return Start(found, epoch, revision, snapshot=True)

    def go_on(self, pattern: str) -> None:
        """Send the changes that were kept, and the next ones at once."""
        watch = self._watches.get(pattern)
        if watch is not None and watch.waiting is not None and watch.timer is None:
            self._send_waiting(watch)

    def _send_waiting(self, watch: Watch) -> None:
        """Send what waits, as far as the client reads it."""
        watch.timer, size = None, 0
        while watch.waiting:
            if size > MAX_BURST_BYTES or self._link.paused:
                watch.timer = self._peer.clock.callLater(BURST_INTERVAL, self._send_waiting, watch)
                return
            held, change = watch.waiting.popleft()
            self._count(-held)
            frame = watch.frame(change)
            size += frame.size
            self._push(frame)
        watch.waiting = None

    def end(self, pattern: str) -> None:
        """Watch *pattern* no more."""
        watch = self._watches.pop(pattern, None)
        if watch is None:
            return
        self._release(watch)
        if watch.plain:
            del self._names[pattern]
        else:
            self._tree.remove(pattern, watch)
        self._peer.unwatch_pattern(pattern, exact=watch.exact)

    def stop(self) -> None:
        """Leave no timer behind."""
        watches, self._watches = self._watches, {}
        for watch in watches.values():
            self._release(watch)

    def notify(self, change: Event) -> None:
        """Send *change* by each watch of its key, or keep it."""
        key = change.topic[len(KEY_PREFIX) :]
        watch = self._names.get(key)
        if watch is not None:
            self._notify(watch, change)
        if self._tree.count:
            for node in self._tree.matching(key):
                for watch in node.listeners:
                    self._notify(watch, change)

    def _notify(self, watch: Watch, change: Event) -> None:
        if watch.began is not None and not watch.is_new(change):
            return
        if watch.waiting is None:
            self._push(watch.frame(change))
        else:
            self._hold(watch, change)

    def _hold(self, watch: Watch, change: Event) -> None:
        size = _size(change)
        if self._held + size > MAX_HELD_BYTES:
            self._peer.disconnect(CloseCode.TRY_AGAIN_LATER, "too much before the snapshot")
        elif watch.waiting is not None:
            watch.waiting.append((size, change))
            self._count(size)

    def _release(self, watch: Watch) -> None:
        """Keep nothing for *watch*."""
        waiting, watch.waiting = watch.waiting, None
        if watch.timer is not None:
            watch.timer.cancel()
            watch.timer = None
        self._count(-sum(size for size, _ in waiting or ()))

    def _count(self, change: int) -> None:
        if change:
            self._held += change
            self._link.hold(change)


def _size(change: Event) -> int:
    """Return how many bytes *change* takes, about."""
    return len(change.body or b"") + len(change.original) + EVENT_BYTES


def size_of(entries: Entries) -> int:
    """Return how large *entries* are: characters of keys and bytes of values."""
    return sum(len(key) + len(entry.value) for key, entry in entries)
