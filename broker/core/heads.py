"""The newest ids of topics that are waited for, so that a poll of what is not there yet asks no store."""

from __future__ import annotations

from collections.abc import Container

from twisted.internet.interfaces import IReactorTime

from broker.core.bounded import BoundedDict
from broker.core.deadlines import Deadlines
from broker.interfaces import IBus, IStore
from broker.messages import Event

MAX_HEADS = 10_000  # topics whose newest event is remembered
MAX_KEPT = 1000  # topics that nobody waits for, to which a node of several listens on
KEPT_SECONDS = 10.0  # for which it does: who polls comes again


class Heads:
    """Knows up to which id the events of topics have arrived.

    Alone, a node gets to know of every event.  One of several does so for as long as it listens to the topic: what is
    stored meanwhile arrives, though perhaps late.  So it goes on listening for a while when nobody waits any more.

    Args:
        store: keeps the events.
        bus: brings them.
        clock: says when to listen no more.
    """

    def __init__(self, store: IStore, bus: IBus, clock: IReactorTime) -> None:
        self._store, self._bus = store, bus
        self._ids: BoundedDict[str, int] = BoundedDict(MAX_HEADS)
        self._awaited: set[str] = set()  # topics that somebody waits for
        self._kept: dict[str, dict[str, float]] = {}  # the others that are listened to, and their buckets
        self._unused: Deadlines[str] = Deadlines(clock, self._forget)
        self._stopped = False

    def __len__(self) -> int:
        return len(self._ids)

    def get(self, topic: str) -> int | None:
        """Return the id of the newest event of *topic* that has arrived; None: the store has to be asked.

        Of several nodes, another may have stored a later one that is still on its way.
        """
        if self._store.shared and self._bus.ready:
            return None  # nobody knows when that would be, and the store says why it can not be read
        return self._ids.get(topic)

    def arrived(self, event: Event) -> None:
        """Note that *event* has arrived."""
        topic = event.topic
        if self._store.shared and topic not in self._awaited and topic not in self._kept:
            return
        known = self._ids.get(topic)
        if known is None:
            self._ids[topic] = event.id
        elif event.id > known:
            self._ids.replace(topic, event.id)

    def listen(self, topic: str) -> None:
        """Listen to *topic*: somebody waits for it."""
        self._awaited.add(topic)
        bucket = self._kept.pop(topic, None)
        if bucket is None:
            self._bus.listen(topic)
        else:
            self._unused.drop(topic, bucket)

    def leave(self, topic: str) -> None:
        """Notice that nobody waits for *topic* any more."""
        self._awaited.discard(topic)
        if self._store.shared and topic in self._ids and len(self._kept) < MAX_KEPT and not self._stopped:
            self._kept[topic] = self._unused.add(topic, KEPT_SECONDS)
        else:
            self._end(topic)

    def _forget(self, topic: str) -> None:
        del self._kept[topic]
        self._end(topic)

    def _end(self, topic: str) -> None:
        if self._store.shared:
            self._ids.pop(topic, None)
        self._bus.forget(topic)

    def age(self, kept: Container[str]) -> None:
        """Forget ids that have been remembered for a while, but those of the topics *kept*."""
        self._ids.age(kept.__contains__)

    def clear(self) -> None:
        """Forget all ids: the store has others now."""
        self._ids.clear()

    def stop(self) -> None:
        """Listen to nothing that nobody waits for; leave no timer behind."""
        self._stopped = True
        self._unused.stop()
        for topic in list(self._kept):
            self._forget(topic)
