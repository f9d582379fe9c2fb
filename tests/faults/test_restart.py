"""A restart that nobody notices: shipped clients of every dialect come back by themselves, and lose nothing."""

from __future__ import annotations

import signal

import pytest
import pytest_twisted

from tests.faults.restart import run

QUICK = {"TXBROKER_POLL_TIMEOUT_SECONDS": "0.5"}


@pytest.mark.processes
@pytest.mark.unmeasured
@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["TERM", "KILL"])
@pytest_twisted.ensureDeferred
async def test_all_clients_come_back_from_a_restart_and_lose_nothing(number: signal.Signals, soak: bool) -> None:
    (restart,) = await run(2000 if soak else 60, [number], **({} if soak else QUICK))
    print(restart)
    assert restart.problems == {}
    assert restart.acknowledged
