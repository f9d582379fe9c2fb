"""A fake site and a channel of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from broker.web.http.channel import HttpChannel
from tests.web.http.fake_site import FakeSite
from tests.web.wire import Wire


@pytest.fixture
def site() -> Iterator[FakeSite]:
    site = FakeSite()
    yield site
    assert len(site.deadlines) == 0
    site.clock.advance(1.0)
    assert site.clock.getDelayedCalls() == []


@pytest.fixture
def wire(site: FakeSite) -> Iterator[Wire]:
    wire = Wire(HttpChannel(site, "10.0.0.1"))
    yield wire
    wire.lose()
