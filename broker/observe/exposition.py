"""The metrics in the text format of Prometheus.

Labels hold nothing that a client chooses.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.utils import floatToGoString
from twisted.logger import Logger

from broker.observe.catalog import CATALOG, COUNTER, GAUGE, METRIC_PREFIX
from broker.observe.metrics import Histogram, Metrics, Reading

log = Logger()

ESCAPES = {"\\": "\\\\", "\n": "\\n", '"': '\\"'}
HELP_ESCAPES = {"\\": "\\\\", "\n": "\\n"}


class Exposition:
    """Reads the metrics of a daemon, and those of its process.

    Written here, not by the library: that takes several milliseconds for so many samples, in which nobody else
    is served.

    Args:
        metrics: the counters and gauges.

    Attributes:
        content_type: of the text.
    """

    content_type = "text/plain; version=0.0.4; charset=utf-8"

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._process = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._process)

    def text(self) -> bytes:
        """Return all metrics as they are now; one whose value can not be read costs itself only."""
        lines: list[str] = []
        for metric in CATALOG.values():
            try:
                reading = self._metrics.read(metric)
                if reading is not None:
                    lines += _head(metric.full_name, metric.kind, metric.help)
                    lines += _samples(metric.full_name, metric.labels, reading)
            except Exception:
                log.failure("the metric {name} can not be read", name=metric.name)
        for name, own in self._metrics.own.items():
            full = f"{METRIC_PREFIX}{name}{'_total' if own.rises else ''}"
            try:
                value = floatToGoString(float(own.read()))
                lines += [*_head(full, COUNTER if own.rises else GAUGE, str(own.help)), f"{full} {value}"]
            except Exception:
                log.failure("the metric {name} can not be read", name=name)
        lines.append("")
        return "\n".join(lines).encode("utf-8", "replace") + generate_latest(self._process)


def _head(name: str, kind: str, help: str) -> tuple[str, str]:
    return f"# HELP {name} {_escaped(help, HELP_ESCAPES)}", f"# TYPE {name} {kind}"


def _samples(name: str, labels: tuple[str, ...], reading: Reading) -> Iterator[str]:
    """Yield the lines of the values of one metric."""
    if not isinstance(reading, Mapping):
        yield from _sample(name, "", reading)
        return
    for values, value in reading.items():
        row = (values,) if isinstance(values, str) else values
        named = sorted(zip(labels, row, strict=True))
        pairs = ",".join(f'{label}="{_escaped(text, ESCAPES)}"' for label, text in named)
        yield from _sample(name, pairs, value)


def _sample(name: str, pairs: str, value: float | Histogram | None) -> Iterator[str]:
    if isinstance(value, Histogram):
        before = f"{pairs}," if pairs else ""
        count = 0.0
        for bound, count in value.buckets():
            yield f'{name}_bucket{{{before}le="{bound}"}} {count}'
        yield f"{name}_count{{{pairs}}} {count}" if pairs else f"{name}_count {count}"
        yield f"{name}_sum{{{pairs}}} {floatToGoString(value.total)}" if pairs else f"{name}_sum {value.total}"
    elif value is not None:
        number = floatToGoString(value)
        yield f"{name}{{{pairs}}} {number}" if pairs else f"{name} {number}"


def _escaped(text: str, escapes: Mapping[str, str]) -> str:
    return "".join(escapes.get(letter, letter) for letter in text) if any(each in text for each in escapes) else text
