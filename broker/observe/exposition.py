"""The metrics in the text format of Prometheus.

Labels hold nothing that a client chooses.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from twisted.logger import Logger

from broker.observe.metrics import Metrics

log = Logger()

METRIC_PREFIX = "txbroker_"

Families = Iterator[CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily]


class Exposition(Collector):
    """Reads the metrics of a daemon, and those of its process.

    Args:
        metrics: the counters and gauges.

    Attributes:
        content_type: of the text.
    """

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._registry = CollectorRegistry()
        self._registry.register(self)
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)

    def text(self) -> bytes:
        """Return all metrics as they are now."""
        return generate_latest(self._registry)

    def collect(self) -> Families:
        """Yield the metrics of the daemon, those that are still 0 included."""
        yield from self._counters()
        yield from self._gauges()
        yield from self._own()
        for name, help, histogram in (
            ("store_commit_seconds", "Time of a commit.", self._metrics.commit_seconds),
            ("store_batch_rows", "Writes in a commit.", self._metrics.batch_rows),
        ):
            yield HistogramMetricFamily(METRIC_PREFIX + name, help, histogram.buckets(), histogram.total)

    def _counters(self) -> Families:
        for name, help, value in (
            ("bytes_in", "Bytes received from clients.", self._metrics.bytes_in),
            ("bytes_out", "Bytes sent to clients.", self._metrics.bytes_out),
            ("messages_out", "Messages sent to clients.", self._metrics.messages_out),
            ("rate_limited", "Verbs refused for their rate.", self._metrics.rate_limited),
            ("refusals_not_logged", "Refusals that the log has no line of.", self._metrics.refusals_not_logged),
            ("answers_dropped", "Late, double or forged answers.", self._metrics.answers_dropped),
            ("store_errors", "Writes that the store refused.", self._metrics.store_errors),
            (
                "store_checkpoint_errors",
                "Attempts to write back the log of the store that failed.",
                self._metrics.store_checkpoint_errors,
            ),
            (
                "store_went_back",
                "How often the store was found to lack what was acknowledged.",
                self._metrics.store_went_back,
            ),
        ):
            yield CounterMetricFamily(METRIC_PREFIX + name, help, value)
        yield _labelled("connections_opened", "Connections opened.", ("dialect",), self._metrics.opened_total)
        yield _labelled("connections_closed", "Connections closed.", ("dialect", "code"), self._metrics.closed_total)
        yield _labelled("slow_consumers", "Clients that read too slowly.", ("policy",), self._metrics.slow_consumers)
        yield _labelled("auth_failures", "Credentials refused.", ("dialect",), self._metrics.auth_failures)
        yield _labelled(
            "refusals", "Credentials, permissions and rates refused.", ("dialect", "code"), self._metrics.refusals
        )
        counts = {(dialect, verb): n for dialect, verbs in self._metrics.verbs.items() for verb, n in verbs.items()}
        yield _labelled("messages_in", "Verbs called by clients.", ("dialect", "verb"), counts)

    def _gauges(self) -> Families:
        connections = GaugeMetricFamily(METRIC_PREFIX + "connections", "Connections now.", labels=("dialect",))
        for dialect, number in self._metrics.connections.items():
            connections.add_metric((dialect,), number)
        yield connections
        for name, (help, read) in self._metrics.gauges.items():
            yield GaugeMetricFamily(METRIC_PREFIX + name, help, read())

    def _own(self) -> Families:
        """Yield the metrics of dialects; one whose value can not be read costs itself only."""
        for name, metric in self._metrics.own.items():
            family = CounterMetricFamily if metric.rises else GaugeMetricFamily
            try:
                yield family(METRIC_PREFIX + name, metric.help, float(metric.read()))
            except Exception:
                log.failure("the metric {name} can not be read", name=name)


def _labelled(
    name: str, help: str, labels: tuple[str, ...], counts: dict[str, int] | dict[tuple[str, str], int]
) -> CounterMetricFamily:
    family = CounterMetricFamily(METRIC_PREFIX + name, help, labels=labels)
    for key, count in counts.items():
        family.add_metric((key,) if isinstance(key, str) else key, count)
    return family
