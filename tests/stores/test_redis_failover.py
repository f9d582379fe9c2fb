"""A store on Redis that fails over, or is started from an old snapshot: nothing acknowledged is lost in silence."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_twisted

from tests.support.sentinel import SentinelSetup, info_of

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]


@pytest_twisted.async_yield_fixture
async def setup() -> AsyncIterator[SentinelSetup]:
    """A master with two replicas and three Sentinels."""
    setup = SentinelSetup.new()
    yield await setup.start()
    await setup.end()


@pytest_twisted.ensureDeferred
async def test_the_sentinels_make_a_replica_the_master(setup: SentinelSetup) -> None:
    before = await setup.master()

    async def lose() -> None:
        await before.command("SET", "late", "1")

    await before.command("SET", "early", "1")
    await setup.until_replicas(2)
    successor = await setup.lagging_failover(lose)
    assert successor is not before
    assert await successor.command("MGET", "early", "late") == [1, None]
    await setup.revive(before)
    assert (await info_of(before, "replication"))["role"] == "slave"
