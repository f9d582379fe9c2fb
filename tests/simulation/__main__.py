"""``python -m tests.simulation``: runs seeds, reproduces one, shrinks it, or looks for mutants."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from tests.simulation.mutants import MUTANTS, find, mutated
from tests.simulation.pool import results
from tests.simulation.run import run_schedule, run_seed
from tests.simulation.schedule import THEMES
from tests.simulation.shrink import shrink

EXAMPLES = 3  # seeds that are named for each kind of violation
PROGRESS = 1000  # seeds between two lines


def main() -> int:
    """Do what the command line says; return the status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this one, say what happens in it, and shrink it if it fails")
    parser.add_argument("--seeds", type=int, help="how many to run (200; for mutants: what each has)")
    parser.add_argument("--from", dest="first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes that run them (1)")
    parser.add_argument("--mutants", action="store_true", help="look for each mutant instead")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="run the seeds with this mutant")
    parser.add_argument("--kind", default="", help="with --seed: the kind of violation to shrink for, else the first")
    parser.add_argument("--theme", choices=sorted(THEMES), default="", help="of all seeds, else each chooses its own")
    parser.add_argument("--no-shrink", action="store_true", help="with --seed: do not shrink")
    parser.add_argument("--trace", action="store_true", help="with --seed: the whole trace of the shrunk run")
    options = parser.parse_args()
    if options.mutants:
        return find_mutants(options.seeds or 0, options.mutant)
    with mutated(options.mutant):
        if options.seed is not None:
            return show(options.seed, options.theme, options.kind, shorten=not options.no_shrink, whole=options.trace)
        return run_many(options.first, options.seeds or 200, options.jobs, options.mutant, options.theme)


def show(seed: int, theme: str, kind: str, *, shorten: bool, whole: bool) -> int:
    """Print what happens in the run of *seed*, and the shortest schedule that fails in the same way."""
    result = run_seed(seed, theme, keep_trace=True)
    if not shorten or not result.violations:
        print(*result.trace, sep="\n")
    print(f"seed {seed}: {len(result.violations)} violations, digest {result.digest}")
    print(*result.violations, sep="\n")
    if not result.violations:
        return 0
    if shorten:
        kind = kind or result.violations[0].kind
        shortest = shrink(result.schedule, kind, tell=lambda text: print(f"  {text}", file=sys.stderr))
        again = run_schedule(shortest, keep_trace=True)
        print(f"\nThe shortest with {kind!r}: {shortest.nodes} nodes, {shortest.clients} clients")
        print(*shortest.steps, sep="\n")
        print(*(again.trace if whole else ()), sep="\n")
        print(*again.violations, sep="\n")
    return 1


def run_many(first: int, count: int, jobs: int, mutant: str | None, theme: str) -> int:
    """Run seeds; print the violations by their kinds, and how long a seed takes."""
    began = time.perf_counter()
    kinds: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    for number, result in enumerate(results(first, count, jobs, mutant, theme), 1):
        for violation in {each.kind: each for each in result.violations}.values():
            kinds[violation.kind] += 1
            if kinds[violation.kind] <= EXAMPLES:
                line = f"seed {result.schedule.seed}: {violation}"
                examples.setdefault(violation.kind, []).append(line[:300])
                print(line[:300], flush=True)
        if number % PROGRESS == 0:
            print(f"{number} seeds, {sum(kinds.values())} violations", flush=True)
    seconds = time.perf_counter() - began
    print(f"{count} seeds from {first} in {seconds:.1f} s ({1000 * seconds / count:.1f} ms a seed)")
    for kind, times in kinds.most_common():
        print(f"{times:6} {kind}")
        for line in examples[kind]:
            print(f"       {line}")
    return 1 if kinds else 0


def find_mutants(limit: int, only: str | None) -> int:
    """Print for each mutant which seed finds it; return 1 if one is not found."""
    missed = 0
    for name in [only] if only else MUTANTS:
        found = find(name, limit)
        missed += found is None
        text = (
            f"NOT FOUND in {limit or MUTANTS[name].seeds} seeds"
            if found is None
            else f"found by seed {found[0]}: {found[1]}"
        )
        print(f"{name}: {text}"[:300], flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
