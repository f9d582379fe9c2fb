"""The store that several nodes share: one Redis.

All operations of one iteration of the reactor loop are one call of one script
(``redis_scripts``), which does each of them as a whole.  The script also publishes what
was appended, and the changes of keys, so that each is stored and announced to the nodes in one step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from txredisapi import RedisError
from zope.interface import implementer

from broker.core.bounded import BoundedDict
from broker.core.clocks import monotonic_time_of, wall_clock_of
from broker.core.slices import slices_of
from broker.errors import Conflict, Unavailable
from broker.interfaces import ISharedStore, IWallClock
from broker.messages import (
    Addition,
    Announce,
    Announcement,
    Entry,
    Event,
    Quota,
    decode_text,
    encode_text,
    revision_of,
)
from broker.redis import RedisAddress
from broker.redis.batcher import MAX_REPLY_BYTES, Batcher, Operation
from broker.redis.event_codec import decode_message, encode_record
from broker.redis.form import check_form
from broker.redis.rights import Rights
from broker.redis.script import Script
from broker.redis.server import ServerInfo, read_info
from broker.redis.vitals import NAMES, Vitals
from broker.stores.entries import ANNOUNCED_SPACES, EXPIRED_KEPT, increased, merged
from broker.stores.expiry import log_jump
from broker.stores.redis_additions import adding, extras_of
from broker.stores.redis_announcements import KeyEvents, announced, split
from broker.stores.redis_expiry import KEYS_STEP, RedisExpiry
from broker.stores.redis_jobs import RedisJobs
from broker.stores.redis_keys import store_needs
from broker.stores.redis_reader import MAX_ID, MIN_REPLY_BYTES, RedisReader, end_of
from broker.stores.redis_swap import (
    FULL,
    OVER_QUOTA,
    Append,
    CompareAndSwap,
    Increment,
    KeyOperation,
    LogOperation,
    over_quota,
)
from broker.stores.redis_timeline import Timeline
from broker.stores.room import ESSENTIAL_SPACES, SMALL_VALUE, Room, full_refusal, full_text
from broker.stores.states import NOT_RUNNING, STOPPING, refused

log = Logger()

CHANGES_STEP = 500  # changes of keys that one call returns at most
SWEEP_WORK = 500  # events that are looked at or removed in one call
KNOWN_LOGS = 10_000  # logs of which a node remembers that they exist
MEASURE_INTERVAL = 1.0  # seconds between two looks at how much memory is used
T = TypeVar("T")

SMALL_INTEGER = re.compile(rb"0|-?[1-9][0-9]{0,13}")  # what the script adds exactly


@implementer(ISharedStore)
class RedisStore(RedisReader, Service):
    """A store in Redis.

    Args:
        url: see ``RedisAddress``.
        prefix: what all keys begin with.
        clock: the reactor; the time of a ``task.Clock`` stands for that of the server, by which all is dated and ends.
        reactor: connects, and times how long operations wait.
        announce: whether appending to the log of a topic, and a change of a key, also publishes the event.
        observe: called with the operations and the seconds of each call.
        failed: called with the number of operations that a failure took.
        max_bytes: how much memory the server may use; 0: any number.
        wait: how many replicas must have a write before it is answered, and how many milliseconds that may take.
        wall: the time of this machine, until that of the server is known; by default the one that goes with *clock*.

    Attributes:
        used_bytes: how much it used when it was asked last; 0: it was not asked, without a limit.

    Raises:
        Invalid: *url* is not that of a Redis, or Redis support is not installed.
    """

    shared = True
    degraded = ""

    def __init__(
        self,
        url: str,
        *,
        prefix: str,
        clock: IReactorTime,
        reactor: Any,
        announce: bool = True,
        observe: Callable[[int, float], object] | None = None,
        failed: Callable[[int], object] | None = None,
        max_bytes: int = 0,
        wait: tuple[int, int] = (0, 0),
        wall: IWallClock | None = None,
    ) -> None:
        super().__init__()
        self.used_bytes = 0
        self.announces = announce
        self.wiped: Callable[[], object] = _ignore
        self.witness: Callable[[str, str], int] = _nothing_seen
        self._address = RedisAddress.parse(url)
        self._prefix = encode_text(prefix)
        self._channels = encode_text(f"{prefix}{self._address.db}/")
        self.wall = self._time = RedisClock(clock, wall)
        self._expiry = RedisExpiry(self._submit, self._change, self._time.judged)
        self._server = ServerInfo()
        self._timeline = Timeline(self._prefix, reactor, lambda *known: self.witness(*known))
        self._stopped_reason = NOT_RUNNING
        self._room = Room(max_bytes)
        self._measuring = LoopingCall(self._measure)
        self._measuring.clock = reactor
        self._known: BoundedDict[str, None] = BoundedDict(KNOWN_LOGS)
        self._key_events = KeyEvents(announce, lambda: self.epoch)
        self.jobs = RedisJobs(
            self._submit,
            lambda: self._full() if self._room.shortage else None,
            lambda work: self._batcher.before_batch(work),
        )
        script = Script("broker.stores.redis_scripts", "state", "clock", "logs", "keys", "jobs")
        scripts = script.text, self._timeline.script
        self._batcher = Batcher(
            self._address,
            script,
            reactor,
            slices_of(reactor),
            purpose="stored data",
            preamble=self._preamble,
            prepare=self._prepare,
            opened=self._opened,
            refresh=self._refresh,
            probe=(b"probe", b"1" if announce else b""),
            marks=True,
            rights=Rights(store_needs(scripts, self._prefix, self._channels, announce), reactor),
            wait=wait,
            observe=observe,
            failed=failed,
        )
        self.vitals = Vitals(self._batcher.connection, reactor, self._prefix)

    def gauges(self) -> dict[str, Callable[[], float | None]]:
        """Return what reads the gauges of this kind of store; ``refresh`` brings them up to date."""
        return {name: partial(self.vitals.read, name) for name in NAMES}

    def refresh(self) -> Deferred[None]:
        """Ask the server how it is; fires without failing."""
        return self.vitals.refresh()

    def publishes(self, origin: str) -> bool:
        """See ``ISharedStore.publishes``."""
        return origin in self._batcher.publishing

    def on_answer(self, call: Callable[[], object]) -> None:
        """See ``ISharedStore.on_answer``."""
        self._batcher.on_answer(call)

    @property
    def description(self) -> str:
        """Where it is, and what the server's configuration promises."""
        return f"Redis at {self._address}; {self._server.promise}"

    @property
    def server(self) -> str:
        """See ``ISharedStore.server``."""
        return self._server.info.get("run_id", "")

    @property
    def kept(self) -> int:
        """See ``ISharedStore.kept``."""
        return self._timeline.kept

    @property
    def warnings(self) -> list[str]:
        """See ``ISharedStore.warnings``."""
        return self._server.warnings(bool(self._address.master))

    @property
    def ready(self) -> str:
        """Why writes are not accepted now; "" when they are."""
        if self._stopped_reason:
            return self._stopped_reason
        problem = self._batcher.problem
        if problem:
            return f"Redis at {self._address}: {problem}"
        return full_text(self._room.shortage) if self._room.shortage else ""

    def startService(self) -> None:
        """Begin to connect.  A Redis that is away now may come later."""
        super().startService()
        self._stopped_reason = ""
        self._batcher.start()
        if self._room.max_bytes:
            self._measuring.start(MEASURE_INTERVAL, now=False)

    def stopService(self) -> Deferred[Any]:
        """Refuse what is new, do what waits, disconnect."""
        super().stopService()
        if self._stopped_reason:
            return succeed(None)
        self._stopped_reason = STOPPING
        if self._measuring.running:
            self._measuring.stop()
        if self._batcher.connection.protocol is not None:
            leaving = Operation((b"leave", self._timeline.member), control=True)
            self._batcher.submit(leaving).addErrback(_ignore_unavailable)
        return self._batcher.stop().addCallback(self._stopped)

    def _stopped(self, _: object) -> None:
        self._stopped_reason = NOT_RUNNING

    # The connection.

    async def _prepare(self, protocol: Any) -> None:
        self._server = await ServerInfo.query(protocol, self._prefix)
        self._server.check()
        await check_form(protocol, self._prefix)
        await self._time.begin(protocol)
        self._timeline.connections += 1
        await self._compare(protocol)
        self._judge(self._server.info)

    def _opened(self) -> None:
        log.info("{store}", store=self.description)
        for warning in self.warnings:
            log.warn("{warning}", warning=warning)
        self._tell_wiped()

    async def _refresh(self, protocol: Any) -> None:
        """Find out why the script has refused to act in the epoch, or on the mark, that we know."""
        await self._compare(protocol)
        self._tell_wiped()

    async def _compare(self, protocol: Any) -> None:
        self._batcher.mark = await self._timeline.compare(protocol, self._server.run, self._batcher.mark)
        self.epoch = self._timeline.epoch
        self._known.clear()

    def _tell_wiped(self) -> None:
        # Not before Redis can be used: what is stored again then would be refused.
        if not self._timeline.told:
            self._timeline.told = True
            self.wiped()

    async def _measure(self) -> None:
        """Ask how much memory is used; a connection that breaks meanwhile is noticed elsewhere."""
        protocol = self._batcher.connection.protocol
        if protocol is None:
            return
        try:
            self._judge(await read_info(protocol, b"memory", prefix=self._prefix))
        except RedisError:
            return

    def _judge(self, info: Mapping[str, str]) -> None:
        before = self._room.shortage
        self.used_bytes = int(info.get("used_memory", "0"))
        shortage = self._room.judge(self.used_bytes)
        if shortage and not before:
            log.error("{reason}", reason=full_text(shortage))
        elif before and not shortage:
            log.info("the store has room again")

    def _preamble(self) -> list[bytes]:
        caller = self._timeline.member, b"%d" % self._timeline.connections
        return [
            self._prefix, self.epoch.encode(), self._channels, *self._time.words(), b"%d" % MAX_REPLY_BYTES, *caller
        ]  # fmt: skip

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
        """See ``IStore.append``; the event is published in the same step if the store announces."""
        if head is not None or key:
            return self.append_all([Addition(log, event, quota, head, key)], key_seconds).addCallback(itemgetter(0))
        if self._room.shortage:
            return self._full()
        time = event.time or self.wall.time()
        extras = extras_of(log, event, self.announces)
        stored = encode_record(event, time)
        if event.time:
            stored = b"=" + stored
        operation = Append(
            (b"append", encode_text(log), stored, extras),
            partial(self._appended, event, time, quota),
            2 * len(stored) + len(extras),
            False,
            event.origin if extras else "",
            quota=quota,
        )
        if log not in self._known:
            self._known[log] = None
            operation.found(None)
        return self._submit(operation)

    def append_all(self, additions: Sequence[Addition], key_seconds: float = 0.0) -> Deferred[list[Event]]:
        """See ``IStore.append_all``."""
        if not additions:
            return self._nothing()
        if self._room.shortage:
            return self._full()
        return self._submit(adding(additions, self.wall.time(), key_seconds, self.announces, lambda: self.epoch))

    def _appended(self, event: Event, time: float, quota: Quota | None, result: int | list[Any]) -> Event:
        if isinstance(result, list):
            id, time = result[0], float(result[1])  # the last event of the log was later
        else:
            id = result
        if id == OVER_QUOTA:
            raise over_quota(quota)
        return Event(
            event.topic,
            event.name,
            event.body,
            event.source,
            time,
            id,
            self.epoch,
            event.origin,
            event.dialect,
            event.original,
            event.author,
            event.content_type,
            event.expires,
            exclude=event.exclude,
            binary=event.binary,
        )

    def trim(self, log: str, upto: int) -> Deferred[None]:
        """See ``IStore.trim``; in steps, for which later operations on the log wait."""
        words = (b"trim", encode_text(log), b"%d" % (max(0, min(upto, MAX_ID)) + 1))
        return self._submit(LogOperation(words, _none))

    def sweep(self, prefix: str, before: float, keep: int) -> Deferred[int]:
        """See ``IStore.sweep``; in steps, between which other operations are done."""
        return Deferred.fromCoroutine(self._sweep(encode_text(prefix), before, keep))

    def oldest(self, seconds: float) -> float:
        """See ``IStore.oldest``."""
        return self._time.oldest(seconds)

    async def _sweep(self, prefix: bytes, before: float, keep: int) -> int:
        removed = 0
        start = b"[" + prefix
        while start:
            words = (b"sweep", start, end_of(prefix), repr(before).encode(), b"%d" % keep, b"%d" % SWEEP_WORK)
            count, start = await self._submit(Operation(words))
            removed += count
        due = repr(self.oldest(EXPIRED_KEPT)).encode()
        for space in await self._spaces() - set(map(encode_text, ANNOUNCED_SPACES)):
            while len(await self._expiry.expire(space, due)) == KEYS_STEP:
                pass
        return removed

    async def _spaces(self) -> set[bytes]:
        found: set[bytes] = set()
        cursor = b"0"
        while True:
            cursor, some = await self._submit(Operation((b"spaces", cursor), reads=True))
            found.update(some)
            if cursor == b"0":
                return found

    def mark(self) -> Deferred[int]:
        """See ``ISharedStore.mark``."""
        batcher = self._batcher
        batcher.mark = max(batcher.mark, self.witness(self.epoch, self._timeline.server))
        return self._submit(Operation((b"mark", self._timeline.member), int, reads=True, control=True))

    def changes(self, mark: int) -> Deferred[dict[str, int]]:
        """See ``ISharedStore.changes``."""
        return Deferred.fromCoroutine(self._changes(mark))

    async def _changes(self, mark: int) -> dict[str, int]:
        found: dict[str, int] = {}
        while True:
            # Twice as many as one call can have appended to: each step gets on.
            words = (b"changes", b"%d" % mark, b"1000")
            some = await self._submit(Operation(words, reads=True, control=True))
            found.update((decode_text(log), int(score)) for log, score in zip(some[::2], some[1::2], strict=True))
            if len(some) < 2000:
                return found
            mark = int(some[-1]) - 1

    def since(self, log: str, mark: int) -> Deferred[int]:
        """See ``ISharedStore.since``."""
        words = (b"since", encode_text(log), b"%d" % mark)
        return self._submit(LogOperation(words, int, reads=True, control=True))

    # Keys.

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

        def done(found: int | None) -> Entry:
            if found is None:
                raise Conflict("revision", key)
            if found == OVER_QUOTA:
                raise over_quota(quota)
            if found == FULL:
                raise full_refusal(self._room.shortage)
            return Entry(value, found >> 1, expires, bool(found & 1))

        when = repr(expires).encode()
        words: tuple[bytes, ...] = (
            b"set",
            encode_text(space),
            encode_text(key),
            _expected(revision),
            when,
            value,
            b"" if quota is None else quota.words,
        )
        if self._room.shortage and space not in ESSENTIAL_SPACES:
            if announcement is not None and announcement.stored:
                return self._full()
            words = (b"set_when_full", *words[1:], b"%d" % SMALL_VALUE)
        return self._change(words, done, announcement, value)

    def delete(
        self, space: str, key: str, *, revision: int | None = None, announcement: Announcement | None = None
    ) -> Deferred[bool]:
        """See ``IStore.delete``."""

        def done(found: int | None) -> bool:
            if found is None:
                raise Conflict("revision", key)
            return found > 0

        words = (b"delete", encode_text(space), encode_text(key), _expected(revision))
        return self._change(words, done, announcement, None)

    def _change(
        self,
        words: Sequence[bytes],
        decode: Callable[[Any], Any],
        announcement: Announcement | None,
        value: bytes | None,
    ) -> Deferred[Any]:
        """Do a change of a key that leaves *value*, and publish or store its event in the same step."""
        size, event = len(value or b""), self._key_events.of(announcement)
        if event is None:
            return self._submit(KeyOperation(words, partial(_noted, announcement, decode), size))

        def done(found: Any) -> Any:
            result, ids = split(found)
            if type(result) is int and result > 0:
                event.made(result >> 1, value, ids)
            return decode(result)

        encoded = event.encode(value)
        words, ahead = announced(words, [encoded]), 2 + len(encoded)
        return self._submit(KeyOperation(words, done, size + len(encoded[3]), origin=event.origin, ahead=ahead))

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
        if self._room.shortage:
            return self._full()
        change = partial(merged, value=value, merge=merge)
        return self._submit(CompareAndSwap(space, key, change, len(value), quota, self._key_events.of(announcement)))

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
        if self._room.shortage:
            return self._full()
        change = partial(increased, amount=amount)
        event = self._key_events.of(announcement)
        if SMALL_INTEGER.fullmatch(amount):
            return self._submit(Increment(space, key, amount, change, quota, event))
        return self._submit(CompareAndSwap(space, key, change, len(amount), quota, event))

    def expired(self, space: str, limit: int, announce: Announce | None = None) -> Deferred[list[str]]:
        """See ``IStore.expired``; in steps, between which other operations are done."""
        return self._expiry.expired(space, limit, announce) if limit > 0 else self._nothing()

    def revision(self, space: str) -> Deferred[int]:
        """See ``IStore.revision``."""
        return self._submit(Operation((b"revision", encode_text(space)), int, reads=True))

    def keep_changes(self, seconds: int, previous: int) -> Deferred[None]:
        """See ``ISharedStore.keep_changes``."""
        return self._submit(Operation((b"watched", b"%d" % seconds, b"%d" % previous), _none))

    def key_changes(self, space: str, after: int, seconds: float) -> Deferred[tuple[int, list[Event] | None]]:
        """See ``ISharedStore.key_changes``."""
        return Deferred.fromCoroutine(self._key_changes(space, after, seconds))

    async def _key_changes(self, space: str, after: int, seconds: float) -> tuple[int, list[Event] | None]:
        found: list[Event] = []
        place = after
        while True:
            words = (b"changed", encode_text(space), b"%d" % place, b"%d" % CHANGES_STEP)
            last, *some = await self._submit(Operation(words, reads=True, reply=MIN_REPLY_BYTES))
            head = int(last)
            if head <= after:
                return head, [] if head == after else None
            found += map(decode_message, some)
            if not some or found[0].time < self.oldest(seconds):
                return head, None
            place = revision_of(found[-1])
            if place - after != len(found):
                return head, None  # some were removed, or not kept: nobody had watched, or Redis was full
            if place >= head:
                return head, found

    # Submitting.

    def _full(self) -> Deferred[Any]:
        return refused(self._stopped_reason) if self._stopped_reason else fail(full_refusal(self._room.shortage))

    def _nothing(self) -> Deferred[Any]:
        return refused(self._stopped_reason) if self._stopped_reason else succeed([])

    def _submit(self, operation: Operation) -> Deferred[Any]:
        return refused(self._stopped_reason) if self._stopped_reason else self._batcher.submit(operation)


@implementer(IWallClock)
class RedisClock:
    """Tells the time of the server: that of its last answer, and what has passed since by a clock that can not be set.

    Until it has answered, this is the time of the machine.

    Args:
        clock: the reactor; a ``task.Clock`` is asked in the place of the server.
        wall: the time of the machine; by default the one that goes with *clock*.
    """

    def __init__(self, clock: Any, wall: IWallClock | None = None) -> None:
        self._wall = wall or wall_clock_of(clock)
        self._elapsed = monotonic_time_of(clock)
        self._virtual = not IReactorCore.providedBy(clock)
        self._ahead: float | None = None  # how far the server's time is before ``_elapsed``
        self._compared = False  # whether the script has judged the server's time
        self._skipped = 0.0

    def time(self) -> float:
        """See ``IWallClock``."""
        return self._wall.time() if self._ahead is None else self._elapsed() + self._ahead

    def oldest(self, seconds: float) -> float:
        """See ``IStore.oldest``."""
        return self.time() - self._skipped - seconds

    def words(self) -> tuple[bytes, bytes]:
        """Return what the script is told: the time in the place of the server's or b"", and the one expected or b""."""
        now = repr(self.time()).encode()
        if self._virtual:
            return now, b""
        # The first time that a node gets is no measure: the script compares it with what is noted in Redis.
        return b"", now if self._compared else b""

    async def begin(self, protocol: Any) -> None:
        """Ask for the server's time, for what is dated from now on, unless there is one already."""
        if self._ahead is None and not self._virtual:
            seconds, micros = await protocol.execute_command(b"TIME")
            self._ahead = int(seconds) + int(micros) / 1e6 - self._elapsed()

    def judged(self, now: float, skipped: float) -> None:
        """Take the server's time *now*, of whose jumps the script skips so many seconds."""
        self._skipped = log_jump(self._skipped, skipped)
        if not self._virtual:
            self._ahead, self._compared = now - self._elapsed(), True


def _ignore() -> None:
    """The callback until the service sets one."""


def _nothing_seen(*_: str) -> int:
    """The witness until the service sets one."""
    return 0


def _ignore_unavailable(failure: Failure) -> None:
    failure.trap(Unavailable)


def _none(_: object) -> None:
    return None


def _noted(announcement: Announcement | None, decode: Callable[[Any], T], found: Any) -> T:
    """Return what *decode* makes of what a change has returned, whose revision *announcement* gets."""
    if announcement is not None and found is not None and found > 0:
        announcement.made(found >> 1, None, known=False)
    return decode(found)


def _expected(revision: int | None) -> bytes:
    return b"" if revision is None else b"%d" % revision
