"""What a node has sent by a connection that it has given up is not done any more when it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_twisted
import txredisapi

from broker.messages import Mail
from broker.redis.batcher import Batcher
from tests.buses.test_buses import Node
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

JOB = (b"claim_jobs", b"work", b"", b"1000", b"", b"1", b"", b"client", b"", b"node", b"5.0")


@pytest_twisted.async_yield_fixture
async def node(redis_server: RedisServer) -> AsyncIterator[Node]:
    node = await Node(redis_server.url, "own:", "one").start()
    yield node
    await node.stop()


def call_of(batcher: Batcher, operation: tuple[bytes, ...]) -> list[Any]:
    """Return the command by which the present connection would have *operation* done."""
    marks = [b"0", b"1"] if batcher._marks else []
    return ["EVALSHA", batcher._script.hash, "0", *batcher._preamble(), *marks, b"%d" % len(operation), *operation]


async def reconnect(batcher: Batcher) -> None:
    protocol = batcher.connection.protocol
    batcher.connection.drop("cut by the test")
    await eventually(lambda: batcher.connection.protocol not in (None, protocol))


async def send_late(redis: RedisServer, call: list[Any]) -> Any:
    client = await txredisapi.UnixConnection(str(redis.socket), reconnect=False, charset=None)
    try:
        return await client.execute_command(*call)
    finally:
        await client.disconnect()


@pytest_twisted.ensureDeferred
async def test_a_change_that_comes_late_is_not_done(node: Node, redis_server: RedisServer) -> None:
    late = call_of(node.store._batcher, (b"set", b"s", b"key", b"late", b"", b"", b"0", b"", b""))
    await reconnect(node.store._batcher)
    with pytest.raises(txredisapi.ResponseError, match="SUPERSEDED"):
        await send_late(redis_server, late)
    assert await node.store.get("s", "key") is None


@pytest_twisted.ensureDeferred
async def test_jobs_are_not_claimed_late(node: Node, redis_server: RedisServer) -> None:
    late = call_of(node.store._batcher, JOB)
    await reconnect(node.store._batcher)
    await node.store.jobs.add("work", Mail("work", "", b"1"))
    with pytest.raises(txredisapi.ResponseError, match="SUPERSEDED"):
        await send_late(redis_server, late)
    assert (await node.store.jobs.state("work")).ready == 1


@pytest_twisted.ensureDeferred
async def test_what_was_seen_is_not_compared_late(node: Node, redis_server: RedisServer) -> None:
    timeline = node.store._timeline
    sent: list[Any] = []

    class Recorder:
        def execute_command(self, *words: Any) -> None:
            sent.extend(words)

    timeline._ask(Recorder(), b"run", 0)
    await reconnect(node.store._batcher)
    with pytest.raises(txredisapi.ResponseError, match="SUPERSEDED"):
        await send_late(redis_server, sent)
    await node.store.set("s", "key", b"1")  # as before


@pytest_twisted.ensureDeferred
async def test_a_renewal_that_comes_late_does_not_end_the_lease(node: Node, redis_server: RedisServer) -> None:
    # It is one of a node that has no lease yet, which would get a new one.
    late = call_of(node.bus._batcher, (b"renew", b"0", b"0", b"0", b"5000", b"", b"", b""))
    await reconnect(node.bus._batcher)
    await eventually(lambda: node.bus.lease)
    lease = node.bus.lease
    await send_late(redis_server, late)
    for _ in range(2):  # the second is sent when the answer to the first has come
        await node.bus.holders(["name"])
    assert node.bus.lease == lease


@pytest_twisted.ensureDeferred
async def test_a_renewal_that_has_waited_for_the_connection_leaves_the_lease_as_it_is(
    node: Node, redis_server: RedisServer
) -> None:
    leases: list[int] = []
    node.bus.leased = lambda: leases.append(node.bus.lease)
    before = node.bus.lease
    node.bus._lease.end()  # as after a while without an answer
    waited = node.bus._renewal()
    node.bus._renew()
    await eventually(lambda: leases)
    call = call_of(node.bus._batcher, waited)
    answer = await send_late(redis_server, call)
    assert answer[0][0][0] == node.bus.lease > before
