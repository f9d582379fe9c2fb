"""Usage: ``python -m benchmarks.abuse [--seconds 10] [--rounds 3] [--store sqlite:] [NAME …]``."""

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


def measured(name: str, seconds: float, store: str, rounds: int) -> list[Result]:
    """Attack a daemon that has just been started, several times in the same way."""
    with tempfile.TemporaryDirectory() as directory:
        server = Broker(Path(directory))
        server.store = store
        server.start()
        try:
            return [measure.measure(name, seconds, server) for _ in range(rounds)]
        finally:
            server.stop()


def report(name: str, results: list[Result]) -> bool:
    """Print a row; say whether the goals are reached.

    What is left after the first round is code and tables at hand for later use, too; after the others, what is kept.
    """
    lag, cpu, growth = (max(getattr(result, field) for result in results) for field in ("lag", "cpu", "growth"))
    left = max(result.left for result in results[1:] or results)
    missed = [
        word
        for word, value, goal in (
            ("lag", lag * 1000, MAX_LAG),
            ("growth", growth, MAX_GROWTH),
            ("after", left, MAX_LEFT),
        )
        if value > goal
    ]
    lags = " ".join(f"{result.lag * 1000:.0f}" for result in results)
    lefts = " ".join(f"{result.left:.1f}" for result in results)
    goals = f"≤ {MAX_LAG:.0f} ms, {MAX_GROWTH:.0f} MiB, {MAX_LEFT:.0f} MiB"
    print(
        f"{name:24} {lags:>14} {cpu * 1000:8.0f} {growth:10.1f} {lefts:>14}  {goals}  "
        f"{'missed: ' * bool(missed)}{', '.join(missed)}",
        flush=True,
    )
    return not missed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="attacks, all by default")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each attack")
    parser.add_argument("--rounds", type=int, default=3, help="each on the daemon of the first")
    parser.add_argument("--store", default=Broker.store)
    options = parser.parse_args()
    names = [name.replace("_", " ") for name in options.names] or list(ATTACKS)
    print(f"{'attack':24} {'worst lag, ms':>14} {'CPU, ms':>8} {'grows, MiB':>10} {'after, each':>14}  goals")
    good = True
    for name in names:
        try:
            good &= report(name, measured(name, options.seconds, options.store, options.rounds))
        except Missing as reason:
            parser.error(str(reason))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
