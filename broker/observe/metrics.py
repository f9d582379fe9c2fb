"""Counters of one daemon, as plain integers.

The hot path only adds to integers; ``exposition`` makes names and labels when
the metrics are read.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import attrs

from broker.plugins import OwnMetric

COMMIT_SECONDS_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
REFUSALS = ("UNAUTHENTICATED", "DENIED", "RATE_LIMITED")  # the codes of what is counted as a refusal
OWN_NAME = re.compile("[a-z][a-z0-9_]{0,63}")
# Of the metrics that are called otherwise than the attributes of ``Metrics``.
NAMES = ("connections_opened", "connections_closed", "messages_in", "store_commit_seconds", "store_batch_rows")
BATCH_ROWS_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)


class Histogram:
    """How many values were within each of a few bounds.

    Args:
        bounds: upper bounds, in rising order; a value that equals one is within it.

    Attributes:
        counts: the number of values for each bound, and last those above all.
        total: the sum of all values.
    """

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
        """Return each bound as text with the number of values up to it, as Prometheus has it; the last is "+Inf"."""
        total, rows = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((bound, float(total)))
        return rows


@attrs.define(eq=False)
class Metrics:
    """All counters of one daemon, and functions that read its gauges.

    The names of the attributes are those of the metrics in ``exposition``.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    messages_out: int = 0
    rate_limited: int = 0
    refusals_not_logged: int = 0
    answers_dropped: int = 0
    store_errors: int = 0
    store_checkpoint_errors: int = 0
    store_went_back: int = 0
    connections: Counter[str] = attrs.field(factory=Counter)
    opened_total: Counter[str] = attrs.field(factory=Counter)
    closed_total: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    verbs: dict[str, dict[str, int]] = attrs.field(factory=dict)
    slow_consumers: Counter[str] = attrs.field(factory=Counter)
    auth_failures: Counter[str] = attrs.field(factory=Counter)
    refusals: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    commit_seconds: Histogram = attrs.field(factory=lambda: Histogram(COMMIT_SECONDS_BOUNDS))
    batch_rows: Histogram = attrs.field(factory=lambda: Histogram(BATCH_ROWS_BOUNDS))
    gauges: dict[str, tuple[str, Callable[[], float]]] = attrs.field(factory=dict)
    own: dict[str, OwnMetric] = attrs.field(factory=dict)  # of dialects, by their names in the exposition

    def begin(self, dialect: str) -> None:
        """Let the counters of *dialect* exist, at 0."""
        self.opened_total[dialect] += 0
        self.connections[dialect] += 0
        self.auth_failures[dialect] += 0
        for code in REFUSALS:
            self.refusals[dialect, code] += 0

    def add_own(self, dialect: str, metrics: Iterable[OwnMetric]) -> None:
        """Add the *metrics* of a dialect.

        Raises:
            ValueError: a name is malformed, or there is another metric of that name.
        """
        for metric in metrics:
            name = f"{dialect.lower().replace('-', '_')}_{metric.name}"
            if OWN_NAME.fullmatch(metric.name) is None:
                raise ValueError(f"{dialect}: the metric {metric.name!r} must have lower-case letters, digits and _")
            if name in self.own or name in self.gauges or name in NAMES or hasattr(self, name):
                raise ValueError(f"{dialect}: there is another metric of the name {name}")
            self.own[name] = metric

    def verbs_of(self, dialect: str) -> dict[str, int]:
        """Return the counts of one dialect by verb; a verb not yet counted has 0."""
        # Not a Counter: adding to one costs three times as much.
        return self.verbs.setdefault(dialect, defaultdict(int))

    def opened(self, dialect: str) -> None:
        """Count a connection that was opened."""
        self.connections[dialect] += 1
        self.opened_total[dialect] += 1

    def closed(self, dialect: str, code: int) -> None:
        """Count a connection that was closed, with its WebSocket close code."""
        self.connections[dialect] -= 1
        # Applications may close with any of 3000-4999: each thousand is one label.
        self.closed_total[dialect, str(code) if code < 3000 else f"{code // 1000}xxx"] += 1

    def slow_consumer(self, policy: str) -> None:
        """Count a client that read too slowly; *policy* says what was done with it."""
        self.slow_consumers[policy] += 1

    def committed(self, rows: int, seconds: float) -> None:
        """Count one commit of the store, with its operations and how long it took."""
        self.batch_rows.observe(rows)
        self.commit_seconds.observe(seconds)

    def store_failed(self, operations: int) -> None:
        """Count operations that the store has refused."""
        self.store_errors += operations

    def checkpoint_failed(self) -> None:
        """Count an attempt to write back the log of the store that has failed."""
        self.store_checkpoint_errors += 1

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Add a gauge, whose value *read* returns."""
        self.gauges[name] = (help, read)
