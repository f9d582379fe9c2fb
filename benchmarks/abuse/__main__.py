"""Usage: ``python -m benchmarks.abuse [--seconds 10] [--rounds 3] [--store sqlite:] [--warm] [NAME …]``."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from benchmarks.abuse import measure
from benchmarks.abuse.measure import Result
from benchmarks.abuse.target import ATTACKS
from benchmarks.servers import Broker, Missing

MAX_LAG = 50.0  # ms
MAX_GROWTH, MAX_LEFT = 32.0, 4.0  # MiB, while an attack lasts and after it


def measured(name: str, seconds: float, store: str, warm: bool) -> Result:
    """Attack a daemon that has just been started; if *warm*, one that was attacked in the same way before."""
    with tempfile.TemporaryDirectory() as directory:
        server = Broker(Path(directory))
        server.store = store
        server.start()
        try:
            if warm:
                measure.measure(name, seconds, server)
            return measure.measure(name, seconds, server)
        finally:
            server.stop()


def report(name: str, results: list[Result]) -> bool:
    """Print a row; say whether the goals are reached."""
    lag, cpu = (max(getattr(result, field) for result in results) * 1000 for field in ("lag", "cpu"))
    growth, left = (max(getattr(result, field) for result in results) for field in ("growth", "left"))
    missed = [
        word
        for word, value, goal in (("lag", lag, MAX_LAG), ("growth", growth, MAX_GROWTH), ("after", left, MAX_LEFT))
        if value > goal
    ]
    lags = " ".join(f"{result.lag * 1000:.0f}" for result in results)
    goals = f"≤ {MAX_LAG:.0f} ms, {MAX_GROWTH:.0f} MiB, {MAX_LEFT:.0f} MiB"
    print(
        f"{name:24} {lags:>14} {cpu:8.0f} {growth:10.1f} {left:8.1f}  {goals}  {'missed: ' * bool(missed)}"
        f"{', '.join(missed)}",
        flush=True,
    )
    return not missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="attacks, all by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", default=Broker.store)
    parser.add_argument(
        "--warm",
        action="store_true",
        help="attack twice, and measure the second time: what grows then is kept, and not merely at hand for later use",
    )
    options = parser.parse_args()
    names = [name.replace("_", " ") for name in options.names] or list(ATTACKS)
    print(f"{'attack':24} {'worst lag, ms':>14} {'CPU, ms':>8} {'grows, MiB':>10} {'after':>8}  goals")
    good = True
    for name in names:
        try:
            good &= report(
                name, [measured(name, options.seconds, options.store, options.warm) for _ in range(options.rounds)]
            )
        except Missing as reason:
            parser.error(str(reason))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
