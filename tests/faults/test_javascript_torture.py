"""The JavaScript client behind a network that fails: every call ends, and no event is lost or comes twice."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.faults.javascript_torture import run

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured, pytest.mark.timeout(1800)]


@pytest_twisted.ensureDeferred
async def test_every_call_ends_and_every_event_comes_once(soak: bool) -> None:
    count, faults, restarts = (2000, 100, 5) if soak else (60, 2, 0)
    torture = await run(count, faults, restarts)
    print(torture)
    assert torture.problems == []
