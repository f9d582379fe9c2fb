"""How the cost of an operation grows: a daemon for each point, measured in turn, server CPU time of an operation.

    python -m benchmarks.scale [names of curves] [--rounds 3] [--seconds 1] [--up-to N] [--most] [--save]

With ``--most`` there is a file of 10,000,000 events, too, which takes some minutes and 3 GB of the disk.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

import attrs

from benchmarks.scale.curve import FLAT, Curve, run
from benchmarks.scale.curves import CURVES
from benchmarks.scale.results import ScaleResults
from benchmarks.servers import Missing, build_load

MOST_EVENTS = 10_000_000


def chosen(names: Sequence[str], up_to: int, most: bool) -> list[Curve]:
    """Return the curves of those *names*, or all, with the sizes *up_to* a number, and the *most* events."""
    curves = [curve for curve in CURVES if not names or curve.name in names]
    if most:
        curves = [
            attrs.evolve(curve, sizes=(*curve.sizes, MOST_EVENTS)) if curve.name == "events" else curve
            for curve in curves
        ]
    return [attrs.evolve(curve, sizes=tuple(size for size in curve.sizes if size <= up_to)) for curve in curves]


def main() -> None:
    """Measure what is asked for, and print a line for each operation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="curve", help=", ".join(curve.name for curve in CURVES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--up-to", type=int, default=sys.maxsize, metavar="N", help="leave out larger sizes")
    parser.add_argument("--most", action="store_true", help=f"{MOST_EVENTS:,} events, too")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results, which the documentation shows")
    options = parser.parse_args()
    unknown = set(options.names) - {curve.name for curve in CURVES}
    if unknown:
        parser.error(f"no such curve: {', '.join(sorted(unknown))}")
    binary, results = build_load(), ScaleResults.load()
    for curve in chosen(options.names, options.up_to, options.most):
        try:
            lines = run(curve, binary, options.rounds, options.seconds)
        except Missing as missing:
            print(f"{curve.name}: left out, {missing}", file=sys.stderr)
            continue
        for name, line in lines.items():
            points = "".join(
                f"{value.median:10.2f} at {size:,}" for size, value in zip(line.sizes, line.values, strict=True)
            )
            verdict = "flat" if line.growth <= FLAT else "NOT FLAT"
            print(f"{curve.name:12} {name:36} {line.growth:5.2f} x {verdict:8} {points}", flush=True)
        results.add(curve, lines)
        if options.save:
            results.save()


if __name__ == "__main__":
    main()
