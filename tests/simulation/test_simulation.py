"""Nodes, clients and faults on a virtual clock: what is promised holds in each run, and each run can be repeated."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from tests.simulation.found import FOUND
from tests.simulation.mutants import MUTANTS, find
from tests.simulation.pool import results
from tests.simulation.run import Result, Run, run_schedule, run_seed
from tests.simulation.schedule import Schedule, make_schedule
from tests.simulation.shrink import shrink
from tests.simulation.world import Violation

SEEDS, SOAK_SEEDS = 200, 50_000
BLOCKS = 10  # tests that share the seeds, each of them perhaps in another process
ROOT = Path(__file__).parents[2]


pytestmark = pytest.mark.unmeasured


@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_what_is_promised_holds_whatever_happens(block: int, soak: bool) -> None:
    for seed in range(block, SOAK_SEEDS if soak else SEEDS, BLOCKS):
        result = run_seed(seed)
        violations = [str(violation) for violation in result.violations]
        assert violations == [], f"python -m tests.simulation --seed {seed}"


@pytest.mark.parametrize("what", FOUND)
def test_what_was_found_once_does_not_come_again(what: str) -> None:
    result = run_schedule(FOUND[what])
    assert [str(violation) for violation in result.violations] == []


def test_a_seed_shows_the_same_in_every_process() -> None:
    code = "from tests.simulation.run import run_seed; print([run_seed(seed).digest for seed in range(6)])"
    digests = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": hashes, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
        ).stdout.decode()
        for hashes in ("1", "2")
    ]
    assert digests[0] == digests[1] == f"{[run_seed(seed).digest for seed in range(6)]}\n"


def test_a_coroutine_that_can_not_be_closed_is_a_violation(monkeypatch: pytest.MonkeyPatch) -> None:
    async def wait_for_ever() -> None:
        try:
            await Deferred()
        finally:
            await Deferred()

    monkeypatch.setattr(Run, "run", lambda _: Deferred.fromCoroutine(wait_for_ever()) and None)
    (violation,) = run_seed(1).violations
    assert "coroutine ignored GeneratorExit" in violation.text


def test_runs_of_two_seeds_differ() -> None:
    assert run_seed(1).digest != run_seed(2).digest


@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("name", MUTANTS)
def test_faults_of_the_code_are_found(name: str, soak: bool) -> None:
    for first in (0, 1000) if soak else (MUTANTS[name].first,):
        assert find(name, first=first) is not None


def test_a_failing_schedule_is_shrunk_to_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = make_schedule(3, "mail")
    guilty = [step for step in schedule.steps if step.actor == "c0"][::2]

    def run(tried: Schedule) -> Result:
        bad = all(step in tried.steps for step in guilty)
        return Result(tried, [Violation("fault", "")] if bad else [], [], "")

    monkeypatch.setattr("tests.simulation.shrink.run_schedule", run)
    assert len(guilty) > 1
    assert shrink(schedule, "fault").steps == tuple(guilty)


def test_two_processes_find_what_one_finds():
    one, two = ([result.digest for result in results(0, 4, jobs, None, "names")] for jobs in (1, 2))
    assert one == two
