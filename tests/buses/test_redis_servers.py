"""A bus subscribes at the server that does its operations: a replica, or another master, hears what is not counted."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_twisted

from broker.errors import Unavailable
from broker.messages import Event
from broker.redis import RedisAddress, batcher
from tests.buses.test_buses import Node
from tests.support.eventually import eventually, pause
from tests.support.redis_server import DENIED, RedisServer
from tests.support.sentinel import info_of

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

MakePair = Callable[[RedisServer], Awaitable[tuple[Node, Node]]]


@pytest_twisted.async_yield_fixture
async def other(short_path: Path) -> AsyncIterator[RedisServer]:
    """A second redis-server."""
    directory = short_path / "other"
    directory.mkdir()
    server = RedisServer(directory, "--repl-diskless-sync-delay", "0")
    yield await server.start()
    await server.kill()


def subscribe_at(node: Node, server: RedisServer) -> None:
    """Let *node* find *server* when it connects to subscribe the next time, as by a Sentinel that is behind."""
    node.bus._subscriber_connection._address = RedisAddress.parse(server.url)


@pytest_twisted.async_yield_fixture
async def make_pair(redis_server: RedisServer) -> AsyncIterator[MakePair]:
    """Makes two nodes on one Redis, of which the second finds another server for its subscriptions."""
    made: list[Node] = []

    async def make(server: RedisServer) -> tuple[Node, Node]:
        one, two = (Node(redis_server.url, "own:", name) for name in ("one", "two"))
        made.extend((one, two))
        await one.start()
        subscribe_at(two, server)
        two.store.startService()
        two.bus.startService()
        await eventually(lambda: two.bus.lease and two.bus.lives(one.bus.address))
        two.beat()
        await eventually(lambda: one.bus.lives(two.bus.address))
        return one, two

    yield make
    for node in made:
        await node.stop()


async def follows(one: Node, two: Node, server: RedisServer) -> None:
    """Check that *two* gets what *one* sends as soon as it finds *server* for its subscriptions."""
    subscribe_at(two, server)
    await eventually(lambda: two.bus.ready == "")
    await two.listen("topic")
    assert await one.bus.send(two.bus.address, b"after")
    await eventually(lambda: two.messages)
    assert two.messages == [(one.bus.address, b"after")]


@pytest_twisted.ensureDeferred
async def test_a_bus_does_not_subscribe_at_a_replica(
    make_pair: MakePair, redis_server: RedisServer, other: RedisServer
) -> None:
    await other.command("REPLICAOF", "127.0.0.1", str(redis_server.port))
    while "state=online" not in (await info_of(redis_server, "replication")).get("slave0", ""):
        await pause(0.01)
    one, two = await make_pair(other)
    await eventually(lambda: "it is a replica" in two.bus.ready)
    # The replica would hand over what the master has nobody to hand to.
    assert await one.bus.send(two.bus.address, b"not sent") is False
    await follows(one, two, redis_server)


@pytest_twisted.ensureDeferred
async def test_a_bus_does_not_stay_at_another_server_than_that_of_its_operations(
    make_pair: MakePair, redis_server: RedisServer, other: RedisServer
) -> None:
    one, two = await make_pair(other)
    await eventually(lambda: "another server" in two.bus.ready)
    await follows(one, two, redis_server)


@pytest_twisted.ensureDeferred
async def test_a_bus_leaves_a_server_that_has_become_a_replica(
    make_pair: MakePair, redis_server: RedisServer, other: RedisServer
) -> None:
    one, two = await make_pair(redis_server)
    await two.listen("topic")
    await other.command("REPLICAOF", "127.0.0.1", str(redis_server.port))
    while "state=online" not in (await info_of(redis_server, "replication")).get("slave0", ""):
        await pause(0.01)
    for node in (one, two):
        subscribe_at(node, other)
        for part in (node.bus, node.store):
            part._batcher.connection._address = RedisAddress.parse(other.url)
    await other.command("REPLICAOF", "NO", "ONE")
    await redis_server.command("REPLICAOF", "127.0.0.1", str(other.port))  # closes no connection
    await eventually(lambda: all(node.bus._subscriber.generation > 1 for node in (one, two)))
    await follows(one, two, other)


@pytest_twisted.ensureDeferred
async def test_a_store_that_only_reads_leaves_a_server_that_has_become_a_replica(
    make_pair: MakePair, redis_server: RedisServer, other: RedisServer
) -> None:
    one, _ = await make_pair(redis_server)
    before = one.store.server
    one.store._batcher.connection._address = RedisAddress.parse(other.url)
    await redis_server.command("REPLICAOF", "127.0.0.1", str(other.port))  # closes no connection
    await eventually(lambda: one.store.ready == "" and one.store.server not in ("", before))


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    ("change", "undo"),
    [
        ("-publish", "+publish"),
        ("-subscribe", "+subscribe"),
        ("-psubscribe", "+psubscribe"),
        ("resetchannels", "allchannels"),
        ("-evalsha", "+evalsha"),
        ("-hset", "+hset"),
    ],
)
async def test_a_bus_without_a_permission_that_it_needs_is_not_ready_until_it_has_it(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, change: str, undo: str
) -> None:
    monkeypatch.setattr(batcher, "PROBE_INTERVAL", 0.05)  # seconds
    await redis_server.command("ACL", "SETUSER", "default", change)
    node = Node(redis_server.url, "own:", "one")
    node.bus.startService()
    await eventually(lambda: DENIED.search(node.bus.ready))
    await redis_server.command("ACL", "SETUSER", "default", undo)
    await eventually(lambda: node.bus.ready == "" and node.bus.lease)
    await node.stop()


@pytest_twisted.ensureDeferred
async def test_a_bus_whose_permission_to_publish_is_taken_away_is_not_ready_until_it_has_it_again(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batcher, "PROBE_INTERVAL", 0.05)  # seconds
    node = await Node(redis_server.url, "own:", "one").start()
    await redis_server.command("ACL", "SETUSER", "default", "-publish")
    with pytest.raises(Unavailable):
        await node.bus.publish(Event("topic", "kind", b"1"))
    await node.bus.holders([""])  # which is permitted
    assert "Redis refuses" in node.bus.ready
    await redis_server.command("ACL", "SETUSER", "default", "+publish")
    await eventually(lambda: node.bus.ready == "")
    await node.bus.publish(Event("topic", "kind", b"1"))
    await node.stop()
