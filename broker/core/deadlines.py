"""When things are due, without a timer for each.

Keys with the same delay are due in the order in which they were added, so that
it is enough to look at the first of each bucket, which holds those of one delay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

log = Logger()

K = TypeVar("K")

GRAIN = 0.05  # seconds between two sweeps
MAX_BUCKETS = 64  # beyond that, new delays are rounded up to powers of two


class Deadlines(Generic[K]):
    """Calls ``expire(key)`` for each key that is due.

    Adding and dropping are two dictionary operations; nothing remains of a
    key that was dropped.  A key is late by at most *grain* seconds.
    """

    def __init__(self, clock: IReactorTime, expire: Callable[[K], object], grain: float = GRAIN) -> None:
        self._clock = clock
        self._grain = grain
        self._expire = expire
        self._buckets: dict[float, dict[K, float]] = {}
        self._timer: IDelayedCall | None = None

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def add(self, key: K, delay: float) -> dict[K, float]:
        """Let *key* be due in *delay* seconds; return its bucket: the keys with that delay, and when each is due.

        To drop it is to ``pop`` it from there.  A key that was added already must be dropped first.
        """
        bucket = self._buckets.get(delay)
        if bucket is None:
            if len(self._buckets) >= MAX_BUCKETS:
                # Clients choose delays: without rounding, each could be a bucket.
                power = 1.0
                while power < delay:
                    power *= 2
                delay = power
                bucket = self._buckets.get(delay)
            if bucket is None:
                bucket = self._buckets[delay] = {}
        bucket[key] = self._clock.seconds() + delay
        if self._timer is None:
            self._timer = self._clock.callLater(self._grain, self._sweep)
        return bucket

    def drop(self, key: K, bucket: dict[K, float] | None) -> None:
        """Forget *key*; a no-op when it is not in *bucket*, which ``add`` returned, or that is None."""
        if bucket is not None:
            bucket.pop(key, None)

    def stop(self) -> None:
        """Forget everything."""
        self._buckets.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        due: list[K] = []
        for delay, bucket in list(self._buckets.items()):
            expired = []
            for key, when in bucket.items():
                if when > now:
                    break
                expired.append(key)
            for key in expired:
                del bucket[key]
            if not bucket:
                del self._buckets[delay]
            due += expired
        for key in due:
            try:
                self._expire(key)
            except Exception:
                log.failure("what was due has failed")
        if self._buckets and self._timer is None:
            self._timer = self._clock.callLater(self._grain, self._sweep)
