"""The Redis servers and Sentinels of the documentation are good for a broker, before and after a failover."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path
from textwrap import dedent
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred

from broker.config.settings import Settings
from broker.messages import Event
from broker.redis import RedisAddress
from broker.stores import open_store
from tests.support import sentinel
from tests.support.eventually import eventually
from tests.support.sentinel import MASTER, SentinelSetup

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

PAGE = Path(__file__).parents[2] / "docs" / "operations" / "scaling.rst"
BLOCK = re.compile(rf"\.\. run by tests/stores/{Path(__file__).name}\n\n\.\. code-block:: text\n\n((?: {{4}}.*\n)+)")
REDIS_CONF, SENTINEL_CONF, SETTINGS = (dedent(text).splitlines() for text in BLOCK.findall(PAGE.read_text("utf-8")))


@pytest_twisted.async_yield_fixture
async def setup(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[SentinelSetup]:
    """Three servers, and the Sentinels, on ports of their own; nobody has to notice that a server is down."""
    options = [word for line in REDIS_CONF for word in ("--" + line).split()]
    lines = "\n".join(SENTINEL_CONF).replace("10.0.0.1 6379", "127.0.0.1 {master}").replace(" 5000", " {down_after}")
    monkeypatch.setattr(sentinel, "SENTINEL_CONF", f"port {{port}}\nbind 127.0.0.1\ndir {{directory}}\n{lines}\n")
    made = SentinelSetup.new(*options)
    yield await made.start()
    await made.end()


@pytest_twisted.ensureDeferred
async def test_a_node_on_them_has_nothing_to_warn_of_and_goes_on_after_a_failover(setup: SentinelSetup) -> None:
    settings = Settings.from_environ(dict(line.split("=", 1) for line in SETTINGS))
    address = RedisAddress.parse(settings.store)
    assert (address.master, len(address.hosts)) == (MASTER, len(setup.sentinels))
    url = setup.url.replace("//", f"//{address.user}:{address.password}@")
    wait, clock = (settings.redis_wait_replicas, settings.redis_wait_ms), cast(Any, reactor)
    store: Any = open_store(url, clock=clock, prefix=settings.redis_prefix, announce=True, wait=wait)
    store.startService()
    try:
        await eventually(lambda: store.ready == "")
        assert (store.warnings, "survives a power cut" in store.description) == ([], True)
        assert (await store.append("event/topic", Event("topic", "kind", b"kept"))).id == 1
        await setup.until_replicas(2)
        await setup.failover()
        await eventually(lambda: store.ready == "")
        assert [event.body for event in await store.read("event/topic", 0, 9)] == [b"kept"]
        assert (await store.append("event/topic", Event("topic", "kind", b"new"))).id == 2
    finally:
        await maybeDeferred(store.stopService)
