"""Receives from Redis what this node is subscribed to, and the messages that are addressed to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection
from itertools import count
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from broker.buses.redis_recovery import GapRecovery
from broker.buses.redis_subscription import UNKNOWN_MARK, Subscription, Subscriptions, subscription_to
from broker.core.deadlines import Deadlines
from broker.errors import BrokerError
from broker.interfaces import IEventSource
from broker.messages import Event, decode_text, encode_text
from broker.redis.connection import Connection
from broker.redis.event_codec import decode_message, mark_of

MAX_CHANNELS = 500  # in one command
UNSUBSCRIBE_DELAY = 10.0  # seconds for which a topic stays subscribed after its last listener: polls come again
SUBSCRIBE_TIMEOUT = 2.0  # seconds that ``listening`` waits
SILENCE_TIMEOUT = 5.0  # seconds without an answer after which a connection is given up


class RedisSubscriber:
    """Subscribes, and delivers what arrives; ``GapRecovery`` reads what was missed.

    Args:
        clock: times everything.
        channels: what the channels of topics begin with.
        inbox: the channel of this node.
        deliver: called with each event.
        notify: called with each message to the inbox.
        publishes: whether this bus is publishing for a session, by its id.
        on_answer: lets its argument be called once, when those for whom it publishes were answered.

    Attributes:
        generation: how often it has connected.
    """

    def __init__(
        self,
        clock: IReactorTime,
        channels: str,
        inbox: str,
        deliver: Callable[[Event], object],
        notify: Callable[[bytes], object],
        publishes: Callable[[str], bool],
        on_answer: Callable[[Callable[[], object]], object],
    ) -> None:
        self.generation = 0
        self._clock = clock
        self._channels, self._inbox = channels, encode_text(inbox)
        self._deliver, self._notify, self._publishes = deliver, notify, publishes
        self._on_answer = on_answer
        self._connection: Connection
        self._subscriptions = Subscriptions()
        self._recovery = GapRecovery(clock, self._subscriptions, deliver)
        self._unused: Deadlines[Subscription] = Deadlines(clock, self._unsubscribe)
        self._added: list[Subscription] = []  # those that Redis was not asked for yet
        self._numbers = count(1)
        self._pending: dict[Subscription, int] = {}  # those not yet in effect, numbered in their order
        self._waiting: deque[tuple[int, Deferred[None]]] = deque()  # who waits for all up to a number
        self._pings: list[tuple[int, int]] = []  # era and mark of each that is under way
        self._answered = 0.0  # when the connection last showed that it lives
        self._last = b""  # the last message
        self._last_stored = b""  # that of the last event that is stored
        self._held: deque[Event] = deque()  # what waits until its publisher was answered, and all after it

    def __len__(self) -> int:
        return len(self._subscriptions)

    def use(self, connection: Connection) -> None:
        """Subscribe by *connection*, whose ``on_message`` is that of this object."""
        self._connection = connection

    @property
    def source(self) -> IEventSource:
        """Where missed events are read."""
        return self._recovery.source

    @source.setter
    def source(self, source: IEventSource) -> None:
        self._recovery.source = source

    def stop(self) -> None:
        """Cancel all timers."""
        self._unused.stop()
        self._recovery.stop()

    # Subscriptions.

    def listen(self, topic: str, prefix: bool) -> None:
        """See ``IBus.listen``."""
        made = subscription_to(topic, prefix)
        subscription = self._subscriptions.get(made.target)
        if subscription is None:
            subscription = made
            self._add(made)
        else:
            self._unused.drop(subscription, subscription.bucket)
            subscription.bucket = None
        subscription.count += 1

    def forget(self, topic: str, prefix: bool) -> None:
        """See ``IBus.forget``."""
        subscription = self._subscriptions.get(subscription_to(topic, prefix).target)
        assert subscription is not None, f"nobody listens to {topic!r}"
        subscription.count -= 1
        if not subscription.count:
            subscription.bucket = self._unused.add(subscription, UNSUBSCRIBE_DELAY)

    def listening(self) -> Deferred[None] | None:
        """See ``IBus.listening``."""
        if not self._pending:
            return None
        waiting: Deferred[None] = Deferred()
        self._waiting.append((next(reversed(self._pending.values())), waiting))
        return waiting.addTimeout(SUBSCRIBE_TIMEOUT, self._clock).addErrback(_ignore_timeout)

    def _add(self, subscription: Subscription) -> None:
        self._subscriptions.add(subscription)
        self._recovery.add(subscription)
        self._pending[subscription] = next(self._numbers)
        self._added.append(subscription)
        if len(self._added) == 1:
            # Asked for at once: who reads the store after this has missed nothing that is before the mark.
            self._clock.callLater(0, self._subscribe_added, self.source.mark())

    def _subscribe_added(self, mark: Deferred[int]) -> None:
        added, self._added = self._added, []
        mark.addCallbacks(self._begin_at, self._begin_anyway, (added,), errbackArgs=(added,))
        self._subscribe(added)

    def _begin_at(self, mark: int, subscriptions: Collection[Subscription]) -> None:
        for subscription in self._recovery.begin_at(mark, subscriptions):
            if subscription.confirmed:
                self._in_effect(subscription)
        self._recovery.catch_up()

    def _begin_anyway(self, failure: Failure, subscriptions: Collection[Subscription] = ()) -> None:
        failure.trap(BrokerError)
        # Rather too much than too little; if this mark is unknown, too, the next heartbeat asks.
        self._begin_at(self._recovery.mark, subscriptions)

    def _in_effect(self, subscription: Subscription) -> None:
        """Fire who waits for *subscription*: Redis has confirmed it, and it is known what was before."""
        if self._pending.pop(subscription, None) is None:
            return
        first = next(iter(self._pending.values()), None)
        while self._waiting and (first is None or self._waiting[0][0] < first):
            _, waiting = self._waiting.popleft()
            if not waiting.called:
                waiting.callback(None)

    def _subscribe(self, subscriptions: Collection[Subscription]) -> None:
        protocol = self._connection.protocol
        if protocol is None:
            return
        for command, glob in ((b"SUBSCRIBE", False), (b"PSUBSCRIBE", True)):
            channels = [self._channel(subscription) for subscription in subscriptions if subscription.glob is glob]
            for start in range(0, len(channels), MAX_CHANNELS):
                protocol.send(command, *channels[start : start + MAX_CHANNELS])

    def _unsubscribe(self, subscription: Subscription) -> None:
        self._subscriptions.remove(subscription)
        self._recovery.remove(subscription)
        self._in_effect(subscription)
        if self._connection.protocol is not None:
            command = b"PUNSUBSCRIBE" if subscription.glob else b"UNSUBSCRIBE"
            self._connection.protocol.send(command, self._channel(subscription))

    def _channel(self, subscription: Subscription) -> bytes:
        return encode_text(self._channels + subscription.target)

    # The connection.

    def opened(self) -> None:
        """Subscribe to everything again."""
        self.generation += 1
        self._answered = self._clock.seconds()
        self._connection.protocol.send(b"SUBSCRIBE", self._inbox)
        self._subscribe(list(self._subscriptions))

    def closed(self) -> None:
        """Note that from now on everything is missed."""
        self._pings.clear()
        self._recovery.disconnected()

    def wiped(self, kept: int = 0) -> None:
        """See ``ISharedBus.wiped``."""
        self._recovery.wiped(kept)

    def last_mark(self, epoch: str) -> int:
        """See ``ISharedBus.last_mark``."""
        last, mark = mark_of(self._last_stored) if self._last_stored else ("", 0)
        return mark if last == epoch else 0

    def heartbeat(self) -> None:
        """See whether the connection lives, and move the mark.  To be called every second or so."""
        if self._clock.seconds() - self._answered > SILENCE_TIMEOUT:
            self._connection.drop("it does not answer")
        # Not those that join while the answer is under way: its mark is older than they are.
        behind = self._recovery.behind
        self.source.mark().addCallbacks(self._ping, self._begin_anyway, (self._recovery.era, behind))

    def _ping(self, mark: int, era: int, behind: list[Subscription]) -> None:
        self._begin_at(mark, behind)
        protocol = self._connection.protocol
        if protocol is not None:
            # What was published before the mark comes before the answer.
            self._pings.append((era, mark))
            protocol.send(b"PING")

    def _on_pong(self) -> None:
        self._answered = self._clock.seconds()
        if self._pings:
            era, mark = self._pings.pop(0)
            self._recovery.received_up_to(mark, era)

    # Messages.

    def on_message(self, reply: Any) -> None:
        """Take a reply of Redis: a list of bytes whose first says what it is, a status or an exception."""
        kind = reply[0] if type(reply) is list else reply
        if kind == b"message":
            if reply[1] == self._inbox:
                self._notify(reply[2])
            else:
                self._on_event(reply[2])
        elif kind == b"pmessage":
            self._on_event(reply[3])
        elif kind in (b"subscribe", b"psubscribe"):
            self._on_confirmation(reply[1])
        elif kind in (b"pong", b"PONG"):
            self._on_pong()
        elif isinstance(reply, Exception):
            self._connection.drop(str(reply))

    def _on_confirmation(self, channel: bytes) -> None:
        subscription = self._subscriptions.get(decode_text(channel).removeprefix(self._channels))
        if subscription is not None:
            subscription.confirmed = True
            if subscription.mark != UNKNOWN_MARK:
                self._in_effect(subscription)
            self._recovery.catch_up()

    def _on_event(self, message: bytes) -> None:
        # An event that matches several subscriptions arrives once for each, one right after the other.
        if message == self._last:
            return
        self._last = message
        event = decode_message(message)
        if event.id:
            self._last_stored = message
        if self._held:
            self._held.append(event)
        elif self._is_early(event.origin):
            self._held.append(event)
            self._pause()
        else:
            self._pass_on(event)

    def _is_early(self, origin: str) -> bool:
        """Whether the publisher, a session of this node, does not know yet that it has published."""
        return bool(origin) and (self._publishes(origin) or self._recovery.source.publishes(origin))

    def _pause(self) -> None:
        """Go on when the publishers of this bus, or those of the store, were answered."""
        self._on_answer(self.resume)
        self.source.on_answer(self.resume)

    def resume(self) -> None:
        """Deliver the events that were held until their publishers were answered."""
        while self._held and not self._is_early(self._held[0].origin):
            self._pass_on(self._held.popleft())
        if self._held:
            self._pause()

    def _pass_on(self, event: Event) -> None:
        if event.id:
            self._recovery.on_event(event)
        else:
            self._deliver(event)


def _ignore_timeout(failure: Failure) -> None:
    failure.trap(DeferredTimeout)
