"""Stored topics: post, read, wait for more, remember how far a client is."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.core.bounded import BoundedDict
from broker.core.deadlines import Deadlines
from broker.core.hot_topics import HotTopics
from broker.core.lives import life_end
from broker.core.pages import decode_cursor, encode_cursor, id_before_last, is_over, read_last_page, read_page
from broker.core.shares import Share
from broker.core.slices import slices_of
from broker.core.time_limits import cancellable
from broker.errors import BrokerError, Conflict, Invalid, NotDone, RateLimited, Unavailable
from broker.interfaces import MAX_PAGE_BYTES, Coro, IBus, IEventSource, ISharedStore, IStore
from broker.messages import MAX_ID, Addition, Event, Position, Quota
from broker.patterns import LOG_PREFIX, matches, pair_key

log = Logger()

CURSOR = "cursor"  # the space of the clients' cursors
MAX_HEADS = 10000  # topics whose newest event is remembered, to wait for the next without a look into the store
MAX_MOVES = 10000  # cursors whose last move is remembered
FEW_WAITERS = 50  # polls that are answered at once
NOTICE_RETRY = 1.0  # seconds until what nodes notify each other of is stored again, or what could not be sent is sent
MAX_NOTICES = 10000  # that wait for that, of each kind
MAX_UNSENT_BYTES = 16 * 1024 * 1024  # of the bodies of those that could not be sent

cursor_key = pair_key  # of a client id and a topic


@attrs.define
class Move:
    """The last move of a cursor."""

    id: int
    expires: float
    epoch: str
    stamped: bool = attrs.field(eq=False)
    stored: bool = attrs.field(default=False, eq=False)


@attrs.define(eq=False)
class Waiter:
    """One poll that waits; ``woken`` fires with an event, or None when it is ``over``."""

    topic: str
    share: Share
    woken: Deferred[Event | None] = attrs.field(factory=Deferred)
    bucket: dict[Waiter, float] = attrs.field(init=False, repr=False)  # of the deadlines
    over: bool = False
    refused: Failure | None = None  # why its client's cursor can not be moved

    def refuse(self, failure: Failure) -> None:
        """Let the poll fail, unless it is only that the store takes no writes."""
        if failure.check(Unavailable):
            return
        self.refused = failure
        if not self.woken.called:
            self.woken.errback(failure)


class Channels:
    """The log of every stored topic, and those who wait for its next event.

    Args:
        store: keeps the events and cursors.
        bus: brings new events to all nodes.
        clock: measures how long a poll waits.
        durable: patterns of the topics whose live publications are stored.
        waiting_limit: how many polls may wait at once in this process.
        cursor_seconds: how long a cursor lives without use; 0: for ever.
        share_limit: how many polls that count in one share may wait at once.
        dedup_seconds: how long a topic knows the key of an event that it has got.
    """

    def __init__(
        self,
        store: IStore,
        bus: IBus,
        clock: IReactorTime,
        durable: Iterable[str] = (),
        waiting_limit: int = 10000,
        cursor_seconds: float = 0.0,
        share_limit: int = 5000,
        dedup_seconds: float = 300.0,
    ) -> None:
        self._store, self._bus, self._clock = store, bus, clock
        self._slices = slices_of(clock)
        self._durable = tuple(durable)
        self._limit, self._share_limit = waiting_limit, share_limit
        self._cursor_seconds, self._dedup_seconds = cursor_seconds, dedup_seconds
        self._waiters: dict[str, dict[Waiter, None]] = {}
        self._deadlines: Deadlines[Waiter] = Deadlines(clock, self._wake_empty)
        self._moves: BoundedDict[str, Move] = BoundedDict(MAX_MOVES)
        self._heads: BoundedDict[str, int] = BoundedDict(MAX_HEADS)
        self._hot = HotTopics(bus, clock, self._heads)  # of several nodes: alone, a node gets every event
        self._unpublished: deque[Event] = deque()  # the rest of what was stored together
        self._notices: list[Event] = []  # by which nodes notify each other, and that the store has not taken yet
        self._unsent: deque[Event] = deque()  # that the bus has not taken, nor the store
        self._unsent_bytes = 0
        self._retry: IDelayedCall | None = None
        self._draining = self._stopped = False
        self.waiting = 0

    def is_durable(self, topic: str) -> bool:
        """Whether live publications on *topic* are stored as well."""
        return any(matches(pattern, topic) for pattern in self._durable)

    def post(
        self, event: Event, quota: Quota | None = None, key: str = "", expect: int | None = None
    ) -> Deferred[Event]:
        """Store *event*, then publish it; the Deferred fires in between.  A new channel counts against *quota*.

        It fires when the event is safe: the poster knows before any reader does.  Its time is the store's: no other
        clock must decide how long it is kept.  *key* and *expect*, the head, as in ``IStore.append``; a
        duplicate is not published.
        """
        event.time = 0.0
        answer: Deferred[Event] = Deferred()

        def stored(event: Event) -> None:
            answer.callback(event)
            if not (self._store.announces or event.duplicate):
                if self._unpublished:
                    self._unpublished.append(event)
                else:
                    sent = self._bus.publish(event)
                    if sent is not None:
                        sent.addErrback(self._not_sent, event)

        log = LOG_PREFIX + event.topic
        if key or expect is not None:
            appended = self._store.append(log, event, quota, expect, key, self._dedup_seconds)
        else:
            appended = self._store.append(log, event, quota)
        appended.addCallbacks(stored, answer.errback)
        return answer

    def post_all(self, additions: Sequence[Addition]) -> Deferred[list[Event]]:
        """Store the events of *additions*, whose logs are named by the topics, all or none; then publish them.

        See ``post``.
        """
        answer: Deferred[list[Event]] = Deferred()

        def stored(events: list[Event]) -> None:
            answer.callback(events)
            if not self._store.announces:
                self._publish_all(event for event in events if not event.duplicate)

        self._store.append_all(additions, self._dedup_seconds).addCallbacks(stored, answer.errback)
        return answer

    def _publish_all(self, events: Iterable[Event]) -> None:
        """Publish *events* in slices; what is stored meanwhile is published after them."""
        go_on = not self._unpublished
        self._unpublished.extend(events)
        if go_on:
            self._publish_some()

    def _publish_some(self) -> None:
        waiting, now, end = self._unpublished, self._slices.now, self._slices.deadline()
        while waiting:
            event = waiting.popleft()
            sent = self._bus.publish(event)
            if sent is not None:
                sent.addErrback(self._not_sent, event)
            if waiting and now() >= end:
                self._slices.add(self._publish_some)
                return

    def is_over(self, event: Event) -> bool:
        """Whether *event* has expired."""
        return is_over(self._store, event)

    def announce(self, event: Event) -> Deferred[Any] | None:
        """Publish *event* for the broker itself, stored first if its topic is durable and it is not yet.

        It fires, without failing, when the event is on its way, waits until it can be sent, or was lost, which
        is logged; None: it has arrived.
        """
        if self._unsent:
            self._keep_unsent(event)
            return succeed(None)
        unstored = not event.id and self.is_durable(event.topic)
        sent: Deferred[Any] | None = self.post(event) if unstored else self._bus.publish(event)
        return None if sent is None else sent.addErrback(self._not_sent, event)

    def _not_sent(self, failure: Failure, event: Event) -> None:
        # Not what may have been sent: it would come twice.
        if failure.check(NotDone) and self._may_wait:
            if not self._unsent:
                log.warn("an event on {topic} waits: {reason}", topic=event.topic, reason=str(failure.value))
            self._keep_unsent(event)
        else:
            event_lost(failure, event.topic)

    def _keep_unsent(self, event: Event) -> None:
        size = len(event.body or b"")
        if len(self._unsent) >= MAX_NOTICES or self._unsent_bytes + size > MAX_UNSENT_BYTES:
            event_lost(Failure(NotDone("bus", message="Too many events wait.")), event.topic)
            return
        self._unsent.append(event)
        self._unsent_bytes += size
        self._retry_soon()

    def notify(self, event: Event) -> None:
        """Bring *event* to this node and all others; those that are away get it later, perhaps more than once."""
        if self._bus.shared:
            self.post(event).addErrback(self._not_posted, event)
        else:
            self._bus.publish(event)

    def _not_posted(self, failure: Failure, event: Event) -> None:
        if not (failure.check(Unavailable) and self._may_wait) or len(self._notices) >= MAX_NOTICES:
            event_lost(failure, event.topic)
            return
        # What it tells has happened: a token was revoked, a room left.
        if not self._notices:
            log.warn("an event on {topic} waits: {reason}", topic=event.topic, reason=str(failure.value))
        self._notices.append(event)
        self._retry_soon()

    @property
    def _may_wait(self) -> bool:
        """Whether there will be another attempt at what the bus or the store refuses now."""
        return self._store.running and not self._stopped

    def _retry_soon(self) -> None:
        if self._retry is None and not self._stopped:
            self._retry = self._clock.callLater(NOTICE_RETRY, self._send_again)

    def _send_again(self) -> None:
        self._retry = None
        notices, self._notices = self._notices, []
        unsent, self._unsent, self._unsent_bytes = self._unsent, deque(), 0
        for event in notices:
            self.notify(event)
        for event in unsent:
            self.announce(event)

    def read(
        self, topic: str, after: int, limit: int, max_bytes: int = MAX_PAGE_BYTES, page_bytes: int = 0
    ) -> Deferred[list[Event]]:
        """Return at most *limit* events newer than id *after*, oldest first; see ``pages.read_page``."""
        page = read_page(self._store, LOG_PREFIX + topic, after, limit, max_bytes, self._slices, page_bytes)
        return cancellable(page)

    def latest(self, topic: str, limit: int, max_bytes: int = MAX_PAGE_BYTES) -> Deferred[list[Event]]:
        """Return the last *limit* events, oldest first; fewer when they have *max_bytes* bytes."""
        page = read_last_page(self._store, LOG_PREFIX + topic, limit, max_bytes, self._slices)
        return cancellable(page)

    def id_before_last(self, topic: str, limit: int) -> Coro[int | None]:
        """Return the id that the last *limit* events of *topic* follow; None: there are none."""
        return id_before_last(self._store, LOG_PREFIX + topic, limit, self._slices)

    def head(self, topic: str) -> Deferred[int]:
        """Return the id of the newest event there ever was; 0 for none."""
        return self._store.head(LOG_PREFIX + topic)

    async def poll(
        self,
        topic: str,
        after: int,
        limit: int,
        timeout: float,
        max_bytes: int = MAX_PAGE_BYTES,
        share: Share | None = None,
        page_bytes: int = 0,
        moved: Deferred[None] | None = None,
    ) -> list[Event]:
        """Return events of *topic* newer than id *after*, oldest first, at most *limit*; see ``read``.

        If there are none, wait up to *timeout* seconds (0: answer at once) and
        then return what has arrived, perhaps nothing.  Cancelling leaves no trace.

        With *moved*, which fires when the client's cursor is stored, nothing is returned before that, nor read: it
        would be kept as long, for very many polls at once.  While the store takes no writes, events are returned all
        the same.

        Raises:
            RateLimited: too many polls are waiting already, in all or of this client, which has *share*.
            BrokerError: why *moved* has failed.
        """
        if timeout <= 0 or self._draining:
            await _settled(moved)
            return await self.read(topic, after, limit, max_bytes, page_bytes)
        # Register before reading: an event posted in between must wake us.
        try:
            waiter = self._wait(topic, timeout, share or Share())
        except RateLimited:
            if moved is not None:
                moved.addErrback(lambda failure: failure.trap(BrokerError))  # nobody waits for it
            raise
        try:
            # The store says why it can not be read, where nobody knows when the bus will bring something.
            known = None if self._store.shared and self._bus.ready else self._heads.get(topic)
            events: list[Event] = []
            if known is None or after < known:
                await _settled(moved)
                events = await self.read(topic, after, limit, max_bytes, page_bytes)
            elif moved is not None:
                moved.addErrback(waiter.refuse)
            while not events and not waiter.over:
                event = await waiter.woken
                if moved is not None and not moved.called:
                    await moved
                if waiter.refused is not None:
                    waiter.refused.raiseException()
                # The usual case needs no second look into the store.
                if event is not None and event.id == after + 1:
                    return [event]
                waiter.woken = Deferred()
                # Also when the time is over: what another node has acknowledged may still be on its way here.
                events = await self._read_again(topic, after, limit, max_bytes, page_bytes)
            return events
        finally:
            self._stop_waiting(waiter)

    async def _read_again(self, topic: str, after: int, limit: int, max_bytes: int, page_bytes: int) -> list[Event]:
        """Read for one that waits already: while the store is away there is nothing new."""
        try:
            return await self.read(topic, after, limit, max_bytes, page_bytes)
        except Unavailable:
            return []

    def arrived(self, event: Event) -> None:
        """Wake every poll that waits for *event*'s topic."""
        topic = event.topic
        # Another node may have stored a later one that is still on its way.
        if not self._store.shared or topic in self._hot:
            known = self._heads.get(topic)
            if known is None:
                self._heads[topic] = event.id
            elif event.id > known:
                self._heads.replace(topic, event.id)
        waiters = self._waiters.get(topic)
        if waiters is None:
            return
        if len(waiters) > FEW_WAITERS:
            self._wake_all(iter(list(waiters)), event)
            return
        for waiter in list(waiters):
            if not waiter.woken.called:
                waiter.woken.callback(event)

    def _wake_all(self, waiters: Iterator[Waiter], event: Event | None) -> None:
        """Let *waiters* go on with *event*, in slices if there are many: each then answers."""
        now, end = self._slices.now, self._slices.deadline()
        for waiter in waiters:
            if not waiter.woken.called:
                waiter.woken.callback(event)
            if now() >= end:
                self._slices.add(lambda: self._wake_all(waiters, event))
                return

    def age(self) -> None:
        """Forget heads of topics and moves of cursors that have been remembered for a while."""
        self._heads.age(self._waiters.__contains__)
        self._moves.age()

    def drain(self) -> None:
        """End every waiting poll with no events, and let none wait from now on."""
        self._draining = True
        self.end_polls()

    def end_polls(self) -> None:
        """End every waiting poll with no events: the store may have others now."""
        self._heads.clear()
        ended = [waiter for waiters in self._waiters.values() for waiter in waiters]
        for waiter in ended:
            waiter.over = True
        self._wake_all(iter(ended), None)

    def stop(self) -> None:
        """Cancel all timers, and try for the last time what waits to be sent."""
        self._draining = self._stopped = True
        self._deadlines.stop()
        self._hot.stop()
        if self._retry is not None:
            self._retry.cancel()
            self._send_again()

    async def cursor(self, client: str, topic: str) -> int:
        """Return the id that *client* has acknowledged last in the present epoch; 0 for none."""
        position = await self.acknowledged(client, topic)
        return 0 if position is None or position.epoch != self._store.epoch else position.id

    async def acknowledged(self, client: str, topic: str) -> Position | None:
        """Return the position that *client* has acknowledged last, or None."""
        key = cursor_key(client, topic)
        entry = await self._store.get(CURSOR, key)
        if entry is None:
            return None
        end = life_end(self._store.wall.time(), self._cursor_seconds)
        if entry.expires != end:
            # To be read is to be used.  It is no harm if that can not be stored, or it is moved meanwhile.
            used = self._store.set(CURSOR, key, entry.value, revision=entry.revision, expires=end)
            used.addErrback(lambda failure: failure.trap(Conflict, Unavailable))
        return decode_cursor(entry.value, self._store.epoch)[0]

    def move_cursor(
        self, client: str, topic: str, id: int, quota: Quota | None = None, *, stamped: bool = False
    ) -> Deferred[None]:
        """Remember that *client* has all events up to *id*; it may go back.  A new one counts against *quota*.

        A move to where it is already, as most polls ask for, costs no write.  One that is *stamped* keeps its epoch,
        and when it was moved.
        """
        if not 0 <= id <= MAX_ID:
            return fail(Invalid("after"))
        store, key = self._store, cursor_key(client, topic)
        now, epoch = store.wall.time(), store.epoch
        move = Move(id, life_end(now, self._cursor_seconds), epoch, stamped)
        last = self._moves.get(key)
        if last is None:
            if not store.shared:  # else another node may move it meanwhile
                self._moves[key] = move
        elif last.id == id and last == move and last.stored and (last.stamped or not stamped):
            return succeed(None)
        else:
            self._moves.replace(key, move)

        def stored(_: object) -> None:
            move.stored = True

        value = encode_cursor(id, now, epoch) if stamped else b"%d" % id
        return store.set(CURSOR, key, value, expires=move.expires, quota=quota).addCallback(stored)

    def forget_cursor(self, client: str, topic: str) -> Deferred[bool]:
        """Remove what *client* has acknowledged of *topic*; say whether there was anything."""
        key = cursor_key(client, topic)
        self._moves.pop(key, None)
        return self._store.delete(CURSOR, key)

    @contextmanager
    def place(self, share: Share) -> Iterator[None]:
        """Let one more request wait, of the client that has *share*, as a poll does.

        Raises:
            RateLimited: see ``poll``.
        """
        self._take_place(share)
        try:
            yield
        finally:
            self._leave_place(share)

    def _take_place(self, share: Share) -> None:
        if self.waiting >= self._limit or share.polls >= self._share_limit:
            raise RateLimited("limit", "polls")
        self.waiting += 1
        share.polls += 1

    def _leave_place(self, share: Share) -> None:
        self.waiting -= 1
        share.polls -= 1

    def _wait(self, topic: str, timeout: float, share: Share) -> Waiter:
        self._take_place(share)
        waiter = Waiter(topic, share)
        self._waiters.setdefault(topic, {})[waiter] = None
        if len(self._waiters[topic]) == 1:
            (self._hot if self._store.shared else self._bus).listen(topic)
        waiter.bucket = self._deadlines.add(waiter, timeout)
        return waiter

    def _stop_waiting(self, waiter: Waiter) -> None:
        waiter.bucket.pop(waiter, None)
        waiters = self._waiters[waiter.topic]
        del waiters[waiter]
        self._leave_place(waiter.share)
        if not waiters:
            del self._waiters[waiter.topic]
            (self._hot if self._store.shared else self._bus).forget(waiter.topic)

    def _wake_empty(self, waiter: Waiter) -> None:
        waiter.over = True
        if not waiter.woken.called:
            waiter.woken.callback(None)


async def _settled(moved: Deferred[None] | None) -> None:
    """Return when a cursor is stored, or the store takes no writes."""
    if moved is not None:
        with suppress(Unavailable):
            await moved


def event_lost(failure: Failure, topic: str) -> None:
    """Log that an event of the broker itself was lost; an errback."""
    failure.trap(BrokerError)
    log.error("an event on {topic} was lost: {reason}", topic=topic, reason=str(failure.value))


@implementer(IEventSource)
class StoreEventSource:
    """The stored events of all topics, for a bus that has missed some.

    Args:
        store: keeps them.

    Attributes:
        publishes, on_answer: those of the store.
    """

    def __init__(self, store: ISharedStore) -> None:
        self._store = store
        self.publishes, self.on_answer = store.publishes, store.on_answer

    @property
    def kept(self) -> int:
        """See ``ISharedStore.kept``."""
        return self._store.kept

    @property
    def epoch(self) -> str:
        """That of the store."""
        return self._store.epoch

    @property
    def server(self) -> str:
        """That of the store."""
        return self._store.server

    def mark(self) -> Deferred[int]:
        """Return the present mark."""
        return self._store.mark()

    def changes(self, mark: int) -> Deferred[dict[str, int]]:
        """Return the topics that have got events after *mark*."""
        return self._store.changes(mark).addCallback(
            lambda logs: {log.removeprefix(LOG_PREFIX): last for log, last in logs.items()}
        )

    def since(self, topic: str, mark: int) -> Deferred[int]:
        """Return the id of the first event of *topic* after *mark*."""
        return self._store.since(LOG_PREFIX + topic, mark)

    def read(self, topic: str, after: int, limit: int, max_bytes: int = 0) -> Deferred[list[Event]]:
        """Return at most *limit* events with id > *after*; see ``IStore.read``."""
        return self._store.read(LOG_PREFIX + topic, after, limit, max_bytes)
