"""Clients come and go on three nodes, of which one is killed: all nodes show the same members at the end."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.faults.presence import run

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured, pytest.mark.timeout(600)]


@pytest_twisted.ensureDeferred
async def test_all_nodes_show_the_same_members_and_what_was_told_adds_up_to_them(soak: bool) -> None:
    if not soak:
        pytest.skip("tests/cluster/test_members.py has the like with links that break")
    torture = await run(300, 60, 1)
    assert torture.problems == []
