"""Store and bus keep their contracts over the simulated Redis as over a real one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock, LoopingCall

from broker.buses import open_bus
from broker.buses import redis as redis_bus
from broker.core.channels import StoreEventSource
from broker.interfaces import IBus, IStore
from broker.messages import Event
from broker.redis import batcher
from broker.stores import open_store
from tests.buses.bus_contract import BusContract
from tests.buses.test_buses import listen
from tests.simulation.network import Network, SimConnection
from tests.simulation.server import Server
from tests.simulation.world import NodeClock, World
from tests.stores.store_contract import DurableContract, MakeStore
from tests.support.eventually import eventually

PUMP = 0.001  # seconds between two advances of the simulated time
ADVANCE = 0.005  # simulated seconds in each of them


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[NodeClock]:
    """The clock of a node, which goes on by itself, with a way to an empty server."""
    for module in (batcher, redis_bus):
        monkeypatch.setattr(module, "Connection", SimConnection)
    world = World(1)
    clock = NodeClock(world)
    clock.network = Network(world, Server(world), clock, "node")  # type: ignore[attr-defined]
    pump = LoopingCall(lambda: world.run_until(world.now + ADVANCE))
    pump.start(PUMP)
    yield clock
    pump.stop()
    assert world.violations == []


class TestStoreOnSimulatedRedis(DurableContract):
    @pytest.fixture
    def make(self, clock: Clock, place: NodeClock) -> MakeStore:
        return lambda: open_store("redis://simulated", clock=clock, reactor=cast(Any, place))

    @pytest.fixture
    def make_limited(self, clock: Clock, place: NodeClock) -> Callable[[int], IStore]:
        return lambda size: open_store("redis://simulated", clock=clock, reactor=cast(Any, place), max_bytes=size)

    @pytest_twisted.async_yield_fixture
    async def store(self, make: MakeStore) -> AsyncIterator[IStore]:
        store = make()
        store.startService()
        await store.head("")  # its epoch is known once Redis has answered
        yield store
        await maybeDeferred(store.stopService)

    async def reopen(self, store: Any, make: MakeStore) -> IStore:
        again = await super().reopen(store, make)
        await again.head("")
        return again


class TestBusOnSimulatedRedis(BusContract):
    @pytest_twisted.async_yield_fixture
    async def bus(self, place: NodeClock, heard: list[Event]) -> AsyncIterator[IBus]:
        clock: Any = place
        store = cast(Any, open_store("redis://simulated", clock=reactor, reactor=clock, announce=True))
        bus = cast(Any, open_bus("redis://simulated", "node", reactor=clock))
        bus.source, bus.deliver = StoreEventSource(store), heard.append
        for part in (store, bus):
            part.startService()
        await eventually(lambda: bus.ready == store.ready == "")
        yield bus
        for part in (bus, store):
            await part.stopService()

    async def listen(self, bus: IBus, *topics: str) -> None:
        await listen(bus, *topics)
