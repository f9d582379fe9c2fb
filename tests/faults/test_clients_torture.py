"""The Python client behind a network that fails: every call ends, and no event is lost or comes twice."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.faults.clients_torture import run

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("driver", ["twisted", "asyncio"])
@pytest_twisted.ensureDeferred
async def test_every_call_ends_and_every_event_comes_once(driver: str, soak: bool) -> None:
    count, faults, restarts = (10_000, 100, 5) if soak else (60, 2, 0)
    torture = await run(driver, count, faults, restarts)
    print(torture)
    assert torture.problems == []
