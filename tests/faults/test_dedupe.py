"""What is published again by its key, to any node and whatever is killed meanwhile, is stored once."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import pytest_twisted

from tests.faults.dedupe import PUBLICATIONS, RESTARTS, on_one_node, on_three_nodes

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured, pytest.mark.timeout(600)]

QUICK = 24, 2  # publications and restarts


@pytest_twisted.ensureDeferred
async def test_a_publication_to_three_nodes_is_stored_once(soak: bool) -> None:
    publishers = await on_three_nodes(*((PUBLICATIONS, RESTARTS) if soak else QUICK), random.Random(7))
    assert publishers.faults == []


@pytest_twisted.ensureDeferred
async def test_a_publication_to_sqlite_is_stored_once(tmp_path: Path, soak: bool) -> None:
    publishers = await on_one_node(*((PUBLICATIONS, RESTARTS) if soak else QUICK), random.Random(7), tmp_path)
    assert publishers.faults == []
