"""The work queues that an operator has named: they are counted one by one, all others only together."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.interfaces import IReactorTime

from broker.core.jobs import MAX_COUNTING
from broker.interfaces import IStore
from broker.jobs import QueueState


class NamedQueues:
    """Counts the jobs of a few queues.

    Args:
        store: keeps the jobs.
        names: of the queues, without ``queue:``; from the settings alone, for clients make queues as they like.
        clock: measures how long that takes.
    """

    STATES = ("ready", "delayed", "in_flight", "dead", "oldest_seconds")

    def __init__(self, store: IStore, names: Iterable[str], clock: IReactorTime) -> None:
        self._store, self._clock = store, clock
        self._next = clock.seconds()  # when they are counted again, at the earliest
        self._states = {name: QueueState() for name in names}

    async def measure(self) -> None:
        """Count their jobs; a no-op soon after a count that has taken long.

        Raises:
            Unavailable: the store is away.
        """
        began = self._clock.seconds()
        if began < self._next:
            return
        for name in self._states:
            self._states[name] = await self._store.jobs.state(name)
        ended = self._clock.seconds()
        self._next = ended + (ended - began) / MAX_COUNTING

    def read(self, state: str) -> dict[str, float] | None:
        """Return how many jobs are in a *state*, by queue, as they were counted last; None: no queue was named."""
        if not self._states:
            return None
        if state == "oldest_seconds":
            now = self._store.wall.time()
            return {name: max(0.0, now - each.oldest) if each.oldest else 0.0 for name, each in self._states.items()}
        return {name: float(getattr(each, state)) for name, each in self._states.items()}
