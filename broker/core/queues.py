"""Mailboxes of clients: each message is delivered to one of their sessions.

A message goes straight to a session that accepts it now.  What none accepts is
kept in a log of the queue, with one position up to which it has been delivered.
Delivered means handed to the consumer's connection; or acknowledged, where a session says that later: until then it
is kept, and those that have to come again come with all that were behind them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

import attrs
import msgspec
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.acknowledgements import Taken
from broker.core.afterwards import afterwards
from broker.core.lives import life_end
from broker.core.pages import READ_BYTES, is_last, position_of
from broker.core.uncancelled import uncancelled
from broker.errors import BrokerError, Conflict
from broker.interfaces import IStore
from broker.messages import MAX_TIME, Event, Mail, Quota

log = Logger()

_decode = msgspec.json.Decoder(tuple[str, float | None]).decode
_encode = msgspec.json.Encoder().encode

LOG = "mail/"
POSITION = "mail-at"  # space: queue -> id of the last message that was delivered
MESSAGES_PER_READ = 64
MIN_LIFE = 3600.0  # seconds that a position is kept at least
RETRY_DELAY = 1.0  # seconds until a delivery that has failed is tried again, doubled each time
MAX_RETRY_DELAY = 30.0  # seconds


class Taker(Protocol):
    """What queues need of a peer."""

    def post_mail(self, mail: Mail) -> Taken:
        """Hand *mail* to the client; False: it does not accept it now."""


@attrs.define(eq=False)
class Backlog:
    """The state of a queue that has consumers.

    Attributes:
        clear: whether nothing is stored.
        draining: whether what is stored is being delivered.
        again: whether something was stored, or there was reason to drain again, since that began.
        failures: how often delivery has failed since it last succeeded.
        acknowledged: whether a session has said of a message that it will be acknowledged: all are stored first then.
    """

    clear: bool = False
    draining: bool = False
    again: bool = False
    failures: int = 0
    acknowledged: bool = False


@attrs.define(eq=False)
class Progress:
    """The id *since* which messages were to be handed out, and that *to* which they have been; of an *epoch*."""

    since: int
    epoch: str
    to: int = attrs.field(default=attrs.Factory(lambda self: self.since, takes_self=True))


class Queues:
    """Delivers mail or keeps it.

    Args:
        store: keeps what no consumer accepts.
        clock: gives the age of a message.
        takers_of: returns the consumers of a queue, in the order to ask them.
        limit: how many messages a queue keeps; the oldest are dropped.
        max_age: seconds after which a kept message is dropped.
    """

    def __init__(
        self,
        store: IStore,
        clock: IReactorTime,
        takers_of: Callable[[str], list[Taker]],
        limit: int = 1000,
        max_age: float = 7 * 86400.0,
    ) -> None:
        self._store, self._clock, self._takers_of = store, clock, takers_of
        self._limit, self._max_age = limit, max_age
        self._backlogs: dict[str, Backlog] = {}
        self._later: dict[str, IDelayedCall] = {}  # queues to be drained again
        self._stopped = False

    def __len__(self) -> int:
        return len(self._backlogs)

    def put(self, mail: Mail, quota: Quota | None = None) -> Deferred[bool]:
        """Deliver *mail* or keep it; True when an older one was dropped for it.

        A queue in which it is the first to be kept counts against *quota*.

        The Deferred fires when it has been handed to a connection or stored.  Cancelling it gives up the answer only.
        """
        backlog = self._backlogs.get(mail.queue)
        # What waits goes first: order is kept.
        if backlog is not None and backlog.clear and not backlog.acknowledged:
            taken = self._offer(mail)
            if isinstance(taken, Deferred):
                return uncancelled(self._put_offered(mail, quota, backlog, taken))
            if taken:
                return succeed(False)
        return uncancelled(self._put(mail, quota))

    async def _put_offered(
        self, mail: Mail, quota: Quota | None, backlog: Backlog, taken: Deferred[bool | None]
    ) -> bool:
        """Keep *mail*, which was handed to a session, until that has *taken* it."""
        backlog.clear, backlog.draining, backlog.again, backlog.acknowledged = False, True, True, True
        stored: Event | None = None
        try:
            stored, dropped = await self._keep(mail, quota)
        finally:
            waiting = ensureDeferred(self._finish_offered(mail.queue, backlog, stored, taken))
            waiting.addErrback(self._drain_failed, mail.queue, backlog)
        return dropped

    async def _finish_offered(
        self, queue: str, backlog: Backlog, stored: Event | None, taken: Deferred[bool | None]
    ) -> None:
        declined = False
        try:
            answer = await taken
            declined = answer is False
            if answer and stored is not None:
                await self._advance(queue, stored.id, stored.epoch)
        finally:
            backlog.draining = False
            self.left(queue)
        if not declined:
            self.drain(queue)

    async def _put(self, mail: Mail, quota: Quota | None) -> bool:
        self._unclear(mail.queue)
        try:
            return (await self._keep(mail, quota))[1]
        finally:
            # Whatever has failed: it may be stored all the same.
            self._unclear(mail.queue)
            self.drain(mail.queue)

    def _unclear(self, queue: str) -> None:
        """Note that something is stored, or about to be."""
        backlog = self._backlogs.get(queue)
        if backlog is not None:
            backlog.clear, backlog.again = False, True

    def drain(self, queue: str) -> None:
        """Begin to deliver what *queue* keeps, if it has consumers."""
        if not self._takers_of(queue):
            return
        backlog = self._backlogs.setdefault(queue, Backlog())
        if backlog.draining:
            backlog.again = True
            return
        if backlog.clear:
            return
        backlog.draining = True
        ensureDeferred(self._drain(queue, backlog)).addErrback(self._drain_failed, queue, backlog)

    def is_known(self, queue: str) -> bool:
        """Whether anything was delivered from *queue*, or kept there, since its present consumers came."""
        return queue in self._backlogs

    def left(self, queue: str) -> None:
        """Notice that a consumer of *queue* has gone."""
        if not self._takers_of(queue):
            backlog = self._backlogs.get(queue)
            if backlog is not None and not backlog.draining:
                del self._backlogs[queue]

    def stop(self) -> None:
        """Cancel all timers."""
        self._stopped = True
        for timer in self._later.values():
            timer.cancel()
        self._later.clear()

    async def move(self, queue: str, put: Callable[[Mail, str], Awaitable[object]]) -> None:
        """Give all that *queue* keeps to *put*, one after the other, each with a text that is its own.

        Raises:
            BrokerError: one could not be put, or the store is away; what has been put is not kept any more.
        """
        while True:
            position, _ = await self._position(queue)
            kept = await self._store.read(LOG + queue, position, MESSAGES_PER_READ, READ_BYTES)
            if not kept:
                return
            moved = Progress(position, kept[0].epoch)
            await afterwards(self._move(queue, kept, put, moved), partial(self._keep_up, queue, moved))

    async def _move(
        self, queue: str, kept: Sequence[Event], put: Callable[[Mail, str], Awaitable[object]], moved: Progress
    ) -> None:
        oldest = self._store.oldest(self._max_age)
        for event in kept:
            mail = _mail(queue, event) if event.time >= oldest else None
            if mail is not None:
                await put(mail, f"{event.epoch}/{event.id}")
            moved.to = event.id

    async def _drain(self, queue: str, backlog: Backlog) -> None:
        try:
            while True:
                backlog.again = False
                emptied = await self._deliver_batch(queue)
                backlog.failures = 0
                # Who was asked to drain meanwhile may have a consumer that accepts what was declined before.
                if emptied is not False and not backlog.again:
                    backlog.clear = emptied is True
                    return
        finally:
            backlog.draining = False
            self.left(queue)

    async def _deliver_batch(self, queue: str) -> bool | None:
        """Deliver some of what is kept.

        True: nothing is left; False: more may be; None: no consumer accepts it now.
        """
        position, _ = await self._position(queue)
        kept = await self._store.read(LOG + queue, position, MESSAGES_PER_READ, READ_BYTES)
        if not self._may_deliver(queue):
            return None
        offered = self._offer_all(queue, kept)
        delivered = Progress(position, kept[0].epoch if kept else self._store.epoch)
        # Marked after the hand-over: a crash in between delivers again, and loses nothing.
        await afterwards(self._wait_for(queue, offered, delivered), partial(self._keep_up, queue, delivered))
        if kept and delivered.to != kept[-1].id:
            return None
        return is_last(kept, MESSAGES_PER_READ)

    async def _wait_for(self, queue: str, offered: Sequence[tuple[int, Taken]], delivered: Progress) -> None:
        """Wait until it is known of each that was *offered* whether it has been *delivered*."""
        try:
            for id, taken in offered:
                answer = await taken if isinstance(taken, Deferred) else taken
                if answer is None:  # the session has gone: there may be another
                    self._backlogs[queue].again = True
                if not answer:
                    break
                delivered.to = id
        finally:
            _ignore_failures(offered)

    async def _keep_up(self, queue: str, progress: Progress) -> None:
        """Forget the messages that are done."""
        if progress.to != progress.since:
            await self._advance(queue, progress.to, progress.epoch)

    def _offer_all(self, queue: str, kept: Sequence[Event]) -> list[tuple[int, Taken]]:
        """Hand out what is *kept*, until something is declined; return the ids, each with what has become of it."""
        oldest = self._store.oldest(self._max_age)
        offered: list[tuple[int, Taken]] = []
        for event in kept:
            mail = _mail(queue, event) if event.time >= oldest else None
            taken = mail is None or self._offer(mail)
            offered.append((event.id, taken))
            if isinstance(taken, Deferred):
                self._backlogs[queue].acknowledged = True
            elif not taken:
                break
        return offered

    def _may_deliver(self, queue: str) -> bool:
        """Whether it is still for this node to deliver what *queue* keeps."""
        return True

    async def _keep(self, mail: Mail, quota: Quota | None) -> tuple[Event, bool]:
        """Store *mail*; return it as it is stored, and whether an older one was dropped for it."""
        stored = await self._store.append(LOG + mail.queue, _event(mail), quota)
        excess = stored.id - self._limit
        return stored, excess > 0 and await self._advance(mail.queue, excess, stored.epoch)

    async def _advance(self, queue: str, upto: int, epoch: str) -> bool:
        """Forget the messages up to *upto*, an id of *epoch*; say whether any were left of them."""
        while True:
            position, revision = await self._position(queue)
            if position >= upto or (not revision and await self._begins_after(queue, upto)):
                return False
            try:
                await self._store.set(POSITION, queue, b"%d" % upto, revision=revision, expires=self._end())
            except Conflict:
                continue  # another node has moved it meanwhile
            await self._store.trim(LOG + queue, upto)
            return True

    async def _begins_after(self, queue: str, upto: int) -> bool:
        """Whether *queue*, which has no position, keeps nothing up to *upto*: not every log begins with 1."""
        first = await self._store.read(LOG + queue, 0, 1)
        return not first or first[0].id > upto

    def _end(self) -> float:
        """Return when a position that is stored now may end: the messages before it are too old then."""
        return life_end(self._store.wall.time(), max(self._max_age, MIN_LIFE))

    async def _position(self, queue: str) -> tuple[int, int]:
        entry = await self._store.get(POSITION, queue)
        return position_of(entry), 0 if entry is None else entry.revision

    def _offer(self, mail: Mail) -> Taken:
        """Hand *mail* to the first that takes it, or says later whether it has."""
        for taker in self._takers_of(mail.queue):
            taken = taker.post_mail(mail)
            if taken:
                return taken
        return False

    def _drain_failed(self, failure: Failure, queue: str, backlog: Backlog) -> None:
        if self._stopped:
            return
        if not backlog.failures:
            if failure.check(BrokerError):
                log.warn("queue {queue} waits: {reason}", queue=queue, reason=str(failure.value))
            else:
                log.error("queue {queue} stopped: {failure}", queue=queue, failure=failure)
        # Nothing else may come that would wake it.
        self._drain_later(queue, min(RETRY_DELAY * 2**backlog.failures, MAX_RETRY_DELAY))
        backlog.failures = min(backlog.failures + 1, 10)

    def _drain_later(self, queue: str, delay: float) -> None:
        """Drain *queue* in *delay* seconds at the latest."""
        timer = self._later.get(queue)
        if timer is None:
            if not self._stopped:
                self._later[queue] = self._clock.callLater(delay, self._drain_again, queue)
        elif timer.getTime() > self._clock.seconds() + delay:
            timer.reset(delay)

    def _drain_again(self, queue: str) -> None:
        del self._later[queue]
        self._unclear(queue)
        self.drain(queue)


def _ignore_failures(offered: Iterable[tuple[int, Taken]]) -> None:
    """Let nobody be told of answers that are not waited for any more."""
    for _, taken in offered:
        if isinstance(taken, Deferred):
            taken.addErrback(lambda _: None)


# In the log, reference and time go before the body, as JSON, with a newline in between.
# A body is not decoded: not every decoder takes all that JSON allows.  The time of
# the stored event is the store's: a sender's clock must not decide how long its message is kept.


def _event(mail: Mail) -> Event:
    return Event(mail.queue, "mail", _encode((mail.ref, mail.time)) + b"\n" + mail.body, source=mail.source)


def _mail(queue: str, event: Event) -> Mail | None:
    """Return the message that is kept as *event*, with the broker's time if its own is none that a clock shows.

    None: it is no message, so that nobody can get it; those behind it must not wait for that.
    """
    head, _, body = (event.body or b"").partition(b"\n")
    try:
        ref, time = _decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        log.warn("queue {queue}: what is stored as {id} is no message and is dropped", queue=queue, id=event.id)
        return None
    known = time is not None and 0 < time <= MAX_TIME
    return Mail(queue, ref, body, event.source, time if time is not None and known else event.time)
