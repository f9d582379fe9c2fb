"""What comes from Redis: every event at once, or, when some were missed, from the store.

Pub/sub forgets whoever is not there.  So a node keeps a *mark* up to which it has
surely heard everything.  When it comes back, or begins to listen to something, it asks
the source which topics have got events since, and reads those; until that is
done, what comes on these topics waits, so that the order of the ids is kept.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TooLate
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.buses.redis_subscription import UNKNOWN, Gap, Subscription, subscription_to
from broker.core.deadlines import Deadlines
from broker.errors import BrokerError
from broker.interfaces import IEventSource
from broker.messages import Event
from broker.redis.connection import Connection
from broker.redis.events import event_from, pack, unpack

log = Logger()

LINGER = 10.0  # seconds for which a topic is heard after its last listener: polls come again
BATCH = 500  # events read, or topics asked for, in one go
AGAIN = 1.0  # seconds until the source is asked again after it has failed
SOON = 0.05  # seconds until a mark should be known
TIMEOUT = 2.0  # seconds for beginning to listen
SILENCE = 5.0  # seconds without an answer after which a connection is given up


class RedisSubscriber:
    """Listens, and makes good what was missed.

    Args:
        clock: times everything.
        channels: what the channels of topics begin with.
        inbox: the channel of this node.
        deliver: called with each event.
        tell: called with each message that comes to the inbox.
        publishes: whether this bus is publishing for a session.
    """

    def __init__(
        self,
        clock: IReactorTime,
        channels: str,
        inbox: str,
        deliver: Callable[[Event], object],
        tell: Callable[[bytes], object],
        publishes: Callable[[str], bool],
    ) -> None:
        self.generation = 0  # how often it has begun to listen
        self._clock = clock
        self._channels, self._inbox = channels, pack(inbox)
        self._deliver, self._notify, self._publishes = deliver, tell, publishes
        self._source: IEventSource
        self._connection: Connection
        self._subscriptions: dict[str, Subscription] = {}
        self._globs: list[Subscription] = []  # of those
        self._behind: dict[Subscription, None] = {}  # of those, which may have missed something
        self._idle: Deadlines[Subscription] = Deadlines(clock, self._stop_listening)
        self._joining: list[Subscription] = []  # those that began to listen in this turn
        self._numbers = count(1)
        self._unsettled: dict[Subscription, int] = {}  # those that are not heard yet, in their order
        self._waiting: deque[tuple[int, Deferred[None]]] = deque()  # who waits for all up to a number
        self._mark = UNKNOWN  # up to it everything was heard
        self._pings: list[tuple[int, int]] = []  # era and mark of each that is under way
        self._answered = 0.0  # when the connection has given a sign of life
        self._seen: dict[str, tuple[str, int]] = {}  # epoch and id of the last event of a topic
        self._gaps: dict[str, Gap] = {}  # topics that are being read
        self._last = b""  # the last message
        self._held: deque[Event] = deque()  # what waits until its publisher was answered, and all after it
        self._era = 0  # changes when the source is wiped
        self._catching_up = False
        self._pauses: set[Deferred[None]] = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._subscriptions)

    def use(self, connection: Connection) -> None:
        """Listen by *connection*, whose ``heard`` is ``heard`` of this."""
        self._connection = connection

    @property
    def source(self) -> IEventSource:
        """Where missed events are read."""
        return self._source

    @source.setter
    def source(self, source: IEventSource) -> None:
        self._source = source
        source.on_answer(self.resume)

    def stop(self) -> None:
        """Forget all timers."""
        self._stopped = True
        self._idle.stop()
        for pause in list(self._pauses):
            pause.cancel()

    # Interest.

    def listen(self, topic: str, prefix: bool) -> None:
        """Hear *topic* from now on."""
        made = subscription_to(topic, prefix)
        subscription = self._subscriptions.get(made.word)
        if subscription is None:
            self._subscriptions[made.word] = subscription = made
            if made.glob:
                self._globs.append(made)
            self._join(subscription)
        elif subscription.bucket:
            self._idle.drop(subscription, subscription.bucket)
            subscription.bucket = 0.0
        subscription.count += 1

    def forget(self, topic: str, prefix: bool) -> None:
        """Undo one ``listen``."""
        subscription = self._subscriptions[subscription_to(topic, prefix).word]
        subscription.count -= 1
        if not subscription.count:
            subscription.bucket = self._idle.add(subscription, LINGER)

    def listening(self) -> Deferred[None] | None:
        """Fire when all that is listened to now is heard, or that takes too long; None: it is."""
        if not self._unsettled:
            return None
        waiting: Deferred[None] = Deferred()
        self._waiting.append((next(reversed(self._unsettled.values())), waiting))
        return waiting.addTimeout(TIMEOUT, self._clock).addErrback(_too_long)

    def _settle(self, subscription: Subscription) -> None:
        """Notice that *subscription* is heard, and that what was before is known."""
        if self._unsettled.pop(subscription, None) is None:
            return
        first = next(iter(self._unsettled.values()), None)
        while self._waiting and (first is None or self._waiting[0][0] < first):
            _, waiting = self._waiting.popleft()
            if not waiting.called:
                waiting.callback(None)

    def _join(self, subscription: Subscription) -> None:
        subscription.mark = UNKNOWN
        self._behind[subscription] = None
        self._unsettled[subscription] = next(self._numbers)
        self._joining.append(subscription)
        if len(self._joining) == 1:
            # Asked for at once: who reads the store after this has missed nothing that is before the mark.
            self._clock.callLater(0, self._subscribe, self._source.mark())

    def _marked(self, mark: int, joined: Iterable[Subscription]) -> None:
        for subscription in joined:
            if subscription.mark == UNKNOWN:
                subscription.mark = subscription.base = mark
                if subscription.heard:
                    self._settle(subscription)
        self._catch_up()

    def _unmarked(self, failure: Failure, joined: Iterable[Subscription] = ()) -> None:
        failure.trap(BrokerError)
        self._marked(self._mark, joined)  # rather too much than too little; if unknown, the next beat asks

    def _subscribe(self, mark: Deferred[int]) -> None:
        joined, self._joining = self._joining, []
        mark.addCallbacks(self._marked, self._unmarked, (joined,), errbackArgs=(joined,))
        self._ask_for(joined)

    def _ask_for(self, interests: Iterable[Subscription]) -> None:
        protocol = self._connection.protocol
        if protocol is None:
            return
        for command, glob in ((b"SUBSCRIBE", False), (b"PSUBSCRIBE", True)):
            channels = [self._channel(subscription) for subscription in interests if subscription.glob is glob]
            for start in range(0, len(channels), BATCH):
                protocol.send(command, *channels[start : start + BATCH])

    def _stop_listening(self, subscription: Subscription) -> None:
        del self._subscriptions[subscription.word]
        self._behind.pop(subscription, None)
        self._settle(subscription)
        if subscription.glob:
            self._globs.remove(subscription)
        if self._connection.protocol is not None:
            command = b"PUNSUBSCRIBE" if subscription.glob else b"UNSUBSCRIBE"
            self._connection.protocol.send(command, self._channel(subscription))
        for topic in list(self._seen) if subscription.glob else [subscription.word]:
            if not any(True for _ in self._interests_of(topic)):
                self._seen.pop(topic, None)

    def _interests_of(self, topic: str) -> Iterable[Subscription]:
        exact = self._subscriptions.get(topic)
        if exact is not None and not exact.glob:
            yield exact
        yield from (subscription for subscription in self._globs if subscription.covers(topic))

    def _channel(self, subscription: Subscription) -> bytes:
        return pack(self._channels + subscription.word)

    # The connection.

    def opened(self) -> None:
        """Ask for everything again."""
        self.generation += 1
        self._answered = self._clock.seconds()
        self._connection.protocol.send(b"SUBSCRIBE", self._inbox)
        self._ask_for(list(self._subscriptions.values()))

    def closed(self) -> None:
        """Note that from now on everything is missed."""
        self._pings.clear()
        for subscription in self._subscriptions.values():
            subscription.heard = False
            if subscription.mark is None:
                subscription.mark = max(self._mark, subscription.base)
                self._behind[subscription] = None

    def wiped(self) -> None:
        """Begin anew: all that is in the source now is new."""
        self._era += 1
        self._mark = 0
        self._seen.clear()
        for subscription in self._subscriptions.values():
            subscription.mark = subscription.base = 0
            self._behind[subscription] = None
        self._catch_up()

    def beat(self) -> None:
        """See whether the connection lives, and move the mark.  To be called every second or so."""
        if self._clock.seconds() - self._answered > SILENCE:
            self._connection.drop("it does not answer")
        # Not those that join while the answer is under way: its mark is older than they are.
        self._source.mark().addCallbacks(self._ping, self._unmarked, (self._era, list(self._behind)))

    def _ping(self, mark: int, era: int, joined: Iterable[Subscription]) -> None:
        self._marked(mark, joined)
        protocol = self._connection.protocol
        if protocol is not None:
            # What was published before the mark comes before the answer.
            self._pings.append((era, mark))
            protocol.send(b"PING")

    def _ponged(self) -> None:
        self._answered = self._clock.seconds()
        if self._pings:
            era, mark = self._pings.pop(0)
            if era == self._era and not (self._behind or self._gaps):
                self._mark = mark

    # What comes.

    def heard(self, reply: Any) -> None:
        """Take whatever Redis says."""
        kind = reply[0] if type(reply) is list else reply
        if kind == b"message":
            if reply[1] == self._inbox:
                self._notify(reply[2])
            else:
                self._message(reply[2])
        elif kind == b"pmessage":
            self._message(reply[3])
        elif kind in (b"subscribe", b"psubscribe"):
            self._confirmed(reply[1])
        elif kind in (b"pong", b"PONG"):
            self._ponged()
        elif isinstance(reply, Exception):
            self._connection.drop(str(reply))

    def _confirmed(self, channel: bytes) -> None:
        subscription = self._subscriptions.get(unpack(channel).removeprefix(self._channels))
        if subscription is not None:
            subscription.heard = True
            if subscription.mark != UNKNOWN:
                self._settle(subscription)
            self._catch_up()

    def _message(self, message: bytes) -> None:
        # What matches several subscriptions comes once for each, one right after the other.
        if message == self._last:
            return
        self._last = message
        event = event_from(message)
        if self._held or self._is_early(event.origin):
            self._held.append(event)
        else:
            self._came(event)

    def _is_early(self, origin: str) -> bool:
        """Whether the publisher, a session here, does not know yet that it has published."""
        return bool(origin) and (self._publishes(origin) or self._source.publishes(origin))

    def resume(self) -> None:
        """Go on: publishers were answered."""
        while self._held and not self._is_early(self._held[0].origin):
            self._came(self._held.popleft())

    def _came(self, event: Event) -> None:
        if event.id:
            self._arrived(event)
        else:
            self._deliver(event)

    def _arrived(self, event: Event) -> None:
        """Deliver a stored event when those before it were."""
        topic = event.topic
        gap = self._gaps.get(topic)
        if gap is not None:
            gap.waiting.append(event)
            return
        epoch, id = self._seen.get(topic, ("", 0))
        if epoch == event.epoch:
            if event.id == id + 1:
                self._hand_on(event)
            elif event.id > id:
                self._fill(topic, UNKNOWN, event)
        elif epoch:
            del self._seen[topic]
            self._fill(topic, 0, event)
        elif marks := self._marks(topic):
            self._fill(topic, min(marks), event)
        else:
            self._hand_on(event)

    def _marks(self, topic: str) -> list[int]:
        return [subscription.mark for subscription in self._interests_of(topic) if subscription.mark is not None]

    def _hand_on(self, event: Event) -> None:
        self._seen[event.topic] = (event.epoch, event.id)
        self._deliver(event)

    # What was missed.

    def _catch_up(self) -> None:
        """Find the topics of which something was missed by those who are heard again."""
        if not self._catching_up and self._missing():
            self._catching_up = True
            Deferred.fromCoroutine(self._find_changes()).addErrback(_broke)

    def _missing(self) -> dict[Subscription, int]:
        return {
            subscription: subscription.mark
            for subscription in self._behind
            if subscription.heard and subscription.mark is not None and subscription.mark != UNKNOWN
        }

    async def _find_changes(self) -> None:
        try:
            while missing := self._missing():
                now = (self._era, self.generation)
                try:
                    changes = await self._source.changes(min(missing.values()))
                except BrokerError:
                    await self._pause(AGAIN)
                    continue
                if now == (self._era, self.generation):
                    self._note(changes, missing)
        finally:
            self._catching_up = False

    def _note(self, changes: dict[str, int], missing: dict[Subscription, int]) -> None:
        for topic, last in changes.items():
            marks = [mark for each in self._interests_of(topic) if (mark := missing.get(each, last)) < last]
            if not marks:
                continue
            gap = self._gaps.get(topic)
            if gap is None:
                self._fill(topic, min(marks))
            elif gap.mark == UNKNOWN:
                gap.mark = min(marks)
        for subscription in missing:
            if subscription.heard:  # else the connection was lost meanwhile
                subscription.mark = None
                self._behind.pop(subscription, None)

    def _fill(self, topic: str, mark: int, *events: Event) -> None:
        """Read what was missed of *topic*: after its last event that was seen, else after *mark*."""
        self._gaps[topic] = Gap(mark, list(events))
        Deferred.fromCoroutine(self._filled(topic)).addErrback(_broke)

    async def _filled(self, topic: str) -> None:
        gap = self._gaps[topic]
        complete = False
        while not complete and any(True for _ in self._interests_of(topic)):
            try:
                complete = await self._read(topic, gap)
            except BrokerError:
                await self._pause(AGAIN)
        del self._gaps[topic]
        for event in gap.waiting if complete else ():
            known = self._seen.get(topic)
            if topic in self._gaps or (known is not None and known[0] == event.epoch):
                self._arrived(event)
            elif known is None:
                self._hand_on(event)
            # Else it is of an epoch that the source does not know any more, or not yet.

    async def _read(self, topic: str, gap: Gap) -> bool:
        """Deliver what is stored of *topic*; say whether that was all."""
        era = self._era
        _, after = self._seen.get(topic, ("", 0))
        if not after:
            if gap.mark == UNKNOWN:
                marks = self._marks(topic)
                if UNKNOWN in marks:
                    await self._pause(SOON)
                    return False
                if not marks:
                    return True  # it was known in between, and nothing was missed
                gap.mark = min(marks)
            after = await self._source.since(topic, gap.mark) - 1
        while era == self._era and after >= 0:
            events = await self._source.read(topic, after, BATCH)
            if era != self._era:
                break
            for event in events:
                self._hand_on(event)
            if len(events) < BATCH:
                return True
            after = events[-1].id
        gap.mark = gap.mark if era == self._era else 0
        return era == self._era

    def _pause(self, seconds: float) -> Deferred[None]:
        if self._stopped:
            raise CancelledError
        pause: Deferred[None] = deferLater(self._clock, seconds)
        self._pauses.add(pause)
        return pause.addBoth(self._over, pause)

    def _over(self, result: Any, pause: Deferred[None]) -> Any:
        self._pauses.discard(pause)
        return result


def _too_long(failure: Failure) -> None:
    failure.trap(TooLate)


def _broke(failure: Failure) -> None:
    if not failure.check(CancelledError):
        log.failure("events that were missed could not be made good", failure)
