"""Each bus keeps the contract, and what is special about each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import DeferredList, gatherResults, maybeDeferred
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from broker.buses import LocalBus, open_bus
from broker.buses.local import MAX_DEPTH
from broker.core.channels import StoreEventSource
from broker.errors import Invalid, NotDone, Taken, Unavailable
from broker.interfaces import IBus, ISharedBus
from broker.messages import Event
from broker.patterns import LOG_PREFIX
from broker.stores import open_store
from tests.buses.bus_contract import BusContract, SharedBusContract, Told, live
from tests.support.eventually import TIMEOUT, eventually
from tests.support.redis_server import RedisServer

_numbers = count()

LEASE = 60.0  # seconds: on a busy machine all nodes live on
BEAT = 0.2  # seconds


class TestLocalBus(BusContract):
    @pytest.fixture
    def bus(self, heard: list[Event]) -> IBus:
        bus = LocalBus("node")
        bus.deliver = heard.append
        return bus


def endless_bus(heard: list[str], clock: Clock) -> LocalBus:
    """Return a bus on which "ping" and "pong" are published in answer to each other."""
    bus = LocalBus("node", clock)

    def deliver(event: Event) -> None:
        heard.append(event.topic)
        if event.topic in ("ping", "pong"):
            bus.publish(live("pong" if event.topic == "ping" else "ping"))

    bus.deliver = deliver
    return bus


def test_events_in_answer_to_each_other_let_others_have_their_turn() -> None:
    heard: list[str] = []
    clock = Clock()
    bus = endless_bus(heard, clock)
    bus._slices.now = iter(range(10**6)).__next__  # type: ignore[union-attr]  # each look takes a second
    bus.publish(live("ping"))
    assert heard == ["ping", "pong"] * (MAX_DEPTH // 2)
    bus.publish(live("other"))
    clock.pump([10.0] * 10)
    assert heard.count("other") == 1
    assert MAX_DEPTH < len(heard) < MAX_DEPTH + 20
    assert heard.index("other") == MAX_DEPTH + 1


def test_a_failure_costs_no_event_behind_it() -> None:
    heard: list[str] = []
    clock = Clock()
    bus = endless_bus(heard, clock)
    original = bus.deliver

    def deliver(event: Event) -> None:
        if event.topic == "ping" and len(heard) > 2 * MAX_DEPTH:
            raise ZeroDivisionError
        original(event)

    bus._slices.now = iter(range(10**6)).__next__  # type: ignore[union-attr]
    bus.deliver = deliver
    bus.publish(live("ping"))
    bus.publish(live("other"))
    clock.pump([10.0] * 500)
    bus.publish(live("after"))
    assert (heard.count("other"), heard[-1]) == (1, "after")
    assert clock.getDelayedCalls() == []


async def listen(bus: Any, *topics: str) -> None:
    for topic in topics:
        bus.listen(topic)
    await eventually(lambda: all(each.confirmed and each.mark is None for each in bus._subscriber._subscriptions))


class Node:
    """What one of several nodes has of Redis: a store, a bus, and what it has heard."""

    def __init__(self, url: str, prefix: str, name: str) -> None:
        self.url, self.prefix = url, prefix
        self.store = cast(Any, open_store(url, clock=reactor, prefix=prefix, announce=True))
        self.bus = cast(Any, open_bus(url, name, reactor=reactor, prefix=prefix, lease=LEASE))
        self.heard: list[Event] = []
        self.messages: list[tuple[str, bytes]] = []
        self.departed: list[str] = []
        self.bus.source = StoreEventSource(self.store)
        self.store.wiped = self.bus.wiped
        self.bus.deliver = self.heard.append
        self.bus.received = lambda *message: self.messages.append(message)
        self.bus.departed = self.departed.append

    async def start(self) -> Node:
        self.store.startService()
        self.bus.startService()
        await eventually(lambda: self.bus.ready == self.store.ready == "")
        self.beat()
        await eventually(lambda: self.bus.lives(self.bus.address))
        return self

    def beat(self) -> None:
        """Renew the lease, and look at those of the others, more often than LEASE alone asks for."""
        if self.bus._heartbeats.running:
            self.bus._heartbeats.stop()
        self.bus._heartbeats.start(BEAT)

    async def stop(self) -> None:
        await gatherResults([maybeDeferred(part.stopService) for part in (self.bus, self.store)])

    async def listen(self, *topics: str) -> None:
        await listen(self.bus, *topics)

    async def append(self, topic: str, body: bytes = b"1") -> int:
        stored = await self.store.append(LOG_PREFIX + topic, Event(topic, "kind", body))
        return int(stored.id)

    @property
    def ids(self) -> list[int]:
        return [event.id for event in self.heard]


MakeNode = Callable[..., Awaitable[Node]]


async def _nodes(server: RedisServer, prefix: str, made: list[Node]) -> MakeNode:
    async def make(name: str = "node") -> Node:
        node = Node(server.url, prefix, name)
        made.append(node)
        return await node.start()

    return make


@pytest_twisted.async_yield_fixture
async def make_node(shared_redis_server: RedisServer) -> AsyncIterator[MakeNode]:
    """Makes started nodes on one Redis, for tests that do it no harm."""
    made: list[Node] = []
    yield await _nodes(shared_redis_server, f"test{next(_numbers)}:", made)
    for node in made:
        await node.stop()


@pytest_twisted.async_yield_fixture
async def make_frail_node(redis_server: RedisServer) -> AsyncIterator[MakeNode]:
    """Makes started nodes on a Redis of the test's own."""
    made: list[Node] = []
    yield await _nodes(redis_server, "frail:", made)
    for node in made:
        await node.stop()


class TestRedisBus(BusContract):
    @pytest_twisted.async_yield_fixture
    async def bus(self, make_node: MakeNode, heard: list[Event]) -> AsyncIterator[IBus]:
        node = await make_node()
        node.bus.deliver = heard.append
        yield node.bus

    async def listen(self, bus: IBus, *topics: str) -> None:
        await listen(bus, *topics)


class TestSharedRedisBus(SharedBusContract):
    @pytest_twisted.async_yield_fixture
    async def pair(self, make_node: MakeNode) -> AsyncIterator[tuple[Told, Told]]:
        one, two = [await make_node(name) for name in ("one", "two")]
        await eventually(lambda: one.bus.lives(two.bus.address) and two.bus.lives(one.bus.address))
        yield Told(one.bus), Told(two.bus)

    async def lapse(self, node: Told, other: Told) -> None:
        node.bus._heartbeats.stop()
        execute, prefix = node.bus._batcher.connection.protocol.execute_command, node.bus._prefix
        await execute(b"SET", prefix + b"grace", 0)  # the time that nodes are given after the first start
        await execute(b"ZADD", prefix + b"nodes", 0, node.bus.address)
        node.bus._lease.end()
        await eventually(lambda: not other.bus.lives(node.bus.address))

    async def renew(self, node: Told) -> None:
        node.bus._heartbeats.start(BEAT)
        await eventually(lambda: node.bus.lease)


@pytest_twisted.ensureDeferred
async def test_a_node_is_awaited_after_a_time_in_which_none_could_renew(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await eventually(lambda: one.bus.lives(two.bus.address) and two.bus.lives(one.bus.address))
    two.bus._heartbeats.stop()
    execute = one.bus._batcher.connection.protocol.execute_command
    await execute(b"ZADD", one.bus._prefix + b"nodes", 0, two.bus.address)
    await execute(b"SET", one.bus._prefix + b"grace", 1 << 50)
    await eventually(lambda: not one.bus.lives(two.bus.address))
    assert await one.bus.may_live(two.bus.address)
    assert not await one.bus.may_live("three/1")
    await execute(b"HSET", one.bus._prefix + b"leases", "one/1", "1 1 1")  # it has come back by another address
    assert not await one.bus.may_live("one/1")
    await execute(b"SET", one.bus._prefix + b"settling", 1 << 50)
    assert await one.bus.may_live("three/1")


@pytest_twisted.ensureDeferred
async def test_nobody_is_surely_the_holder_while_a_node_may_claim_again_what_it_held(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await eventually(lambda: one.bus.lives(two.bus.address) and two.bus.lives(one.bus.address))
    await two.bus.claim("held")
    execute = one.bus._batcher.connection.protocol.execute_command
    await execute(b"SET", one.prefix + "grace", 0)  # the time that nodes are given after the first start
    number = two.bus.lease
    two.bus._lease.end()  # as when Redis has hung for longer
    await eventually(lambda: one.bus.lease_of(two.bus.address) > number)
    with pytest.raises(NotDone) as unsure:
        await one.bus.holders(["held"])
    assert 0 < unsure.value.retry_after <= 2 * LEASE
    assert await one.bus.holders(["never held"]) == ("", [])
    assert await two.bus.claim_all({"held": False}) == {}
    assert await one.bus.holders(["held"]) == ("held", [two.bus.address])
    await two.bus.release("held")
    assert await one.bus.holders(["held"]) == ("", [])


@pytest_twisted.ensureDeferred
async def test_names_that_are_not_claimed_again_are_forgotten(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await eventually(lambda: one.bus.lives(two.bus.address) and two.bus.lives(one.bus.address))
    await two.bus.claim("held")
    execute = one.bus._batcher.connection.protocol.execute_command
    await execute(b"SET", one.prefix + "grace", 0)
    number = two.bus.lease
    two.bus._lease.end()
    await eventually(lambda: one.bus.lease_of(two.bus.address) > number)
    assert await execute(b"HLEN", one.prefix + "names") == 1
    await execute(b"SET", one.prefix + "returning", 0)  # as when that time is over
    assert await one.bus.holders(["held"]) == ("", [])
    while await execute(b"EXISTS", one.prefix + "untidy"):
        pass
    assert await execute(b"HLEN", one.prefix + "names") == 0


@pytest_twisted.ensureDeferred
async def test_no_holder_is_known_for_sure_when_the_server_has_lost_who_held_what(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    execute = one.bus._batcher.connection.protocol.execute_command
    await execute(b"SET", one.prefix + "settling", 1 << 50)
    with pytest.raises(NotDone) as unsure:
        await one.bus.holders(["name"])
    assert unsure.value.retry_after > 0
    assert await two.bus.claim_all({"name": False}) == {}
    assert await one.bus.holders(["other", "name"]) == ("name", [two.bus.address])


@pytest_twisted.ensureDeferred
async def test_who_has_held_a_name_all_the_while_keeps_it_from_a_node_whose_lease_has_ended(
    make_node: MakeNode,
) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await eventually(lambda: one.bus.lives(two.bus.address) and two.bus.lives(one.bus.address))
    await two.bus.claim("alone")
    await two.bus.claim("shared", shared=True)
    two.bus._heartbeats.stop()
    execute = one.bus._batcher.connection.protocol.execute_command
    await execute(b"ZADD", one.bus._prefix + b"nodes", 0, two.bus.address)
    await execute(b"SET", one.bus._prefix + b"grace", 1 << 50)
    await eventually(lambda: not one.bus.lives(two.bus.address))
    claimed = {"alone": False, "shared": True}
    assert await one.bus.claim_all(claimed, {"alone", "shared"}) == {"alone": ""}
    assert await one.bus.claim_all(claimed) == {}
    assert await one.bus.holders(["alone"]) == ("alone", [one.bus.address])
    assert (await one.bus.holders(["shared"]))[1] == [two.bus.address, one.bus.address]


@pytest_twisted.ensureDeferred
async def test_what_a_node_has_not_claimed_under_its_present_lease_is_nobodys_yet(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await eventually(lambda: one.bus.lives(two.bus.address) and two.bus.lives(one.bus.address))
    await two.bus.claim("alone")
    await two.bus.claim("kept")
    execute = one.bus._batcher.connection.protocol.execute_command
    await execute(b"SET", one.prefix + "grace", 1 << 50)
    number = two.bus.lease
    two.bus._lease.end()
    await eventually(lambda: one.bus.lease_of(two.bus.address) > number)
    claimed = {"alone": False, "kept": False}
    assert await one.bus.claim_all(claimed, {"alone", "kept"}) == {"alone": "", "kept": ""}
    assert await two.bus.claim_all({"kept": False}, {"kept"}) == {}
    assert await one.bus.claim_all(claimed) == {"kept": two.bus.address}
    assert await two.bus.claim_all({"alone": False}, {"alone"}) == {"alone": one.bus.address}
    with pytest.raises(Taken):
        await two.bus.claim("alone")


@pytest_twisted.ensureDeferred
async def test_what_nobody_claims_again_goes_to_who_had_it_before_as_well(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await eventually(lambda: one.bus.lives(two.bus.address) and two.bus.lives(one.bus.address))
    await two.bus.claim("name")
    execute = one.bus._batcher.connection.protocol.execute_command
    await execute(b"SET", one.prefix + "grace", 1 << 50)
    number = two.bus.lease
    two.bus._lease.end()
    await eventually(lambda: one.bus.lease_of(two.bus.address) > number)
    assert await one.bus.claim_all({"name": False}, {"name"}) == {"name": ""}
    await execute(b"SET", one.prefix + "grace", 0)
    assert await one.bus.claim_all({"name": False}, {"name"}) == {}
    assert await one.bus.holders(["name"]) == ("name", [one.bus.address])


@pytest_twisted.ensureDeferred
async def test_after_the_server_went_back_a_node_may_be_about_to_give_back_what_it_holds_there(
    make_node: MakeNode,
) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await eventually(lambda: one.bus.lives(two.bus.address) and two.bus.lives(one.bus.address))
    await two.bus.claim("given back")
    await two.bus.claim("kept")
    execute = one.bus._batcher.connection.protocol.execute_command
    await execute(b"SET", one.prefix + "settling", 1 << 50)
    claimed = {"given back": False, "kept": False}
    for new in ((), claimed):
        assert await one.bus.claim_all(claimed, new) == {"given back": "", "kept": ""}
    assert await two.bus.release("given back")
    assert await two.bus.claim_all({"kept": False}) == {}
    assert await one.bus.claim_all(claimed) == {"kept": ""}
    await execute(b"SET", one.prefix + "settling", 0)
    assert await one.bus.claim_all(claimed) == {"kept": two.bus.address}


@pytest_twisted.ensureDeferred
async def test_what_a_server_that_went_back_has_for_a_node_is_not_for_newcomers_there(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await eventually(lambda: one.bus.lives(two.bus.address) and two.bus.lives(one.bus.address))
    await one.bus.claim("name")  # and given it back later, which was lost
    execute = one.bus._batcher.connection.protocol.execute_command
    await execute(b"SET", one.prefix + "settling", 1 << 50)
    with pytest.raises(NotDone) as unsure:
        await one.bus.claim("name")
    assert unsure.value.retry_after > 0
    assert await two.bus.claim_all({"name": False}) == {}
    with pytest.raises(Taken):
        await one.bus.claim("name")


@pytest_twisted.ensureDeferred
async def test_what_a_server_that_went_back_has_for_a_node_may_be_anothers_since_its_lease_has_ended(
    make_node: MakeNode,
) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await eventually(lambda: one.bus.lives(two.bus.address) and two.bus.lives(one.bus.address))
    for name in ("alone", "last"):
        await one.bus.claim(name)
    await one.bus.claim("shared", shared=True)
    execute = one.bus._batcher.connection.protocol.execute_command
    for key in ("grace", "settling"):
        await execute(b"SET", one.prefix + key, 1 << 50)
    number = one.bus.lease
    one.bus._lease.end()
    await eventually(lambda: two.bus.lease_of(one.bus.address) > number)
    claimed = {"alone": False, "last": False, "shared": True}
    assert await one.bus.claim_all(claimed, claimed) == {"alone": "", "last": ""}
    assert await two.bus.claim_all({"alone": False}) == {}
    for key in ("grace", "settling"):
        await execute(b"SET", one.prefix + key, 0)
    assert await one.bus.claim_all(claimed, claimed) == {"alone": two.bus.address}


@pytest_twisted.ensureDeferred
async def test_it_provides_the_interface_of_a_shared_bus(make_node: MakeNode) -> None:
    verifyObject(ISharedBus, (await make_node()).bus)


def test_an_unknown_bus_is_refused() -> None:
    with pytest.raises(Invalid, match="no such bus: horse"):
        open_bus("horse://user:secret@host", "node")


# Events.


@pytest_twisted.ensureDeferred
async def test_a_live_event_reaches_every_node_that_listens(make_node: MakeNode) -> None:
    one, two, three = [await make_node(name) for name in ("one", "two", "three")]
    for node in (one, two):
        await node.listen("topic")
    await three.bus.publish(live("topic"))
    await eventually(lambda: one.heard and two.heard)
    await three.listen("topic")
    await three.bus.publish(live("topic", b"2"))
    await eventually(lambda: three.heard)
    assert [event.body for event in three.heard] == [b"2"]


@pytest_twisted.ensureDeferred
async def test_an_append_is_announced_by_the_store(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await two.listen("topic")
    given = Event("topic", "kind", b"1", "me", 1.5, origin="session", dialect="native", original=b"frame")
    stored = await one.store.append(LOG_PREFIX + "topic", given)
    await eventually(lambda: two.heard)
    (found,) = two.heard
    assert (found.id, found.epoch, found.body, found.time) == (1, one.store.epoch, b"1", 1.5)
    assert (found.origin, found.dialect, found.original) == (stored.origin, stored.dialect, stored.original)


@pytest_twisted.ensureDeferred
async def test_appends_to_other_logs_are_not_announced(make_node: MakeNode) -> None:
    node = await make_node()
    await node.listen(">")
    await node.store.append("mail/queue", Event("queue", "mail", b"1"))
    await node.append("topic")
    await eventually(lambda: node.heard)
    assert [event.topic for event in node.heard] == ["topic"]


@pytest_twisted.ensureDeferred
async def test_what_was_appended_before_is_not_heard(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await one.append("topic")
    await two.listen("topic", "top*", ">")
    await one.append("topic")
    await eventually(lambda: two.heard)
    assert two.ids == [2]


@pytest_twisted.ensureDeferred
async def test_an_append_after_listen_is_heard_however_soon(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    for number in range(30):
        topic = f"topic.{number}"
        two.bus.listen(topic)
        # As a poll does: what is appended after this look must be announced.
        looked = two.store.read(LOG_PREFIX + topic, 0, 1)
        appended = one.append(topic)
        await looked
        await appended
    await eventually(lambda: len(two.heard) == 30)


@pytest_twisted.ensureDeferred
async def test_a_topic_is_forgotten_a_while_after_its_last_listener(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.buses.redis_subscriber.UNSUBSCRIBE_DELAY", 0.1)
    node = await make_node()
    await node.listen("topic", "pattern.*", "stays")
    await node.append("topic")
    node.bus.forget("topic")
    node.bus.forget("pattern.*")
    await eventually(lambda: len(node.bus._subscriber) == 1)
    assert "topic" not in node.bus._subscriber._recovery._seen
    heard = len(node.heard)
    for topic in ("topic", "pattern.a", "stays"):
        await node.bus.publish(live(topic))
    await eventually(lambda: len(node.heard) > heard)
    assert [event.topic for event in node.heard[heard:]] == ["stays"]


@pytest_twisted.ensureDeferred
async def test_a_cut_of_the_subscriptions_loses_no_stored_event(
    make_frail_node: MakeNode, redis_server: RedisServer
) -> None:
    one, two = [await make_frail_node(name) for name in ("one", "two")]
    await two.listen("topic", "pattern.*")
    for number in range(1000):
        if number in (200, 500, 800):
            await two.store._batcher.connection.protocol.execute_command(b"CLIENT", b"KILL", b"TYPE", b"pubsub")
        await one.append("topic" if number % 2 else f"pattern.{number % 10}", b"%d" % number)
    await eventually(lambda: len(two.heard) >= 1000)
    numbers = [int(event.body or b"-1") for event in two.heard]
    assert sorted(numbers) == list(range(1000))
    for topic in {event.topic for event in two.heard}:
        ids = [event.id for event in two.heard if event.topic == topic]
        assert ids == list(range(1, len(ids) + 1))


@pytest_twisted.ensureDeferred
async def test_a_hole_is_filled_from_the_store(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await two.listen("topic")
    await one.append("topic")
    await eventually(lambda: two.ids == [1])
    silent = open_store(one.url, clock=reactor, prefix=one.prefix)
    silent.startService()
    for _ in range(3):
        await silent.append(LOG_PREFIX + "topic", Event("topic", "kind", b"silent"))
    await maybeDeferred(silent.stopService)
    await one.append("topic")
    await eventually(lambda: len(two.heard) == 5)
    assert two.ids == [1, 2, 3, 4, 5]


@pytest_twisted.ensureDeferred
async def test_late_and_double_announcements_are_dropped(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await two.listen("topic")
    stored = [await one.store.append(LOG_PREFIX + "topic", Event("topic", "kind", b"1")) for _ in range(3)]
    await eventually(lambda: two.ids == [1, 2, 3])
    for event in (stored[2], stored[0]):
        await one.bus.publish(event)
    await one.append("topic")
    await eventually(lambda: len(two.heard) >= 4)
    assert two.ids == [1, 2, 3, 4]


@pytest_twisted.ensureDeferred
async def test_a_wiped_redis_begins_anew(make_frail_node: MakeNode, redis_server: RedisServer) -> None:
    one, two = [await make_frail_node(name) for name in ("one", "two")]
    await two.listen("topic")
    for _ in range(3):
        await one.append("topic")
    await eventually(lambda: two.ids == [1, 2, 3])
    before = one.store.epoch
    await one.store._batcher.connection.protocol.execute_command(b"FLUSHALL")
    assert [await one.append("topic") for _ in range(3)] == [1, 2, 3]
    await eventually(lambda: len(two.heard) == 6)
    assert two.ids == [1, 2, 3, 1, 2, 3]
    assert one.store.epoch == two.store.epoch != before
    assert {event.epoch for event in two.heard[3:]} == {one.store.epoch}


# Names.


@pytest_twisted.ensureDeferred
async def test_a_name_is_one_node_s_alone(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await one.bus.claim("name")
    with pytest.raises(Taken):
        await two.bus.claim("name")
    with pytest.raises(Taken):
        await two.bus.claim("name", shared=True)
    assert await two.bus.holders(["other", "name"]) == ("name", [one.bus.address])
    one.bus.release("name")
    assert await one.bus.holders(["name"]) == ("", [])
    await two.bus.claim("name")
    assert await one.bus.holders(["name"]) == ("name", [two.bus.address])


@pytest_twisted.ensureDeferred
async def test_a_shared_name_is_held_by_several(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    for node in (one, two):
        await node.bus.claim("name", shared=True)
    assert await one.bus.holders(["name"]) == ("name", [one.bus.address, two.bus.address])
    one.bus.release("name")
    assert await one.bus.holders(["name"]) == ("name", [two.bus.address])
    two.bus.release("name")
    assert await two.bus.holders(["name"]) == ("", [])


@pytest_twisted.ensureDeferred
async def test_what_is_published_too_fast_keeps_no_name_message_or_mark_waiting_in_vain(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await make_node("one"), await make_node("two")
    await eventually(lambda: one.bus.lives(two.bus.address) and two.bus.lives(one.bus.address))
    monkeypatch.setattr("broker.redis.batcher.MAX_PENDING", 5)
    published = [one.bus.publish(Event("t", "n", b"")) for _ in range(20)]
    appended = [one.store.append("event/t", Event("t", "n", b"")) for _ in range(20)]
    claimed, sent = one.bus.claim("name"), one.bus.send(two.bus.address, b"hello")
    marks = [one.store.mark(), one.store.since("event/t", 0), one.store.changes(0)]
    outcomes = await DeferredList([*published, *appended], consumeErrors=True)
    assert 0 < sum(done for done, _ in outcomes) < 40
    await claimed
    assert await sent is True
    await gatherResults(marks)


@pytest_twisted.ensureDeferred
async def test_messages_go_to_one_node(make_node: MakeNode) -> None:
    one, two, three = [await make_node(name) for name in ("one", "two", "three")]
    await eventually(lambda: one.bus.lives(two.bus.address))
    assert await one.bus.send(two.bus.address, b"\x00\xff hello")
    await eventually(lambda: two.messages)
    assert two.messages == [(one.bus.address, b"\x00\xff hello")]
    assert three.messages == []
    assert not await one.bus.send("nobody", b"hello")


@pytest_twisted.ensureDeferred
async def test_the_names_of_a_node_that_has_gone_are_free(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await one.bus.claim("name")
    await eventually(lambda: two.bus.lives(one.bus.address))
    await one.stop()
    await eventually(lambda: two.departed == [one.bus.address])
    await two.bus.claim("name")


@pytest_twisted.ensureDeferred
async def test_the_names_of_a_silent_node_are_free_after_the_lease(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await one.bus.claim("name")
    await one.bus.claim("shared", shared=True)
    await eventually(lambda: two.bus.lives(one.bus.address))
    one.bus._heartbeats.stop()
    with pytest.raises(Taken):
        await two.bus.claim("name")
    # The time that all nodes are given after the first start is over, and the lease short.
    await one.store._batcher.connection.protocol.execute_command(b"SET", one.prefix + "grace", 0)
    one.bus._lease.seconds = 2.5 * BEAT
    one.bus._renew()
    await eventually(lambda: two.departed == [one.bus.address])
    one.bus._lease.end()
    await two.bus.claim("name")
    assert await two.bus.holders(["shared"]) == ("", [])
    one.bus._lease.seconds = LEASE
    one.beat()
    await eventually(lambda: one.bus.lease)
    assert await one.bus.claim_all({"name": False, "shared": True}) == {"name": two.bus.address}
    await eventually(lambda: two.bus.lives(one.bus.address))
    assert await two.bus.holders(["shared"]) == ("shared", [one.bus.address])


@pytest_twisted.ensureDeferred
async def test_names_of_a_node_that_has_gone_are_forgotten_though_who_was_told_so_first_does_not(
    make_node: MakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two, three = [await make_node(name) for name in ("one", "two", "three")]
    await one.bus.claim("name")
    await eventually(lambda: two.bus.lives(one.bus.address) and three.bus.lives(one.bus.address))
    one.bus._heartbeats.stop()
    told: list[bytes] = []

    async def lose(number: bytes) -> None:
        told.append(number)

    for node in (two, three):
        monkeypatch.setattr(node.bus, "_tidy", lose)
    execute = two.store._batcher.connection.protocol.execute_command
    await execute(b"SET", two.prefix + "grace", 0)
    await execute(b"ZADD", two.prefix + "nodes", 0, one.bus.address)
    await eventually(lambda: all(one.bus.address in node.departed for node in (two, three)))
    assert told == [b"1"]
    monkeypatch.undo()
    assert await execute(b"PEXPIRE", two.prefix + "tidying", 1)
    while await execute(b"EXISTS", two.prefix + "untidy"):
        pass
    assert await execute(b"HLEN", two.prefix + "names") == 0
    assert not await execute(b"EXISTS", two.prefix + "tidying")


async def let_the_clock_have_been_ahead(node: Node, millis: int = 3_600_000) -> None:
    """Leave in Redis what it would have if its clock had been so far ahead until now; by default it was set back."""
    execute = node.store._batcher.connection.protocol.execute_command
    for address in await execute(b"ZRANGE", node.prefix + "nodes", 0, -1):
        await execute(b"ZINCRBY", node.prefix + "nodes", millis, address)
    for key in ("renewed", "grace", "settling"):
        await execute(b"INCRBY", node.prefix + key, millis)


@pytest_twisted.ensureDeferred
async def test_leases_end_in_time_when_the_clock_of_redis_was_set_back(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await one.bus.claim("name")
    one.bus._heartbeats.stop()
    two.bus._heartbeats.stop()
    for node in (one, two):
        node.bus._lease.seconds = 2.5 * BEAT
        node.bus._renew()
    await eventually(lambda: not (one.bus._renewing or two.bus._renewing))
    # The time that all nodes are given after the first start is over.
    await two.store._batcher.connection.protocol.execute_command(b"SET", two.prefix + "grace", 0)
    await let_the_clock_have_been_ahead(two)
    two.bus._lease.seconds = LEASE
    two.beat()
    await eventually(lambda: two.departed == [one.bus.address])
    await two.bus.claim("name")


@pytest_twisted.ensureDeferred
async def test_leases_do_not_end_when_the_clock_of_redis_was_set_forward(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await one.bus.claim("name")
    numbers = [one.bus.lease, two.bus.lease]
    for node in (one, two):
        node.bus._heartbeats.stop()
    await eventually(lambda: not (one.bus._renewing or two.bus._renewing))
    await let_the_clock_have_been_ahead(two, -3_600_000)
    two.beat()
    one.beat()
    await eventually(lambda: not (one.bus._renewing or two.bus._renewing))
    assert [one.bus.lease, two.bus.lease] == numbers
    assert two.departed == one.departed == []
    with pytest.raises(Taken):
        await two.bus.claim("name")


@pytest_twisted.ensureDeferred
async def test_a_claim_that_waited_in_a_server_that_hung_takes_no_name_from_a_node_that_could_not_renew_its_lease(
    make_node: MakeNode,
) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await one.bus.claim("name")
    for node in (one, two):
        node.bus._heartbeats.stop()
    await eventually(lambda: not (one.bus._renewing or two.bus._renewing))
    execute = two.store._batcher.connection.protocol.execute_command
    seconds, _ = await execute(b"TIME")
    now = int(seconds) * 1000
    await execute(b"SET", two.prefix + "grace", 0)  # the time that nodes are given after the first start
    await execute(b"SET", two.prefix + "renewed", now - int(LEASE * 1000))
    await execute(b"ZADD", two.prefix + "nodes", now, one.bus.address, now + 30_000, two.bus.address)
    with pytest.raises(Taken):
        await two.bus.claim("name")
    for node in (two, one):
        node.beat()
        await eventually(lambda: not (one.bus._renewing or two.bus._renewing))
    with pytest.raises(Taken):
        await two.bus.claim("name")
    await one.bus.claim_all({"name": False})
    assert await two.bus.holders(["name"]) == ("name", [one.bus.address])


@pytest_twisted.ensureDeferred
async def test_what_is_claimed_before_the_first_lease_waits_for_it(make_node: MakeNode) -> None:
    one = await make_node("one")
    early = Node(one.url, one.prefix, "early")
    early.store.startService()
    early.bus.startService()
    assert not early.bus.lease
    claimed = early.bus.claim("name")
    await claimed
    assert await one.bus.holders(["name"]) == ("name", [early.bus.address])
    await early.stop()


@pytest_twisted.ensureDeferred
async def test_names_are_claimed_again_when_the_data_of_the_same_server_went_back(make_node: MakeNode) -> None:
    one, two = [await make_node(name) for name in ("one", "two")]
    await one.bus.claim("name")
    leased: list[int] = []
    found: list[str] = []
    one.bus.leased, one.bus.found = lambda: leased.append(one.bus.lease), found.append
    one.store.wiped()
    await eventually(lambda: found)
    assert (leased, found) == ([one.bus.lease], ["name"])
    with pytest.raises(NotDone):  # another node may hold it, and say so soon
        await two.bus.claim("other")


async def comes_back(asked: Node, name: str, holder: Node) -> None:
    end = reactor.seconds() + TIMEOUT
    found: object = ()
    while found != (name, [holder.bus.address]):
        assert reactor.seconds() < end, f"{name} did not come back"
        try:
            found = await asked.bus.holders([name])
        except Unavailable:  # its lease was lost, too
            await eventually(lambda: asked.bus.lease)


@pytest_twisted.ensureDeferred
async def test_names_come_back_after_redis_was_wiped(make_frail_node: MakeNode) -> None:
    one, two = [await make_frail_node(name) for name in ("one", "two")]
    await one.bus.claim("name")
    await two.bus.claim("shared", shared=True)
    one.bus.leased = lambda: one.bus.claim_all({"name": False})
    two.bus.leased = lambda: two.bus.claim_all({"shared": True})
    await one.store._batcher.connection.protocol.execute_command(b"FLUSHALL")
    await comes_back(two, "name", one)
    await comes_back(one, "shared", two)
