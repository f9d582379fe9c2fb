"""When things are due, without a timer for each.

Keys with the same delay are due in the order in which they were added, so that
it is enough to look at the first of each bucket, which holds those of one delay.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Generic, TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from broker.core.slices import slices_of

log = Logger()

K = TypeVar("K")

GRAIN = 0.05  # seconds between two sweeps
LATE = 1.0  # seconds by which a sweep is late when the process was stopped, or something has blocked it
BATCH = 100  # keys that are looked at together
MAX_BUCKETS = 64  # beyond that, new delays are rounded up to powers of two


class Deadlines(Generic[K]):
    """Calls ``expire(key)`` for each key that is due.

    Adding and dropping are two dictionary operations; nothing remains of a
    key that was dropped.  A key is late by at most *grain* seconds.

    Where the process was frozen, what has come meanwhile is read before anything counts as due: it was there in time.
    """

    def __init__(self, clock: IReactorTime, expire: Callable[[K], object], grain: float = GRAIN) -> None:
        self._clock = clock
        self._slices = slices_of(clock)
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
        timer, self._timer = self._timer, None
        now = self._clock.seconds()
        if timer is not None and now - timer.getTime() > LATE:
            self._next_sweep(0)  # after the sockets have been looked at
            return
        end = self._slices.deadline()
        for delay, bucket in list(self._buckets.items()):
            # What is added meanwhile has to wait, even with a delay of 0.
            for _ in range(0, len(bucket), BATCH):
                due = [key for key, when in islice(bucket.items(), BATCH) if when <= now]
                if self._expire_all(due, bucket, end) and self._buckets:  # else it was stopped
                    self._next_sweep(0)
                    return
                if len(due) < BATCH:
                    break
            if not bucket and self._buckets.get(delay) is bucket:
                del self._buckets[delay]
        if self._buckets:
            self._next_sweep(self._grain)

    def _expire_all(self, due: list[K], bucket: dict[K, float], end: float) -> bool:
        """Return whether the slice is over; then those that are left keep their places."""
        now = self._slices.now
        for key in due:
            if bucket.pop(key, None) is None:
                continue  # it was dropped just now
            try:
                self._expire(key)
            except Exception:
                log.failure("what was due has failed")
            if now() >= end:
                return True
        return False

    def _next_sweep(self, delay: float) -> None:
        """Sweep in *delay* seconds, instead of whenever that was to be."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.callLater(delay, self._sweep)
