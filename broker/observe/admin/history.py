"""What the node has done in the last quarter of an hour: a sample of its counters every two seconds."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from broker.core.parts import Parts
from broker.errors import BrokerError
from broker.observe.admin.node import totals
from broker.observe.admin.stored import Lags

log = Logger()

INTERVAL = 2.0  # seconds between two samples
KEPT = 450  # samples: 15 minutes
LAG_EVERY = 8  # samples: cursors are looked at less often, since that asks the store

Sample = dict[str, Any]
NAMES = "t in out bytes_in bytes_out connections sessions calls refusals jobs lag loop".split()
WHOLE = {"connections", "sessions", "calls", "refusals", "jobs", "lag"}  # those that are counts
# Of ``totals``, each with the name of its rate per second.
RATES = {"messages_in": "in", "messages_out": "out", "bytes_in": "bytes_in", "bytes_out": "bytes_out"}


class History(Service):
    """Takes samples while it runs.

    Args:
        parts: of the core.
        lags: of the cursors.

    Attributes:
        samples: the oldest first.  Each has ``t``, in seconds since the epoch; ``in``, ``out``, ``bytes_in`` and
            ``bytes_out``, per second; ``connections``, ``sessions``, ``calls`` and ``refusals`` of now; ``lag``, by
            how many events the slowest cursor is behind; ``jobs`` that are ready, and ``loop``, by how many seconds a
            timer of the reactor was late.
        listeners: called with each new sample.
    """

    def __init__(self, parts: Parts, lags: Lags) -> None:
        # Made once: objects for each sample would lie between those of a burst, and keep its memory.
        self._rows = array("d", bytes(array("d").itemsize * len(NAMES) * KEPT))
        self.listeners: set[Callable[[Sample], object]] = set()
        self._parts, self._lags = parts, lags
        self._before: dict[str, float] = {}
        self._lags_before: list[int] = []
        self._due = self._then = 0.0
        self._lag = 0
        self._taken = 0
        self._looking: Deferred[None] | None = None
        self._timer: IDelayedCall | None = None

    @property
    def samples(self) -> list[Sample]:
        """Those that are kept."""
        return [self._read(number % KEPT) for number in range(max(0, self._taken - KEPT), self._taken)]

    def _keep(self, sample: Sample) -> None:
        start = self._taken % KEPT * len(NAMES)
        self._rows[start : start + len(NAMES)] = array("d", [sample[name] for name in NAMES])
        self._taken += 1

    def _read(self, row: int) -> Sample:
        values = self._rows[row * len(NAMES) : (row + 1) * len(NAMES)]
        return {name: int(value) if name in WHOLE else value for name, value in zip(NAMES, values, strict=True)}

    def startService(self) -> None:
        """Begin."""
        super().startService()
        self._before, self._then = dict(totals(self._parts.metrics)), self._parts.clock.seconds()
        self._wait()

    def stopService(self) -> None:
        """End."""
        super().stopService()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._looking is not None:
            self._looking.cancel()

    def _wait(self) -> None:
        self._due = self._parts.clock.seconds() + INTERVAL
        self._timer = self._parts.clock.callLater(INTERVAL, self._tick)

    def _tick(self) -> None:
        self._timer = None
        late = max(0.0, self._parts.clock.seconds() - self._due)
        self._wait()
        if self._taken % LAG_EVERY == 0 and self._looking is None:
            self._looking = Deferred.fromCoroutine(self._look())
            self._looking.addErrback(lambda failure: log.failure("a look at the cursors failed", failure))
        sample = self._sample(late)
        self._keep(sample)
        for listener in list(self.listeners):
            listener(sample)

    async def _look(self) -> None:
        try:
            self._lag = await self._lags.greatest()
        except (BrokerError, CancelledError):
            pass  # while the store is away nothing is known
        finally:
            self._looking = None

    def _longest_lag(self) -> float:
        """Return the bound of the longest lag of the reactor since the last sample; 0.0 where nobody measures it."""
        histogram = self._parts.metrics.reactor_lag_seconds
        before, self._lags_before = self._lags_before, list(histogram.counts)
        risen = [index for index, count in enumerate(histogram.counts) if index < len(before) and count > before[index]]
        return histogram.bounds[min(risen[-1], len(histogram.bounds) - 1)] if risen else 0.0

    def _sample(self, late: float) -> Sample:
        parts = self._parts
        now, counted = parts.clock.seconds(), dict(totals(parts.metrics))
        seconds = max(now - self._then, 1e-3)
        rates = {name: round((counted[of] - self._before[of]) / seconds, 1) for of, name in RATES.items()}
        self._before, self._then = counted, now
        return {
            "t": round(parts.store.wall.time(), 3),
            **rates,
            "connections": counted["connections"],
            "sessions": len(parts.lifetimes),
            "calls": parts.calls.pending,
            "refusals": counted["refusals"],
            "jobs": parts.jobs.counted.ready,
            "lag": self._lag,
            "loop": round(max(late, self._longest_lag()), 4),
        }
