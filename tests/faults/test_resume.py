"""Whoever comes back after faults gets every event once and in order."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.faults.resume import run

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured, pytest.mark.timeout(900)]


@pytest_twisted.ensureDeferred
async def test_a_subscriber_behind_a_failing_network_gets_every_event_once_and_in_order(soak: bool) -> None:
    torture = await run(1, 20_000 if soak else 150, 100 if soak else 3, kills=soak)
    print(torture)
    assert (torture.problems, torture.subscriber.lost) == ([], 0)


@pytest_twisted.ensureDeferred
async def test_so_does_one_of_three_nodes_that_are_killed(soak: bool) -> None:
    if not soak:
        pytest.skip("tests/bridge/test_history.py has the like without kills")
    torture = await run(3, 20_000, 100)
    print(torture)
    assert (torture.problems, torture.subscriber.lost) == ([], 0)
