"""Nodes behind HAProxy are restarted one after the other; see ``rolling``."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.faults.rolling import run
from tests.support.balancers import path_of

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]


@pytest.mark.skipif(not path_of("haproxy"), reason="there is no haproxy")
@pytest_twisted.ensureDeferred
async def test_a_rolling_restart_under_load_loses_nothing(soak: bool) -> None:
    restart = await run(clients=40 if soak else 5, restarts=8 if soak else 2)
    assert restart.problems == {}, str(restart)
    assert restart.acknowledged > 0
