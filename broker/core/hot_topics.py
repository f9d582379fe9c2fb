"""The topics to which one of several nodes listens for its polls, and for a while after the last of these."""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from broker.core.bounded import BoundedDict
from broker.core.deadlines import Deadlines
from broker.interfaces import IBus

MAX_KEPT = 1000  # topics that nobody waits for
KEPT_SECONDS = 10.0  # for which they are listened to: who polls comes again


class HotTopics:
    """Listens to the topics that somebody waits for.

    While it does, every event of theirs arrives, though perhaps late: so the ids of the newest are known.  They
    are not any more when it ends.

    Args:
        bus: brings the events.
        clock: says when to listen no more.
        heads: ids of the newest events that have arrived, by their topics.
    """

    def __init__(self, bus: IBus, clock: IReactorTime, heads: BoundedDict[str, int]) -> None:
        self._bus, self._heads = bus, heads
        self._awaited: set[str] = set()  # topics that somebody waits for
        self._kept: dict[str, dict[str, float]] = {}  # the others that are listened to, and their buckets
        self._unused: Deadlines[str] = Deadlines(clock, self._end)
        self._stopped = False

    def __contains__(self, topic: str) -> bool:
        """Whether it listens to *topic*."""
        return topic in self._awaited or topic in self._kept

    def listen(self, topic: str) -> None:
        """Listen to *topic*: somebody waits for it."""
        self._awaited.add(topic)
        bucket = self._kept.pop(topic, None)
        if bucket is None:
            self._bus.listen(topic)
        else:
            self._unused.drop(topic, bucket)

    def forget(self, topic: str) -> None:
        """Notice that nobody waits for *topic* any more."""
        self._awaited.discard(topic)
        if topic in self._heads and len(self._kept) < MAX_KEPT and not self._stopped:
            self._kept[topic] = self._unused.add(topic, KEPT_SECONDS)
        else:
            self._end(topic)

    def _end(self, topic: str) -> None:
        self._kept.pop(topic, None)
        self._heads.pop(topic, None)
        self._bus.forget(topic)

    def stop(self) -> None:
        """Listen to nothing that nobody waits for; leave no timer behind."""
        self._stopped = True
        self._unused.stop()
        for topic in list(self._kept):
            self._end(topic)
