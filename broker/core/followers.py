"""Subscriptions that begin at a position: what is stored since then comes first, page by page, then what is new.

A follower listens before it looks for the newest event, and knows the id of the last event of each topic that it has
delivered: so nothing is missed and nothing comes twice where the two meet, and whatever the bus leaves
out is read from the store.  While its client has no room it keeps nothing but these ids.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.core.bounded import BoundedDict
from broker.core.pages import READ_BYTES, first_id, is_over
from broker.core.semaphore import Semaphore
from broker.core.slices import slices_of
from broker.core.starts import PlaceOf, places_of, start_of
from broker.errors import BrokerError
from broker.interfaces import IFollower, IStore
from broker.messages import EPOCH, NEW, RETENTION, START, Event, Loss, Origin, Start
from broker.patterns import LOG_PREFIX

log = Logger()

READS_AT_ONCE = 4  # pages, of all clients: each may have two MiB
PAGE = 100  # events
RETRY = 1.0  # seconds until the store is asked again that was away
MAX_REMEMBERED = 1000  # topics of one pattern whose last event is remembered
BEHIND_BYTES = 300  # that a topic costs while its events are to be read


class Subscriptions(Protocol):
    """What followers need of ``Topics``."""

    def subscribe(self, listener: Any, topic: str, *, exact: bool = False, echo: bool = False) -> None:
        """Subscribe *listener* to *topic*."""

    def unsubscribe(self, listener: Any, topic: str, *, exact: bool = False) -> None:
        """Undo ``subscribe``."""


@attrs.define(eq=False)
class Behind:
    """A topic whose stored events are to be read before those that the bus brings are delivered.

    Attributes:
        after: the id of the last that was delivered.
        upto: the highest id there is, as far as it is known; None: that is to be asked for.
        oldest: whether it begins with the oldest that is kept, so that what is missing before that is no loss.
    """

    after: int
    upto: int | None
    oldest: bool = False


class Followers:
    """All followers of a node.

    Args:
        store: has the events.
        topics: bring what is new.
        clock: times the pauses.
        excluded: returns the ids of the sessions here that an event is not to be delivered to.
        page_bytes: how much is read at once: no more than a client has room for.
    """

    def __init__(
        self,
        store: IStore,
        topics: Subscriptions,
        clock: IReactorTime,
        excluded: Callable[[Event], Collection[str]],
        page_bytes: int = READ_BYTES,
    ) -> None:
        self.store, self.topics, self.clock, self.excluded = store, topics, clock, excluded
        self.page_bytes = min(page_bytes, READ_BYTES)
        self.slices = slices_of(clock)
        self.reading = Semaphore(READS_AT_ONCE, sys.maxsize, "pages")
        self.all: dict[Follower, None] = {}

    def __len__(self) -> int:
        return len(self.all)

    @property
    def behind(self) -> int:
        """How many have stored events before them that they have not delivered."""
        return sum(bool(follower.behind) for follower in self.all)

    def restart(self) -> None:
        """Tell all clients that the positions of before mean nothing any more: the epoch is another one."""
        for follower in list(self.all):
            follower.restart()

    def stop(self) -> None:
        """Stop all of them."""
        for follower in list(self.all):
            follower.stop()


@implementer(IFollower)
@attrs.define(eq=False)
class Follower:
    """One subscription of one client that has a position in each of its topics; see ``IFollower``.

    Attributes:
        id: the session id of its client.
        topic: a name or a pattern.
        exact: whether wildcards in it are ordinary characters.
        echo: whether the client gets what it publishes itself from now on; what was stored comes in any case.
        starts: see the interface.
        stopped: whether it was stopped.
        behind: the topics whose stored events are to be read.

    Args:
        deliver, lost: see ``IPeer.follow``.
        hold: counts what is kept for the client.
        share: lets its client, with all its connections, read so much at once.
        failed: called while an exception of *deliver* is handled, with what it was about.
    """

    _followers: Followers = attrs.field(repr=False)
    id: str
    topic: str
    exact: bool
    echo: bool
    _deliver: Callable[[Event], bool] = attrs.field(repr=False)
    _lost: Callable[[Loss], object] = attrs.field(repr=False)
    _hold: Callable[[int], object] = attrs.field(repr=False)
    _share: Semaphore = attrs.field(repr=False)
    _failed: Callable[[str], object] = attrs.field(repr=False)
    starts: list[Start] = attrs.field(factory=list)
    stopped: bool = False
    behind: OrderedDict[str, Behind] = attrs.field(factory=OrderedDict)
    _epoch: str = attrs.field(init=False)
    _last: BoundedDict[str, int] = attrs.field(factory=lambda: BoundedDict(MAX_REMEMBERED), repr=False)
    _replays: bool = False  # whether a topic that has begun anew is read from its start
    _started: bool = False
    _full: bool = False  # whether the client had no room for the next event
    _reads: bool = False
    _reading: Deferred[None] | None = attrs.field(default=None, repr=False)

    def __attrs_post_init__(self) -> None:
        self._epoch = self._followers.store.epoch
        self._followers.all[self] = None
        # Its own events, too: what it has not seen would be a gap.
        self._followers.topics.subscribe(self, self.topic, exact=self.exact, echo=True)

    # The beginning and the end.

    async def begin(self, origin: Origin | PlaceOf) -> None:
        """Find where it begins; called when the subscription is in force on all nodes.

        *origin* may also be a function that returns the place of a topic.

        Raises:
            Invalid: *origin* does not fit the topic, or a position is beyond the newest event.
            TooLarge: a pattern has too many topics.
        """
        store, self._replays = self._followers.store, origin != NEW
        while True:
            self._epoch = epoch = store.epoch
            places = await places_of(store, self.topic, origin, exact=self.exact)
            found = [await start_of(store, topic, place) for topic, place in places]
            if store.epoch == epoch:
                break
        self.starts = [start for start, _ in found]
        for start, head in found:
            self._begin_at(start, head, oldest=start.loss is not None or origin == START)

    def _begin_at(self, start: Start, head: int, *, oldest: bool) -> None:
        topic, after = start.topic, start.position.id
        seen = self.behind.get(topic)  # what the bus has brought meanwhile
        upto = max(head, (seen and seen.upto) or 0)
        if upto > after:
            self._set_behind(topic, Behind(after, upto, oldest))
        else:
            self._set_up_to_date(topic, after)

    def start(self) -> None:
        """See ``IFollower.start``."""
        self._started = True
        self.restart()
        self._go_on()

    def resume(self) -> None:
        """See ``IFollower.resume``."""
        self._full = False
        self._go_on()

    def stop(self) -> None:
        """Deliver nothing any more; idempotent."""
        if self.stopped:
            return
        self.stopped = True
        followers = self._followers
        followers.all.pop(self, None)
        followers.topics.unsubscribe(self, self.topic, exact=self.exact)
        if self._reading is not None:
            self._reading.cancel()
        self._hold(-BEHIND_BYTES * len(self.behind))
        self.behind.clear()

    def fall_behind(self, event: Event) -> None:
        """Begin with *event*, which has come by a subscription that this one replaces, when there is room."""
        self._started = self._full = True
        self._set_behind(event.topic, Behind(event.id - 1, event.id))

    def restart(self) -> None:
        """Go on in the present epoch: tell what was lost of each topic, and begin with what is there."""
        epoch = self._followers.store.epoch
        if epoch == self._epoch or not self._started or self.stopped:
            return
        before, self._epoch = self._epoch, epoch
        topics = {**self._last, **{topic: behind.after for topic, behind in self.behind.items()}}
        self._last.clear()
        for topic, after in topics.items():
            self._lost(Loss(topic, before, after + 1, None, EPOCH))
            if self._replays:
                self._set_behind(topic, Behind(0, None, oldest=True))
            elif self.behind.pop(topic, None) is not None:
                self._hold(-BEHIND_BYTES)
        self._go_on()

    # What the bus brings.

    def on_event(self, event: Event, pattern: str) -> None:
        """Deliver *event* if it is the next of its topic; else read what is missing."""
        id, topic = event.id, event.topic
        if not id:  # it is not stored
            if self._started and (self.echo or event.origin != self.id):
                self._handed_over(event)
            return
        last = self._last.get(topic)  # of what is behind, there is none
        if last is None or id != last + 1 or event.epoch != self._epoch or not self._started:
            self._on_other_event(event)
            return
        self._last.replace(topic, id)  # before: the next one may come while this one is delivered
        if (event.origin != self.id or self.echo) and not self._handed_over(event):
            self._full = True
            self._set_behind(topic, Behind(last, id))

    def _on_other_event(self, event: Event) -> None:
        """Do what *event* asks for, which is not the next of a topic that is up to date."""
        id, topic = event.id, event.topic
        if event.epoch != self._epoch:
            self.restart()
            if event.epoch != self._epoch:
                return
        behind = self.behind.get(topic)
        if behind is not None:
            behind.upto = max(behind.upto or 0, id)
            return
        last = self._last.get(topic)
        if last is None and self._started:
            self._last[topic] = id - 1  # a topic that is new, or that was not heard of for long
            self.on_event(event, "")
        elif last is None or id > last:  # else it has come by the store
            self._set_behind(topic, Behind(id - 1 if last is None else last, id))
            self._go_on()

    def _handed_over(self, event: Event) -> bool:
        """Return whether *event* was delivered, or its client is not to get it."""
        if event.exclude and self.id in self._followers.excluded(event):
            return True
        try:
            return self._deliver(event)
        except Exception:
            self._failed("an event")
            return True

    def _set_behind(self, topic: str, behind: Behind) -> None:
        if topic not in self.behind:
            self._hold(BEHIND_BYTES)
        self.behind[topic] = behind
        self._last.pop(topic, None)

    def _set_up_to_date(self, topic: str, last: int) -> None:
        if self.behind and self.behind.pop(topic, None) is not None:
            self._hold(-BEHIND_BYTES)
        if topic in self._last:
            self._last.replace(topic, last)
        else:
            self._last[topic] = last

    # What is read.

    def _go_on(self) -> None:
        if self._reads or self._full or self.stopped or not (self._started and self.behind):
            return
        self._reads = True
        reading = Deferred.fromCoroutine(self._read_on())
        self._reading = None if reading.called else reading
        reading.addErrback(_log_failure).addBoth(self._reading_ended)

    def _reading_ended(self, _: object) -> None:
        self._reads, self._reading = False, None

    async def _read_on(self) -> None:
        """Read and deliver as long as something is missing and the client has room."""
        followers = self._followers
        end = followers.slices.deadline()
        while self.behind and not (self._full or self.stopped):
            topic, behind = next(iter(self.behind.items()))
            try:
                # Whoever follows very much waits for himself before all others wait for him.
                async with self._share.permit(), followers.reading.permit():
                    done = await self._read_page(topic, behind)
            except BrokerError:
                done = False
            if not done:
                await deferLater(followers.clock, RETRY)
            if self.behind.get(topic) is behind:
                self.behind.move_to_end(topic)
            end = await followers.slices.checked(end)

    async def _read_page(self, topic: str, behind: Behind) -> bool:
        """Deliver the next events of *topic*; False if the store does not have yet what the bus has brought."""
        store, name, epoch = self._followers.store, LOG_PREFIX + topic, self._epoch
        if behind.upto is None:
            head = await store.head(name)
            behind.upto = max(behind.upto or 0, head)
        # Later ones may be there, of which the bus has told nothing yet: they are no reason to read on.
        upto = behind.upto
        page = PAGE, self._followers.page_bytes
        events = await store.read(name, behind.after, *page) if upto > behind.after else []
        if self.behind.get(topic) is not behind:
            return True
        if store.epoch != epoch:
            self.restart()
            return True
        before = behind.after
        await self._find_loss(topic, behind, events[0].id if events else upto + 1)
        if self.behind.get(topic) is not behind or not self._deliver_page(behind, events):
            return True
        if behind.after >= behind.upto:
            self._set_up_to_date(topic, behind.after)
            return True
        return behind.after > before

    def _deliver_page(self, behind: Behind, events: Iterable[Event]) -> bool:
        """Deliver *events* as long as there is room; return whether that was all of them."""
        store = self._followers.store
        for event in events:
            if event.id <= behind.after:
                continue
            if not (event.expires and is_over(store, event)) and not self._handed_over(event):
                self._full = True
                return False
            behind.after, behind.oldest = event.id, False
            if self.stopped:
                return False
        return True

    async def _find_loss(self, topic: str, behind: Behind, following: int) -> None:
        """Tell what retention has removed between what was delivered and *following*, which is read next."""
        if following <= behind.after + 1:
            return
        last = following - 1
        if not behind.oldest:
            first = await first_id(self._followers.store, LOG_PREFIX + topic)
            if first <= behind.after + 1 or self.behind.get(topic) is not behind:
                return
            last = min(first, following) - 1
            self._lost(Loss(topic, self._epoch, behind.after + 1, last, RETENTION))
        behind.after = last


def _log_failure(failure: Failure) -> None:
    if not failure.check(CancelledError):
        log.failure("a subscription has stopped reading the store", failure)
