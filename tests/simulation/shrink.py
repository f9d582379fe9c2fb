"""Makes a schedule that shows a violation as short as it can be found to be (delta debugging)."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from tests.simulation.run import run_schedule
from tests.simulation.schedule import Schedule, Step

MAX_RUNS = 600


def shrink(schedule: Schedule, kind: str, *, tell: Callable[[str], object] = lambda _: None) -> Schedule:
    """Return *schedule* with fewer steps, which still shows a violation of that *kind*."""
    runs = 0

    def shows(steps: tuple[Step, ...]) -> bool:
        nonlocal runs
        runs += 1
        result = run_schedule(attrs.evolve(schedule, steps=steps))
        return any(violation.kind == kind for violation in result.violations)

    steps, parts = schedule.steps, 2
    while steps and runs < MAX_RUNS:
        size = max(1, len(steps) // parts)
        for start in range(0, len(steps), size):
            fewer = steps[:start] + steps[start + size :]
            if shows(fewer):
                steps, parts = fewer, max(2, parts - 1)
                tell(f"{len(steps)} steps after {runs} runs")
                break
        else:
            if size == 1:
                break
            parts = min(len(steps), parts * 2)
    return attrs.evolve(schedule, steps=steps)
