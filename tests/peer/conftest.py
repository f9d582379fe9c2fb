"""What the tests of peers have in common."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from broker.testing import make_broker


@pytest.fixture
def clock():
    clock = Clock()
    clock.advance(1_000_000)
    return clock


@pytest.fixture
def broker(clock):
    return make_broker(clock)
