"""Counters of one daemon, as plain integers.

The hot path only adds to integers, and what happens with every message is timed now and then; ``exposition``
makes names and labels when the metrics are read.  ``catalog`` says what there is.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from random import random
from time import perf_counter
from typing import Any, TypeAlias

import attrs

from broker.observe.catalog import (
    APPLICATION_CODES,
    CATALOG,
    CLOSE_CODES,
    GAUGE,
    METRIC_PREFIX,
    OK,
    POLICIES,
    REFUSALS,
    RESULTS,
    SAMPLE,
    VERBS,
    Metric,
)
from broker.plugins import OwnMetric

OWN_NAME = re.compile("[a-z][a-z0-9_]{0,63}")
MAX_OWN = 1000  # of one dialect: nobody is served while they are written down
COMMIT_SECONDS_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
BATCH_ROWS_BOUNDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0)
LATENCY_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
CALL_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0)
LAG_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
HTTP = "http"  # the label of the connections that are no WebSocket
ADMIN = "admin"  # that of operators


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

    def observe(self, value: float, weight: int = 1) -> None:
        """Count *value* as often as *weight* says."""
        self.counts[bisect_left(self.bounds, value)] += weight
        self.total += value * weight

    def buckets(self) -> list[tuple[str, float]]:
        """Return each bound as text with the number of values up to it, as Prometheus has it; the last is "+Inf"."""
        total, rows = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((bound, float(total)))
        return rows


def random_gap() -> int:
    """Return after how many messages the next is timed: not always as many, for messages may come in turn."""
    return 1 + int(random() * (2 * SAMPLE - 1))


class Sampler:
    """Decides what is timed: who does something counts ``left`` down, and calls ``begin`` at 0.

    What was timed stands for all since the time before: the counts of such a histogram are about true, and
    its quantiles are those of a sample.

    Args:
        now: returns seconds that only rise.
        gap: returns how many are to come until the next is timed, that one included.

    Attributes:
        left: how many are to come until the next one is timed; each of the first ``all_timed`` is.
        now: what *now* is.
    """

    __slots__ = ("_gap", "_timed", "_weight", "left", "now")

    all_timed = 100

    def __init__(self, now: Callable[[], float], gap: Callable[[], int] = random_gap) -> None:
        self.now, self._gap = now, gap
        self.left = self._weight = 1
        self._timed = 0

    def next(self) -> int:
        """Return how many there were since the last that was timed, and decide which is the next."""
        weight = self._weight
        self._timed += 1
        self.left = self._weight = 1 if self._timed < self.all_timed else self._gap()
        return weight

    def begin(self, histogram: Histogram) -> Callable[[object], None]:
        """Begin to time what happens now; return what is to be called when it has happened, with anything."""
        weight, now, observe = self.next(), self.now, histogram.observe
        began = now()
        return lambda _: observe(now() - began, weight)


class PublishSampler(Sampler):
    """Times the publications of one dialect.

    Attributes:
        histogram: of those that were timed.
    """

    __slots__ = ("histogram",)

    def __init__(self, now: Callable[[], float], gap: Callable[[], int] = random_gap) -> None:
        super().__init__(now, gap)
        self.histogram = Histogram(LATENCY_BOUNDS)

    def publishes(self) -> Callable[[object], None]:
        """See ``begin``."""
        return self.begin(self.histogram)


class DeliverySampler(Sampler):
    """Times the deliveries of events.

    Attributes:
        histograms: of those that were timed, by the dialects that are spoken here.
    """

    __slots__ = ("histograms",)

    def __init__(self, now: Callable[[], float], gap: Callable[[], int] = random_gap) -> None:
        super().__init__(now, gap)
        self.histograms: dict[str, Histogram] = {}

    def delivers(self, dialect: str) -> Callable[[object], None]:
        """Begin to time the delivery of an event that a client of *dialect* has published; see ``begin``.

        Those of the broker itself are not counted, nor those of dialects that only other nodes speak.
        """
        histogram = self.histograms.get(dialect)
        return self.begin(histogram or Histogram(LATENCY_BOUNDS))


class CallTimes(Sampler):
    """How long the calls of one dialect took, by how they ended.

    Of those that were answered some are timed, as who counts down decides; all others are.

    Attributes:
        histograms: by result.
    """

    __slots__ = ("histograms",)

    all_timed = 1

    def __init__(self, now: Callable[[], float], gap: Callable[[], int] = random_gap) -> None:
        super().__init__(now, gap)
        self.histograms = {result: Histogram(CALL_BOUNDS) for result in RESULTS}

    def ended(self, began: float, result: str) -> None:
        """Count a call that has begun when ``now`` was *began*."""
        self.histograms[result].observe(self.now() - began, self.next() if result == OK else 1)


class VerbCounts(defaultdict[str, int]):
    """How often the clients of one dialect have called each verb, and how long some of that took.

    Attributes:
        publish: of what they publish, until it is acknowledged to them.
        calls: of their calls.
    """

    # Not a ``collections.Counter``: adding to one costs three times as much.
    __slots__ = ("calls", "publish")

    def __init__(self, now: Callable[[], float], gap: Callable[[], int] = random_gap) -> None:
        super().__init__(int)
        self.publish, self.calls = PublishSampler(now, gap), CallTimes(now, gap)


# One value, or one for each value of a label, or for each tuple of those of all labels; None: it is not known.
Reading: TypeAlias = float | Histogram | Mapping[Any, float] | Mapping[Any, Histogram] | None


@attrs.define(eq=False)
class Metrics:
    """All counters of one daemon, and functions that read its gauges.

    The attributes are called as in ``catalog``, or as its ``source`` says.

    Attributes:
        now: returns seconds that only rise, by which latencies are measured.
    """

    now: Callable[[], float] = perf_counter
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
    verbs: dict[str, VerbCounts] = attrs.field(factory=dict)
    deliver: DeliverySampler = attrs.field(init=False)
    slow_consumers: Counter[str] = attrs.field(factory=Counter)
    auth_failures: Counter[str] = attrs.field(factory=Counter)
    refusals: Counter[tuple[str, str]] = attrs.field(factory=Counter)
    commit_seconds: Histogram = attrs.field(factory=lambda: Histogram(COMMIT_SECONDS_BOUNDS))
    batch_rows: Histogram = attrs.field(factory=lambda: Histogram(BATCH_ROWS_BOUNDS))
    reactor_lag_seconds: Histogram = attrs.field(factory=lambda: Histogram(LAG_BOUNDS))
    gauges: dict[str, Callable[[], Reading]] = attrs.field(factory=dict)
    own: dict[str, OwnMetric] = attrs.field(factory=dict)  # of dialects, by their names in the exposition

    def __attrs_post_init__(self) -> None:
        self.deliver = DeliverySampler(self.now)

    def begin(self, dialect: str) -> None:
        """Let the counters of *dialect* exist, at 0."""
        self.begin_connections(dialect, (*CLOSE_CODES, *APPLICATION_CODES))
        self.begin_refusals(dialect)
        self.auth_failures[dialect] += 0
        self.begin_verbs(dialect)

    def begin_port(self) -> None:
        """Let the counters exist of connections that are no WebSocket, of operators and of slow clients."""
        self.begin_connections(HTTP, ("101", "1000"))
        for part in (HTTP, ADMIN):
            self.begin_refusals(part)
        self.begin_verbs(ADMIN)
        for policy in POLICIES:
            self.slow_consumers[policy] += 0

    def begin_connections(self, dialect: str, codes: Iterable[str]) -> None:
        """Let the counters of connections of *dialect* exist, which may end with one of *codes*."""
        self.opened_total[dialect] += 0
        self.connections[dialect] += 0
        for code in codes:
            self.closed_total[dialect, code] += 0

    def begin_verbs(self, dialect: str) -> None:
        """Let the counters of what the clients of *dialect* ask for exist."""
        counts = self.verbs_of(dialect)
        for verb in VERBS:
            counts[verb] += 0

    def begin_refusals(self, dialect: str) -> None:
        """Let the counters of what the clients of *dialect* are refused exist."""
        for code in REFUSALS:
            self.refusals[dialect, code] += 0

    def add_own(self, dialect: str, metrics: Iterable[OwnMetric]) -> None:
        """Add the *metrics* of a dialect.

        Raises:
            ValueError: a name is malformed, there is another metric of that name, or there are too many.
        """
        metrics = list(metrics)
        if len(metrics) > MAX_OWN:
            raise ValueError(f"{dialect}: it has {len(metrics)} metrics, and {MAX_OWN} are the most")
        taken = {name for metric in CATALOG.values() for name in (METRIC_PREFIX + metric.name, *metric.sample_names)}
        taken |= {name for known, metric in self.own.items() for name in _names(known, metric)}
        for metric in metrics:
            # A counter may have its ending already.
            ending = "_total" if metric.rises else ""
            name = f"{dialect.lower().replace('-', '_')}_{metric.name.removesuffix(ending)}"
            if OWN_NAME.fullmatch(metric.name) is None:
                raise ValueError(f"{dialect}: the metric {metric.name!r} must have lower-case letters, digits and _")
            if not taken.isdisjoint(_names(name, metric)):
                raise ValueError(f"{dialect}: there is another metric of the name {name}")
            taken |= _names(name, metric)
            self.own[name] = metric

    def verbs_of(self, dialect: str) -> VerbCounts:
        """Return the counts of one dialect by verb; a verb not yet counted has 0.

        All pages of the admin port are one dialect.
        """
        counts = self.verbs.get(dialect)
        if counts is None and dialect.startswith(f"{ADMIN}-"):
            counts = self.verbs_of(ADMIN)
        elif counts is None:
            counts = self.verbs[dialect] = VerbCounts(self.now)
            self.deliver.histograms[dialect] = Histogram(LATENCY_BOUNDS)
        return counts

    @property
    def publish_seconds(self) -> dict[str, Histogram]:
        """How long publications take, by dialect."""
        return {dialect: counts.publish.histogram for dialect, counts in self.verbs.items()}

    @property
    def deliver_seconds(self) -> dict[str, Histogram]:
        """How long events are delivered, by the dialect of who has published them."""
        return self.deliver.histograms

    @property
    def call_seconds(self) -> dict[tuple[str, ...], Histogram]:
        """How long calls take, by dialect and result."""
        return {
            (dialect, result): histogram
            for dialect, counts in self.verbs.items()
            for result, histogram in counts.calls.histograms.items()
        }

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

    def gauge(self, name: str, read: Callable[[], Reading]) -> None:
        """Let *read* return the value of the gauge *name*, which is in the catalog.

        Raises:
            KeyError: it is not.
        """
        assert CATALOG[name].kind == GAUGE
        self.gauges[name] = read

    def read(self, metric: Metric) -> Reading:
        """Return the values of *metric*; None: it has none here."""
        read = self.gauges.get(metric.name)
        if read is not None:
            return read()
        if metric.source == "verbs":
            return {(dialect, verb): n for dialect, counts in self.verbs.items() for verb, n in counts.items()}
        found: Reading = getattr(self, metric.source or metric.name, None)
        return found


def _names(name: str, metric: OwnMetric) -> set[str]:
    """Return the names that a metric of a dialect takes."""
    return {METRIC_PREFIX + name, f"{METRIC_PREFIX}{name}_total"} if metric.rises else {METRIC_PREFIX + name}
