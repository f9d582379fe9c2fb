"""What the daemon counts, as plain integers.

The hot path only adds to integers; names and labels are made when somebody
asks, in ``exposition``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable

import attrs

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class Histogram:
    """How often a value fell below each of a few bounds."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count *value*."""
        self.total += value
        for index, bound in enumerate(self.bounds):
            if value <= bound:
                self.counts[index] += 1
                return
        self.counts[-1] += 1

    def buckets(self) -> list[tuple[str, float]]:
        """Return the cumulative counts in the manner of Prometheus."""
        total, rows = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((bound, float(total)))
        return rows


@attrs.define(eq=False)
class Metrics:
    """All counters of one daemon; gauges are asked for when they are read."""

    bytes_in: int = 0
    bytes_out: int = 0
    messages_out: int = 0
    rate_limited: int = 0
    answers_dropped: int = 0
    store_errors: int = 0
    connections: Counter[str] = attrs.field(factory=Counter)
    opened_total: Counter[str] = attrs.field(factory=Counter)
    closed_total: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    verbs: dict[str, dict[str, int]] = attrs.field(factory=dict)
    slow_consumers: Counter[str] = attrs.field(factory=Counter)
    auth_failures: Counter[str] = attrs.field(factory=Counter)
    commit_seconds: Histogram = attrs.field(factory=lambda: Histogram(SECONDS))
    batch_rows: Histogram = attrs.field(factory=lambda: Histogram(ROWS))
    gauges: dict[str, tuple[str, Callable[[], float]]] = attrs.field(factory=dict)

    def verbs_of(self, dialect: str) -> dict[str, int]:
        """Return the numbers of verbs by name for one dialect; they begin at 0."""
        # Not a Counter: adding to one costs three times as much.
        return self.verbs.setdefault(dialect, defaultdict(int))

    def opened(self, dialect: str) -> None:
        """Count a connection that came."""
        self.connections[dialect] += 1
        self.opened_total[dialect] += 1

    def closed(self, dialect: str, code: int) -> None:
        """Count a connection that went, with its WebSocket close code."""
        self.connections[dialect] -= 1
        # Applications may close with any of 3000-4999: those are one label.
        self.closed_total[dialect, str(code) if code < 3000 else f"{code // 1000}xxx"] += 1

    def slow_consumer(self, policy: str) -> None:
        """Count a client that did not read; *policy* is what was done."""
        self.slow_consumers[policy] += 1

    def committed(self, rows: int, seconds: float) -> None:
        """Count one commit of the store."""
        self.batch_rows.observe(rows)
        self.commit_seconds.observe(seconds)

    def store_failed(self, operations: int) -> None:
        """Count operations that the store has refused."""
        self.store_errors += operations

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Name a value that is asked for when the metrics are read."""
        self.gauges[name] = (help, read)
