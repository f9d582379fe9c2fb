"""Delivers stored events in the order of their ids; those that were missed are read from the store.

Pub/sub forgets whoever is not connected.  So a node keeps a *mark* of the store up to
which it has surely received everything.  When it connects again, or subscribes to
something, it asks the source which topics have got events since, and reads those; until
that is done, events of these topics that arrive wait, so that the order of the ids is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TypeGuard

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.buses.redis_subscription import EXACT, UNKNOWN_MARK, Subscription, Subscriptions, Target
from broker.core.pages import READ_BYTES, is_last
from broker.core.pauses import Pauses
from broker.errors import BrokerError
from broker.interfaces import IEventSource
from broker.messages import Event

log = Logger()

MAX_EVENTS = 500  # in one answer of the source
RETRY_DELAY = 1.0  # seconds until the source is asked again after it has failed
MARK_DELAY = 0.05  # seconds until a mark that the source was asked for should be known


@attrs.define(eq=False)
class Gap:
    """A topic of which something was missed, for as long as that is being read.

    Attributes:
        mark: the mark after which to read when no event of the topic was seen.
        waiting: its events that have arrived since, in their order.
    """

    mark: int
    waiting: list[Event]


class GapRecovery:
    """Delivers each stored event once and in order, whatever pub/sub has missed.

    Args:
        clock: times the pauses between two attempts.
        subscriptions: what this node wants.
        deliver: called with each event.

    Attributes:
        source: where missed events are read; set before anything is subscribed.
        era: changes when the source is wiped.
    """

    source: IEventSource

    def __init__(self, clock: IReactorTime, subscriptions: Subscriptions, deliver: Callable[[Event], object]) -> None:
        self.era = 0
        self._clock, self._subscriptions, self._deliver = clock, subscriptions, deliver
        self._mark = UNKNOWN_MARK  # everything up to it was received
        self._behind: dict[Subscription, None] = {}  # those that may have missed something
        self._seen: dict[str, tuple[str, int]] = {}  # epoch and id of the last event of a topic
        # The last id seen of a topic before the source went back, and the mark up to which that is still there:
        # as long as nothing of it was seen since.
        self._had: dict[str, tuple[int, int]] = {}
        self._gaps: dict[str, Gap] = {}  # by topic
        self._disconnections = 0
        self._catching_up = False
        self._pauses = Pauses(clock)

    def stop(self) -> None:
        """Cancel all timers; what is missing stays so."""
        self._pauses.stop()

    # Subscriptions and marks.

    @property
    def behind(self) -> list[Subscription]:
        """The subscriptions that may have missed something."""
        return list(self._behind)

    @property
    def mark(self) -> int:
        """The mark up to which everything was received; ``UNKNOWN_MARK`` at first."""
        return self._mark

    def add(self, subscription: Subscription) -> None:
        """Take *subscription*, which is new; it has missed something until its mark is known."""
        subscription.mark = UNKNOWN_MARK
        self._behind[subscription] = None

    def remove(self, subscription: Subscription) -> None:
        """Forget *subscription*, which is not in the table any more, and the topics nobody else wants."""
        self._behind.pop(subscription, None)
        seen, had = self._seen, self._had
        topics = [subscription.text] if subscription.kind == EXACT else filter(subscription.predicate, [*seen, *had])
        for topic in topics:
            if not self._subscriptions.match(topic):
                seen.pop(topic, None)
                had.pop(topic, None)

    def begin_at(self, mark: int, subscriptions: Collection[Subscription]) -> list[Subscription]:
        """Let those of *subscriptions* without a mark begin at *mark*; return them."""
        begun = [subscription for subscription in subscriptions if subscription.mark == UNKNOWN_MARK]
        for subscription in begun:
            subscription.mark = subscription.base = mark
        return begun

    def received_up_to(self, mark: int, era: int) -> None:
        """Note that all before *mark* has arrived, unless something is still missing or *era* is over."""
        if era == self.era and not (self._behind or self._gaps):
            self._mark = mark

    def disconnected(self) -> None:
        """Note that from now on everything is missed."""
        self._disconnections += 1
        self._subscriptions.disconnected()
        for subscription in self._subscriptions:
            if subscription.mark is None:
                subscription.mark = max(self._mark, subscription.base)
                self._behind[subscription] = None

    def wiped(self, kept: int = 0) -> None:
        """Start over: all that is in the source after the mark *kept* is new."""
        self.era += 1
        before = kept if self._mark == UNKNOWN_MARK else self._mark
        self._mark = min(before, kept)
        self._had = {topic: (id, min(mark, kept)) for topic, (id, mark) in self._had.items()}
        self._had.update((topic, (id, kept)) for topic, (_, id) in self._seen.items())
        self._seen.clear()
        for topic, gap in self._gaps.items():
            # After what had come of it, else after the marks of the subscriptions.
            gap.mark = 0 if topic in self._had else min(gap.mark, kept)
            gap.waiting.clear()  # they are of before, or are read again
        for subscription in self._subscriptions:
            mark = subscription.mark
            if mark is None:
                mark = max(before, subscription.base)
            subscription.mark = kept if mark == UNKNOWN_MARK else min(mark, kept)
            subscription.base = subscription.mark
            self._behind[subscription] = None
        self.catch_up()

    # Events.

    def on_event(self, event: Event) -> None:
        """Deliver *event*, which is stored, as soon as those before it were."""
        topic = event.topic
        gap = self._gaps.get(topic)
        if gap is not None:
            gap.waiting.append(event)
            return
        epoch, id = self._seen.get(topic, ("", 0))
        if epoch == event.epoch:
            if event.id == id + 1:
                self._deliver_next(event)
            elif event.id > id:
                self._fill(topic, UNKNOWN_MARK, event)
        elif event.epoch != self.source.epoch:
            # Of before the source was wiped; or the source has not noticed yet that it was, which asking it changes:
            # then all that it has is read.
            self.source.mark().addErrback(_ignore_unavailable)
        elif epoch:
            del self._seen[topic]
            self._fill(topic, 0, event)
        elif marks := [subscription.mark for subscription in self._subscriptions.matching(topic)]:
            missed = [mark for mark in marks if mark is not None]
            if missed:
                self._fill(topic, min(missed), event)
            else:
                self._deliver_next(event)
        # Else the glob that Redis was asked for matches more than anybody wants.  To note that this one was seen would
        # be wrong: who subscribes to the topic later would get what is in between.

    def _deliver_next(self, event: Event) -> None:
        self._seen[event.topic] = (event.epoch, event.id)
        self._deliver(event)

    # Recovery.

    def catch_up(self) -> None:
        """Begin to read what the subscriptions that are confirmed again have missed; a no-op while that goes on."""
        if not self._catching_up and self._missing():
            self._catching_up = True
            Deferred.fromCoroutine(self._find_changes()).addErrback(_log_failure)

    def on_confirmation(self, target: Target) -> None:
        """Begin to read what the subscriptions of *target*, which is confirmed, have missed."""
        # A look at all of them at each of thousands of confirmations would take seconds.
        if any(subscription in self._behind and _is_known(subscription.mark) for subscription in target.subscriptions):
            self.catch_up()

    def _missing(self) -> dict[Subscription, int]:
        return {
            subscription: mark
            for subscription in self._behind
            if subscription.confirmed and _is_known(mark := subscription.mark)
        }

    async def _find_changes(self) -> None:
        try:
            while missing := self._missing():
                before = (self.era, self._disconnections)
                try:
                    changes = await self.source.changes(min(missing.values()))
                except BrokerError:
                    await self._pauses.pause(RETRY_DELAY)
                    continue
                if before == (self.era, self._disconnections):
                    self._fill_changed(changes, missing)
        finally:
            self._catching_up = False

    def _fill_changed(self, changes: dict[str, int], missing: dict[Subscription, int]) -> None:
        for topic, last in changes.items():
            matching = self._subscriptions.matching(topic)
            marks = [mark for subscription in matching if (mark := missing.get(subscription, last)) < last]
            if not marks:
                continue
            gap = self._gaps.get(topic)
            if gap is None:
                self._fill(topic, min(marks))
            elif gap.mark == UNKNOWN_MARK:
                gap.mark = min(marks)
        for subscription in missing:
            if subscription.confirmed:  # else the connection was lost by what was delivered
                subscription.mark = None
                self._behind.pop(subscription, None)

    def _fill(self, topic: str, mark: int, *events: Event) -> None:
        """Read what was missed of *topic*: after its last event that was seen, else after *mark*."""
        self._gaps[topic] = Gap(mark, list(events))
        Deferred.fromCoroutine(self._filled(topic)).addErrback(_log_failure)

    async def _filled(self, topic: str) -> None:
        gap = self._gaps[topic]
        complete = False
        while not complete and self._subscriptions.match(topic):
            try:
                complete = await self._read(topic, gap)
            except BrokerError:
                await self._pauses.pause(RETRY_DELAY)
        del self._gaps[topic]
        for event in gap.waiting if complete else ():
            if topic in self._gaps or topic in self._seen:
                self.on_event(event)
            elif event.epoch == self.source.epoch:
                self._deliver_next(event)

    async def _read(self, topic: str, gap: Gap) -> bool:
        """Deliver what is stored of *topic*; return whether that was all."""
        era = self.era
        _, after = self._seen.get(topic, ("", 0))
        if not after:
            if gap.mark == UNKNOWN_MARK:
                matching = self._subscriptions.matching(topic)
                marks = [subscription.mark for subscription in matching if subscription.mark is not None]
                if UNKNOWN_MARK in marks:
                    await self._pauses.pause(MARK_DELAY)
                    return False
                if not marks:
                    return True  # the mark became known in between, and nothing was missed
                gap.mark = min(marks)
            after = await self._first_missed(topic, min([gap.mark, *self._received(topic)])) - 1
            if after > 0 and gap.waiting:
                # What has come may be from before the mark, by a subscription that began earlier.
                after = min(after, gap.waiting[0].id - 1)
        complete = await self._deliver_after(topic, after, era)
        return complete

    def _received(self, topic: str) -> list[int]:
        """Return the marks up to which those that want *topic* have surely got its events, as far as they are known.

        What one of them reads is the last that was seen: what is on its way to others, or missed by them, and before
        that, would never be delivered.
        """
        matching = [each for each in self._subscriptions.matching(topic) if each.mark != UNKNOWN_MARK]
        return [max(self._mark, each.base) if each.mark is None else each.mark for each in matching]

    async def _first_missed(self, topic: str, mark: int) -> int:
        """Return the id of the first event of *topic* after *mark* that has not come yet; 0 for none."""
        first = await self.source.since(topic, mark)
        had, kept = self._had.get(topic, (0, 0))
        if not 0 < first <= had:
            return first
        # Some have come before the source went back; those that it got since may have the same ids.
        new = await self.source.since(topic, kept)
        return min(had + 1, new) if new else had + 1

    async def _deliver_after(self, topic: str, after: int, era: int) -> bool:
        """Deliver the stored events with ids above *after*; return False if the source was wiped meanwhile."""
        while era == self.era and after >= 0:
            events = await self.source.read(topic, after, MAX_EVENTS, READ_BYTES)
            if era != self.era:
                return False
            for event in events:
                self._deliver_next(event)
            if is_last(events, MAX_EVENTS):
                return True
            after = events[-1].id
        return era == self.era


def _is_known(mark: int | None) -> TypeGuard[int]:
    return mark is not None and mark != UNKNOWN_MARK


def _ignore_unavailable(failure: Failure) -> None:
    failure.trap(BrokerError)


def _log_failure(failure: Failure) -> None:
    if not failure.check(CancelledError):
        log.failure("gap recovery failed", failure)
