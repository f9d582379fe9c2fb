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
from broker.errors import NotDone
from broker.interfaces import IBus, IStore
from broker.messages import Event, KeyAnnouncement
from broker.redis import batcher
from broker.stores import open_store
from tests.buses.bus_contract import BusContract
from tests.buses.test_buses import listen
from tests.simulation.network import Network, SimConnection
from tests.simulation.scripts import scripts
from tests.simulation.server import Server
from tests.simulation.world import NodeClock, World
from tests.stores.made_store import MakeStore
from tests.stores.store_contract import DurableContract
from tests.support.eventually import eventually

pytestmark = pytest.mark.unmeasured  # others run the same code

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


@pytest_twisted.ensureDeferred
async def test_a_server_that_can_say_what_may_be_published_is_asked_first(place: NodeClock) -> None:
    """As one of version 7 can; the real one that tests start may be older."""
    clock: Any = place
    store: Any = open_store("redis://simulated", clock=reactor, reactor=clock, announce=True)
    store.startService()
    await store.head("")
    library = scripts()._lua.globals()[b"redis"]
    library[b"acl_check_cmd"] = lambda _, channel, __: channel.endswith(b"/kv/public")
    made = {key: KeyAnnouncement(f"kv/{key}", "set", 1.0, key=key) for key in ("public", "secret")}
    try:
        public, secret = (store.set("kv", key, b"1", announcement=made[key]) for key in made)
        assert (await public).revision == 1
        with pytest.raises(NotDone, match="NOPERM this user may not publish to txbroker:0/event/kv/secret"):
            await secret
        with pytest.raises(NotDone, match="NOPERM"):
            await store.append("event/topic", Event("topic", "kind", b"1"))
    finally:
        library[b"acl_check_cmd"] = lambda *_: True
    assert [key for key, _ in await store.range("kv", "", "~", 9)] == ["public"]
    assert await store.head("event/topic") == 0
    await maybeDeferred(store.stopService)
