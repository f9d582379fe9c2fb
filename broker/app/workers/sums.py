"""The metrics of all workers as those of one daemon.

Each worker writes its own as text; here its samples are added up.  Where a sum would say something else
than a single process does, ``Metric.across`` has what is right.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import attrs
from prometheus_client.utils import floatToGoString

from broker.observe.catalog import CATALOG, COUNTER, HISTOGRAM, LABEL, MAX, SUM

# Of the library: of several processes each has its own limit, and the first has started the others.
OF_LIBRARY = {
    "process_max_fds": LABEL,
    "process_open_fds": LABEL,
    "process_start_time_seconds": MAX,
    "python_info": MAX,
}
ACROSS = {metric.full_name: metric.across for metric in CATALOG.values()} | OF_LIBRARY
RISING = (COUNTER, HISTOGRAM)

Samples = dict[str, float]  # by name and labels, as they are written


@attrs.frozen
class Family:
    """One metric with all its samples.

    Attributes:
        kind: of Prometheus.
        head: the lines before the samples.
        samples: their values.
    """

    kind: str
    head: list[str]
    samples: Samples


def parse(text: str) -> dict[str, Family]:
    """Return what *text* has, in the text format that ``Exposition`` writes, by the names of the metrics."""
    families: dict[str, Family] = {}
    head: list[str] = []
    for line in text.split("\n"):
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ", 3)
            families[name] = family = Family(kind, [*head, line], {})
            head = []
        elif line.startswith("#"):
            head.append(line)
        elif line:
            key, _, value = line.rpartition(" ")
            family.samples[key] = float(value)
    return families


class MetricSums:
    """Adds up what the workers count, those included that have ended."""

    def __init__(self) -> None:
        self._ended: dict[str, Samples] = {}  # what those had counted that have ended, by metric

    def ended(self, families: Mapping[str, Family]) -> None:
        """Keep what a worker had counted, by its last word: a counter of all must not go back with it."""
        for name, family in families.items():
            if family.kind in RISING:
                _add(self._ended.setdefault(name, {}), family.samples)

    def text(self, told: Mapping[int, Mapping[str, Family]]) -> str:
        """Return the sums over what was *told*, by the number of the worker; that of the supervisor is 0."""
        families: dict[str, Family] = {}
        for number, each in told.items():
            for name, family in each.items():
                known = families.setdefault(name, Family(family.kind, family.head, {}))
                _join(known.samples, family.samples, ACROSS.get(name, SUM), number)
        for name, samples in self._ended.items():
            if name in families:
                _add(families[name].samples, samples)
        lines = (line for family in families.values() for line in (*family.head, *_written(family.samples)))
        return "\n".join([*lines, ""])


def _join(known: Samples, samples: Samples, across: str, number: int) -> None:
    if across == SUM:
        _add(known, samples)
        return
    for key, value in samples.items():
        if across == MAX:
            known[key] = max(value, known.get(key, value))
        else:
            known[_labelled(key, number)] = value


def _add(known: Samples, samples: Samples) -> None:
    for key, value in samples.items():
        known[key] = known.get(key, 0.0) + value


def _labelled(key: str, number: int) -> str:
    """Return the name and labels *key* with the label ``worker``."""
    label = f'worker="{number}"'
    return f"{key[:-1]},{label}}}" if key.endswith("}") else f"{key}{{{label}}}"


def _written(samples: Samples) -> Iterator[str]:
    for key, value in samples.items():
        yield f"{key} {floatToGoString(value)}"


def totals(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the sums of numbers by their names."""
    sums: dict[str, float] = {}
    for each in found:
        _add(sums, dict(each))
    return sums
