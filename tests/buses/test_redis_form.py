"""What is in Redis has a form: a node whose version does not know it refuses to work, and says why."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred

from broker.buses import open_bus
from broker.errors import Unavailable
from broker.messages import Event
from broker.stores import open_store
from broker.versions import FORM
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.processes, pytest.mark.timeout(60)]

EVENT = Event("topic", "kind", b"1", "me", 1.0)


class Node:
    """The store and the bus of a node."""

    def __init__(self, url: str) -> None:
        self.store: Any = open_store(url, clock=cast(Any, reactor), prefix="own:", announce=True)
        bus: Any = open_bus(url, "node", reactor=reactor, prefix="own:")
        bus.source = self.store
        self.bus = bus

    def start(self) -> Node:
        for part in (self.store, self.bus):
            part.startService()
        return self

    @property
    def ready(self) -> bool:
        return not (self.store.ready or self.bus.ready) and bool(self.bus.lease)

    def says(self, reason: str) -> bool:
        return reason in self.store.ready and reason in self.bus.ready

    async def stop(self) -> None:
        for part in (self.bus, self.store):
            await maybeDeferred(part.stopService)


@pytest_twisted.async_yield_fixture
async def node(redis_server: RedisServer) -> AsyncIterator[Node]:
    made = Node(redis_server.url)
    yield made
    await made.stop()


@pytest_twisted.ensureDeferred
async def test_a_node_notes_the_form_of_what_it_writes(node: Node, redis_server: RedisServer) -> None:
    node.start()
    await eventually(lambda: node.ready)
    assert await redis_server.command("GET", "own:form") == FORM


@pytest_twisted.ensureDeferred
async def test_a_node_refuses_to_begin_with_a_later_form(node: Node, redis_server: RedisServer) -> None:
    await redis_server.command("SET", "own:form", str(FORM + 1))
    node.start()
    await eventually(lambda: node.says(f"its data have the form {FORM + 1}, of a later version of txbroker"))
    with pytest.raises(Unavailable):
        await node.store.append("log", EVENT)
    assert await redis_server.command("KEYS", "own:log:*") == []


@pytest_twisted.ensureDeferred
async def test_a_node_at_work_stops_when_a_later_one_gives_the_data_another_form(
    node: Node, redis_server: RedisServer
) -> None:
    node.start()
    await eventually(lambda: node.ready)
    await node.store.append("log", EVENT)
    await redis_server.command("SET", "own:form", str(FORM + 1))
    with pytest.raises(Unavailable):
        await node.store.append("log", EVENT)
    await eventually(lambda: node.says("of a later version of txbroker"))
    await redis_server.command("SET", "own:form", str(FORM))  # the update is undone
    await eventually(lambda: node.ready)
    assert (await node.store.append("log", EVENT)).id == 2


@pytest_twisted.ensureDeferred
async def test_the_form_is_noted_again_when_all_was_lost(node: Node, redis_server: RedisServer) -> None:
    node.start()
    await eventually(lambda: node.ready)
    await redis_server.command("FLUSHALL")
    await node.store.append("log", EVENT)
    assert await redis_server.command("GET", "own:form") == FORM
