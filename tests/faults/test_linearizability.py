"""Keys on three nodes under faults: what clients were answered fits one order of all operations."""

from __future__ import annotations

import random

import pytest
import pytest_twisted

from tests.faults import linearizability

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]


@pytest.mark.timeout(1800)
@pytest_twisted.ensureDeferred
async def test_histories_of_keys_under_faults_are_linearizable(soak: bool) -> None:
    tally = await linearizability.run(100 if soak else 2, seed=random.randrange(1 << 30))
    print(tally)
    assert tally.violations == []
    assert tally.operations["answered"] > 50 * tally.histories
