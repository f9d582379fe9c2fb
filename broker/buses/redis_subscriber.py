"""Receives from Redis what this node is subscribed to, and the messages that are addressed to it."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Collection
from itertools import count
from typing import Any

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.defer import TimeoutError as DeferredTimeout
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from broker.buses.redis_recovery import GapRecovery
from broker.buses.redis_subscription import UNKNOWN_MARK, Subscription, Subscriptions, Target, kind_of
from broker.core.bounded import BoundedDict
from broker.core.deadlines import Deadlines
from broker.core.slices import slices_of
from broker.errors import BrokerError, Unavailable
from broker.interfaces import IEventSource
from broker.messages import Event, encode_text
from broker.redis.connection import Connection
from broker.redis.event_codec import decode_message, mark_of

MAX_CHANNELS = 500  # in one command
UNSUBSCRIBE_DELAY = 10.0  # seconds for which a topic stays subscribed after its last listener: polls come again
SUBSCRIBE_TIMEOUT = 2.0  # seconds that ``listening`` waits
MAX_SERVERS = 10  # of which it is known what came from there last
SILENCE_TIMEOUT = 5.0  # seconds without an answer after which a connection is given up


@attrs.frozen
class Ping:
    """A ping that Redis has not answered yet.

    Attributes:
        sent: when.
        mark: everything before it has arrived when the answer does; or ``UNKNOWN_MARK``.
        era: of the recovery, to which the mark belongs.
        answered: fires with the answer, if anybody waits for it.
    """

    sent: float
    mark: int
    era: int
    answered: Deferred[None] | None = None


@attrs.frozen
class Held:
    """An event that is not delivered yet.

    Attributes:
        bus_answers: how often the bus must have answered its publishers.
        source_answers: the same of the source.
    """

    event: Event
    bus_answers: int
    source_answers: int


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
        missed: called with the texts of subscriptions that were said to be in effect before there had been any
            contact, when there is some: what was stored in between does not come.

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
        missed: Callable[[list[str]], object],
    ) -> None:
        self.generation = 0
        self._server = ""
        self._clock = clock
        self._inbox = encode_text(inbox)
        self._deliver, self._notify, self._publishes = deliver, notify, publishes
        self._on_answer, self._missed = on_answer, missed
        self._connection: Connection
        self._subscriptions = Subscriptions(channels)
        self._recovery = GapRecovery(clock, self._subscriptions, deliver)
        self._unused: Deadlines[Subscription] = Deadlines(clock, self._unsubscribe)
        self._added: list[Subscription] = []  # those that Redis was not asked for yet
        self._numbers = count(1)
        # Those not yet in effect, numbered in their order.  Of a dict, the first is slow to find once many left.
        self._pending: OrderedDict[Subscription, int] = OrderedDict()
        self._waiting: deque[tuple[int, Deferred[None]]] = deque()  # who waits for all up to a number
        self._early: dict[Subscription, None] = {}  # of which nobody knows at which mark they should have begun
        self._pings: deque[Ping] = deque()  # those that are under way
        self._asking = False  # whether the source is asked for its mark
        self._last = b""  # the last message
        self._last_stored = b""  # that of the last event that is stored, since it is connected to this server
        self._last_of: BoundedDict[str, bytes] = BoundedDict(MAX_SERVERS)  # the same of those before
        self._slices = slices_of(clock)
        self._held: deque[Held] = deque()  # what waits until its publisher was answered, and all after it
        self._bus_answers = self._source_answers = 0  # how often, while something was held, publishers were answered

    def __len__(self) -> int:
        return len(self._subscriptions)

    @property
    def server(self) -> str:
        """To which it is connected, as ``IEventSource.server`` says it: a mark says nothing of another."""
        return self._server

    @server.setter
    def server(self, server: str) -> None:
        if server != self._server:
            self._last_of[self._server] = self._last_stored
            self._server, self._last_stored = server, self._last_of.pop(server, b"")

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
        kind = kind_of(topic, prefix)
        subscription = self._subscriptions.get(kind, topic)
        if subscription is None:
            subscription = self._add(kind, topic)
        else:
            self._unused.drop(subscription, subscription.bucket)
            subscription.bucket = None
        subscription.count += 1

    def forget(self, topic: str, prefix: bool) -> None:
        """See ``IBus.forget``."""
        subscription = self._subscriptions.get(kind_of(topic, prefix), topic)
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
        return waiting.addTimeout(SUBSCRIBE_TIMEOUT, self._clock).addErrback(self._wait_no_longer)

    def _wait_no_longer(self, failure: Failure) -> None:
        failure.trap(DeferredTimeout)
        # Who waited is told that it listens: a mark that comes only now may be later than what it must hear of.
        self._begin_at(self._recovery.mark, self._pending)

    def _add(self, kind: str, text: str) -> Subscription:
        subscription = self._subscriptions.add(kind, text)
        self._recovery.add(subscription)
        self._pending[subscription] = next(self._numbers)
        self._added.append(subscription)
        if len(self._added) == 1:
            # Asked for at once: who reads the store after this has missed nothing that is before the mark.
            self._clock.callLater(0, self._subscribe_added, self.source.mark().addErrback(_not_told))
        return subscription

    def _subscribe_added(self, mark: Deferred[int | None]) -> None:
        added, self._added = self._added, []
        mark.addCallback(self._begin_added, added)
        # Another one may have needed the same before.
        targets = {subscription.target: None for subscription in added if subscription.target.subscriptions}
        self._subscribe([target for target in targets if not target.subscribed])

    def _begin_at(self, mark: int, subscriptions: Collection[Subscription]) -> None:
        begun = self._recovery.begin_at(mark, subscriptions)
        for subscription in begun:
            if subscription.confirmed:
                self._in_effect(subscription)
        self._recovery.catch_up()
        if mark == UNKNOWN_MARK:
            self._early.update(dict.fromkeys(begun))
        elif self._early:
            early = [each for each in begun if each in self._early]
            for each in early:
                del self._early[each]
            if early:
                self._missed([each.text for each in early])

    def _begin_added(self, mark: int | None, added: Collection[Subscription]) -> None:
        # Rather too much than too little; if this mark is unknown, too, the next heartbeat asks.
        self._begin_at(self._recovery.mark if mark is None else mark, added)

    def _begin_none(self, failure: Failure) -> None:
        failure.trap(BrokerError)
        self._begin_at(self._recovery.mark, ())

    def _in_effect(self, subscription: Subscription) -> None:
        """Fire who waits for *subscription*: Redis has confirmed it, and it is known what was before."""
        if self._pending.pop(subscription, None) is None:
            return
        first = next(iter(self._pending.values()), None)
        while self._waiting and (first is None or self._waiting[0][0] < first):
            _, waiting = self._waiting.popleft()
            if not waiting.called:
                waiting.callback(None)

    def _subscribe(self, targets: Collection[Target]) -> None:
        protocol = self._connection.protocol
        if protocol is None:
            return
        for command, glob in ((b"SUBSCRIBE", False), (b"PSUBSCRIBE", True)):
            words = [target.ask() for target in targets if target.glob is glob]
            for start in range(0, len(words), MAX_CHANNELS):
                protocol.send(command, *words[start : start + MAX_CHANNELS])

    def _unsubscribe(self, subscription: Subscription) -> None:
        last = self._subscriptions.remove(subscription)
        self._recovery.remove(subscription)
        self._early.pop(subscription, None)
        self._in_effect(subscription)
        if last and self._connection.protocol is not None:
            target = subscription.target
            self._connection.protocol.send(b"PUNSUBSCRIBE" if target.glob else b"UNSUBSCRIBE", target.word)

    # The connection.

    def opened(self) -> None:
        """Subscribe to everything again."""
        self.generation += 1
        self._connection.protocol.send(b"SUBSCRIBE", self._inbox)
        self._subscribe(self._subscriptions.targets)

    def closed(self) -> None:
        """Note that from now on everything is missed."""
        pings, self._pings = self._pings, deque()
        self._recovery.disconnected()
        for ping in pings:
            if ping.answered is not None:
                ping.answered.errback(_not_connected())

    def wiped(self, kept: int = 0) -> None:
        """See ``ISharedBus.wiped``."""
        self._early.clear()  # they get all that there is
        self._recovery.wiped(kept)

    def last_mark(self, epoch: str, server: str) -> int:
        """See ``ISharedBus.last_mark``."""
        message = self._last_stored if server == self._server else self._last_of.get(server, b"")
        last, mark = mark_of(message) if message else ("", 0)
        return mark if last == epoch else 0

    def heartbeat(self) -> None:
        """See whether the connection lives, and move the mark.  To be called every second or so."""
        if self._is_silent():
            # Once more when what has arrived meanwhile was read: it may be this process that has stood still.
            self._clock.callLater(0, self._drop_silent, self._pings[0], self._last)
        # Whatever the source does: it says nothing of this connection.
        self._ping(UNKNOWN_MARK, self._recovery.era)
        if not self._asking:
            self._asking = True
            # Not those that join while the answer is under way: its mark is older than they are.
            behind = self._recovery.behind
            asked = self.source.mark().addCallbacks(self._on_mark, self._begin_none, (self._recovery.era, behind))
            asked.addBoth(self._mark_answered)

    def _mark_answered(self, result: object) -> object:
        self._asking = False
        return result

    def _on_mark(self, mark: int, era: int, behind: list[Subscription]) -> None:
        self._begin_at(mark, behind)
        if self.server == self.source.server:
            # What was published before the mark comes before the answer.
            self._ping(mark, era)

    def received_all(self) -> Deferred[None]:
        """See ``ISharedBus.received_all``."""
        if self._connection.protocol is None:
            return fail(_not_connected())
        answered: Deferred[None] = Deferred()
        self._ping(UNKNOWN_MARK, self._recovery.era, answered)
        return answered

    def _ping(self, mark: int, era: int, answered: Deferred[None] | None = None) -> None:
        protocol = self._connection.protocol
        if protocol is not None:
            self._pings.append(Ping(self._clock.seconds(), mark, era, answered))
            protocol.send(b"PING")

    def _on_pong(self) -> None:
        if self._pings:
            ping = self._pings.popleft()
            if ping.mark != UNKNOWN_MARK:
                self._recovery.received_up_to(ping.mark, ping.era)
            if ping.answered is not None:
                ping.answered.callback(None)

    def _is_silent(self) -> bool:
        return bool(self._pings) and self._clock.seconds() - self._pings[0].sent > SILENCE_TIMEOUT

    def _drop_silent(self, ping: Ping, last: bytes) -> None:
        # Messages show that it lives, too: the answer may be behind many of them.
        if self._pings and self._pings[0] is ping and self._last is last:
            self._connection.drop("it does not answer")

    # Messages.

    def on_message(self, reply: Any) -> None:
        """Take a reply of Redis: a list of bytes whose first says what it is, a status or an exception."""
        kind = reply[0] if type(reply) is list else reply
        if kind == b"message":
            if reply[1] == self._inbox:
                self._last = reply[2]
                self._notify(reply[2])
            else:
                self._on_event(reply[2])
        elif kind == b"pmessage":
            self._on_event(reply[3])
        elif kind in (b"subscribe", b"psubscribe"):
            self._on_confirmation(kind == b"psubscribe", reply[1])
        elif kind in (b"pong", b"PONG"):
            self._on_pong()
        elif isinstance(reply, Exception):
            self._connection.drop(str(reply))

    def _on_confirmation(self, glob: bool, word: bytes) -> None:
        target = self._subscriptions.on_confirmation(glob, word)
        if target is not None:
            for subscription in target.subscriptions:
                if subscription.mark != UNKNOWN_MARK:
                    self._in_effect(subscription)
            self._recovery.on_confirmation(target)

    def _on_event(self, message: bytes) -> None:
        # An event that matches several subscriptions arrives once for each, one right after the other.
        if message == self._last:
            return
        self._last = message
        event = decode_message(message)
        if event.id:
            self._last_stored = message
        if self._held or (event.origin and self._is_early(event.origin)):
            self._hold(event)
        else:
            self._pass_on(event)

    def _is_early(self, origin: str) -> bool:
        """Whether the publisher, a session of this node, does not know yet that it has published."""
        return self._publishes(origin) or self.source.publishes(origin)

    def _hold(self, event: Event) -> None:
        """Keep *event* until what its publisher waits for now is answered; not what it may publish after that."""
        origin = event.origin
        by_bus = bool(origin) and self._publishes(origin)
        by_source = bool(origin) and self.source.publishes(origin)
        if by_bus:
            self._on_answer(self._bus_answered)
        if by_source:
            self.source.on_answer(self._source_answered)
        self._held.append(Held(event, self._bus_answers + by_bus, self._source_answers + by_source))

    def _bus_answered(self) -> None:
        self._bus_answers += 1
        self._release()

    def _source_answered(self) -> None:
        self._source_answers += 1
        self._release()

    def _release(self) -> None:
        """Deliver the events whose publishers were answered, up to the first whose was not."""
        held, end = self._held, self._slices.deadline()
        while held and held[0].bus_answers <= self._bus_answers and held[0].source_answers <= self._source_answers:
            self._pass_on(held.popleft().event)
            if held and self._slices.now() >= end:
                self._slices.add(self._release)
                return

    def _pass_on(self, event: Event) -> None:
        if event.id:
            self._recovery.on_event(event)
        else:
            self._deliver(event)


def _not_connected() -> Unavailable:
    return Unavailable("redis", message="Redis does not bring what is published now.")


def _not_told(failure: Failure) -> None:
    failure.trap(BrokerError)
