"""A curve: what an operation costs, the more there is of something; measured point by point, in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import attrs

from benchmarks.results import Range
from benchmarks.scale.site import Site
from benchmarks.servers import Broker

FLAT = 1.2  # times the cheapest point may cost the dearest

Values = Iterable[tuple[str, float]]  # of one round: by the lines of the curve


def _nothing(site: Site) -> None:
    """Prepare nothing."""


@attrs.frozen
class Curve:
    """What is measured, and at which sizes.

    Attributes:
        name: in the command line and the names of files.
        title: what there is more and more of.
        sizes: how much of it there is at each point.
        measure: yields a value for each line of the curve, again in each round.
        prepare: makes what there is to be, with the daemon running.
        start: starts the daemon.
        settings: of the daemon.
    """

    name: str
    title: str
    sizes: tuple[int, ...]
    measure: Callable[[Site], Values]
    prepare: Callable[[Site], object] = _nothing
    start: Callable[[Site], object] = attrs.field(default=lambda site: site.server.start())
    settings: Mapping[str, str] = attrs.field(factory=dict)


@attrs.frozen
class Line:
    """What was measured of one operation: at each size the median and the range of the rounds."""

    sizes: list[int]
    values: list[Range]

    @property
    def growth(self) -> float:
        """How many times what the smallest size costs the dearest one costs."""
        medians = [each.median for each in self.values]
        return max(medians) / medians[0]


def run(curve: Curve, binary: Path, rounds: int, seconds: float) -> dict[str, Line]:
    """Measure *curve*, one round of all points after the other, and return its lines by their names.

    Raises:
        Missing: it can not be measured here.
    """
    seen: dict[str, dict[int, list[float]]] = {}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as running:
        sites = list(_sites(curve, binary, Path(directory), seconds, running))
        for _ in range(rounds):
            for site in sites:
                for line, value in curve.measure(site):
                    seen.setdefault(line, {}).setdefault(site.size, []).append(value)
    return {line: _line(values) for line, values in seen.items()}


def _sites(curve: Curve, binary: Path, directory: Path, seconds: float, running: ExitStack) -> Iterator[Site]:
    for size in curve.sizes:
        own = directory / str(size)
        own.mkdir()
        server = Broker(own)
        server.more = dict(curve.settings)
        site = Site(binary, own, size, seconds, server)
        running.callback(site.stop)
        curve.start(site)
        curve.prepare(site)
        yield site


def _line(values: Mapping[int, Sequence[float]]) -> Line:
    return Line(list(values), [Range.of(each) for each in values.values()])
