"""Workers and brokers are killed at any moment: every job is done at least once."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.faults.jobs import run

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured, pytest.mark.timeout(3600)]


@pytest_twisted.ensureDeferred
async def test_every_job_is_done_although_workers_and_the_broker_are_killed(soak: bool) -> None:
    torture = await run(1, *((10_000, 8, 10) if soak else (60, 2, 1)))
    assert torture.problems == []


@pytest_twisted.ensureDeferred
async def test_so_is_every_job_of_three_nodes(soak: bool) -> None:
    if not soak:
        pytest.skip("tests/cluster/test_nodes.py has the like with one node that is lost")
    torture = await run(3, 10_000, 8, 10)
    assert torture.problems == []


@pytest.mark.parametrize("nodes", [1, 3])
@pytest_twisted.ensureDeferred
async def test_so_is_every_job_that_is_claimed_by_http(soak: bool, nodes: int) -> None:
    if not soak:
        pytest.skip("tests/core/test_job_claims.py has the parts of it")
    torture = await run(nodes, 10_000, 8, 10, over_http=True)
    assert torture.problems == []
