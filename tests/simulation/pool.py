"""Runs of many seeds, by several processes, which import this module: they can not import a ``__main__``."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from multiprocessing import get_context

from tests.simulation.mutants import mutated
from tests.simulation.run import Result, run_seed


def results(first: int, count: int, jobs: int, mutant: str | None, theme: str) -> Iterator[Result]:
    """Yield what the runs show, in the order of their seeds."""
    seeds = range(first, first + count)
    if jobs == 1:
        yield from (run_seed(seed, theme) for seed in seeds)
        return
    with get_context("spawn").Pool(jobs) as pool:
        yield from pool.imap(partial(_run, mutant, theme), seeds, chunksize=20)


def _run(mutant: str | None, theme: str, seed: int) -> Result:
    with mutated(mutant):
        return run_seed(seed, theme)
