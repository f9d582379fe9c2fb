"""Latencies, counted in buckets whose width grows with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import attrs

SUB_BITS = 5  # a bucket is at most 1/32 of its value wide
MICROSECONDS = 1_000_000
BAR = 40  # characters


@attrs.define(eq=False)
class Histogram:
    """How often each latency was seen, within 3 %; its memory does not grow with their number."""

    _counts: Counter[int] = attrs.field(factory=Counter, init=False)
    count: int = attrs.field(default=0, init=False)
    total: float = attrs.field(default=0.0, init=False)
    longest: float = attrs.field(default=0.0, init=False)

    def record(self, seconds: float) -> None:
        """Count a latency."""
        self._counts[bucket_of(int(seconds * MICROSECONDS))] += 1
        self.count += 1
        self.total += seconds
        self.longest = max(self.longest, seconds)

    @property
    def mean(self) -> float:
        """The average, in seconds."""
        return self.total / self.count if self.count else 0.0

    def quantile(self, part: float) -> float:
        """Return the latency in seconds that *part* of all, from 0 to 1, does not exceed."""
        wanted, seen = part * self.count, 0
        for bucket in sorted(self._counts):
            seen += self._counts[bucket]
            if seen >= wanted:
                return min(self.longest, end_of(bucket) / MICROSECONDS)
        return self.longest

    def octaves(self) -> Iterator[tuple[float, int]]:
        """Yield how many latencies are below each power of two of microseconds, and not below the one before.

        The former is in seconds.
        """
        found: Counter[int] = Counter()
        for bucket, count in self._counts.items():
            found[(end_of(bucket) - 1).bit_length()] += count
        for bits in range(min(found, default=0), max(found, default=-1) + 1):
            yield 2**bits / MICROSECONDS, found[bits]

    def bars(self) -> Iterator[str]:
        """Yield a line for each of ``octaves``."""
        rows = list(self.octaves())
        most_seen = max((count for _, count in rows), default=1)
        for seconds, count in rows:
            bar = "#" * round(BAR * count / most_seen)
            yield f"  < {seconds * 1000:>9.3f} ms  {bar:<{BAR}} {100 * count / self.count:5.1f} %"


def bucket_of(value: int) -> int:
    """Return the bucket of *value*, not negative."""
    shift = max(0, value.bit_length() - SUB_BITS - 1)
    return (shift << SUB_BITS) + (value >> shift)


def end_of(bucket: int) -> int:
    """Return the least value that is above *bucket*."""
    shift = max(0, (bucket >> SUB_BITS) - 1)
    return ((bucket - (shift << SUB_BITS)) + 1) << shift
