"""Nodes find out that a Redis lacks what they have seen of it, and agree on what follows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import attrs
import pytest
import pytest_twisted
import txredisapi
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import LogEvent

from broker.stores import redis_timeline
from broker.stores.redis_timeline import Timeline
from tests.support.eventually import TIMEOUT, pause
from tests.support.redis_server import RedisServer

PREFIX = "t:"


@attrs.define
class Data:
    """What a Redis holds of the history of its data, and which server that is."""

    protocol: Any
    run: bytes = b"run1"

    async def compare(self, node: Timeline, seen: int = 0) -> str:
        """Return the epoch of *node* after it has compared."""
        await node.compare(self.protocol, self.run, seen)
        return node.epoch

    async def write(self, mark: int) -> None:
        await self.protocol.execute_command("SET", PREFIX + "mark", mark)

    async def dump(self) -> dict[bytes, Any]:
        keys = await self.protocol.execute_command("KEYS", PREFIX + "*")
        return {key: await self.protocol.execute_command("DUMP", key) for key in keys}

    async def restore(self, dump: dict[bytes, Any], run: bytes) -> None:
        """Be another server, *run*, which has what *dump* says."""
        self.run = run
        await self.protocol.execute_command("FLUSHALL")
        for key, value in dump.items():
            await self.protocol.execute_command("RESTORE", key, 0, value)


@pytest_twisted.async_yield_fixture
async def data(shared_redis_server: RedisServer) -> AsyncIterator[Data]:
    client = await txredisapi.UnixConnection(
        str(shared_redis_server.socket), reconnect=False, charset=None, convertNumbers=False
    )
    await client.execute_command("FLUSHALL")
    yield Data(client)
    await client.disconnect()


def node(witnessed: int = 0) -> Timeline:
    return Timeline(PREFIX.encode(), reactor, lambda epoch, server: witnessed)


@pytest.fixture(autouse=True)
def _no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for nodes that a test does not let come."""
    monkeypatch.setattr(redis_timeline, "SETTLE_TIMEOUT", 0.0)


def errors(logged: list[LogEvent]) -> list[str]:
    return [str(event["log_format"]).format(**event) for event in logged if event["log_level"].name == "error"]


# Nothing is lost.


@pytest_twisted.ensureDeferred
async def test_all_nodes_have_the_epoch_of_the_first(data: Data) -> None:
    one, two = node(), node()
    assert await data.compare(one) == await data.compare(two) != ""
    assert one.told


@pytest_twisted.ensureDeferred
async def test_the_epoch_of_an_earlier_version_stays(data: Data) -> None:
    await data.protocol.execute_command("SET", PREFIX + "epoch", "0123456789abcdef")
    assert await data.compare(node()) == "0123456789abcdef"


@pytest_twisted.ensureDeferred
async def test_a_new_connection_to_the_same_server_changes_nothing(data: Data) -> None:
    one = node()
    before = await data.compare(one)
    await data.write(7)
    assert await data.compare(one, 5) == before  # others have written, too
    assert await data.compare(one, 7) == before


@pytest_twisted.ensureDeferred
async def test_a_server_that_has_everything_may_take_over(data: Data, logged: list[LogEvent]) -> None:
    one = node()
    before = await data.compare(one)
    await data.write(7)
    for run in (b"run2", b"run3", b"run1"):
        data.run = run
        assert await data.compare(one, 7) == before
    assert errors(logged) == []


@pytest_twisted.ensureDeferred
async def test_a_node_that_was_away_while_servers_took_over_that_had_everything_keeps_its_epoch(data: Data) -> None:
    away, busy = node(), node()
    before = await data.compare(away)
    await data.compare(busy)
    for mark, run in ((10, b"run2"), (20, b"run3")):
        await data.write(mark)
        data.run = run
        await data.compare(busy, mark)
    await data.write(30)
    assert await data.compare(away, 10) == before


# Something is lost.


@pytest_twisted.ensureDeferred
async def test_a_server_that_lacks_what_was_seen_begins_an_epoch(data: Data, logged: list[LogEvent]) -> None:
    one = node()
    before = await data.compare(one)
    await data.write(95)
    data.run = b"run2"
    after = await data.compare(one, 100)
    assert after != before
    assert (one.kept, one.told) == (95, False)
    (line,) = errors(logged)
    assert "up to mark 100" in line
    assert "after mark 95" in line
    assert f"epoch {before} is now {after}, which this node has begun" in line


@pytest_twisted.ensureDeferred
async def test_a_mark_that_falls_on_the_same_server_begins_one(data: Data) -> None:
    one = node()
    before = await data.compare(one)
    await data.write(95)
    assert await data.compare(one, 100) != before


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_the_node_that_has_seen_the_most_decides_for_all(
    data: Data, order: tuple[int, int], logged: list[LogEvent]
) -> None:
    nodes, seen = (node(), node()), (100, 90)
    for each in nodes:
        await data.compare(each)
    await data.write(95)
    data.run = b"run2"
    for number in order:
        await data.compare(nodes[number], seen[number])
    await data.compare(nodes[1], 95)
    assert nodes[0].epoch == nodes[1].epoch
    assert [each.kept for each in nodes] == [95, 95]
    assert "which another node has begun" in errors(logged)[-1]


@pytest_twisted.ensureDeferred
async def test_of_two_that_notice_at_once_one_begins_the_epoch(data: Data) -> None:
    nodes = [node() for _ in range(5)]
    for each in nodes:
        await data.compare(each)
    await data.write(95)
    data.run = b"run2"
    await gatherResults([Deferred.fromCoroutine(data.compare(each, 100 + number)) for number, each in enumerate(nodes)])
    assert len({each.epoch for each in nodes}) == 1
    assert {each.kept for each in nodes} == {95}


@pytest_twisted.ensureDeferred
async def test_it_is_noticed_although_others_have_written_more_since(data: Data) -> None:
    away, busy = node(), node()
    before = await data.compare(away)
    await data.compare(busy)
    await data.write(95)
    data.run = b"run2"
    await data.compare(busy, 90)
    await data.write(2000)
    assert await data.compare(away, 100) != before
    assert away.kept == 95
    await data.compare(busy, 2000)
    assert (busy.epoch, busy.kept) == (away.epoch, 95)


@pytest_twisted.ensureDeferred
async def test_it_is_noticed_after_several_servers_of_which_the_first_lacked_something(data: Data) -> None:
    away, busy = node(), node()
    before = await data.compare(away)
    await data.compare(busy)
    for mark, run in ((95, b"run2"), (200, b"run3"), (300, b"run1")):
        await data.write(mark)
        data.run = run
        await data.compare(busy, mark)
    assert await data.compare(away, 100) != before
    assert away.kept == 95


@pytest_twisted.ensureDeferred
async def test_what_the_bus_has_brought_was_seen_too(data: Data) -> None:
    one = node(witnessed=100)
    before = await data.compare(one)
    await data.write(100)
    await data.compare(one, 90)
    await data.write(95)
    data.run = b"run2"
    assert await data.compare(one, 90) != before


@pytest_twisted.ensureDeferred
async def test_a_server_that_lost_everything_begins_one_epoch_for_all(data: Data) -> None:
    nodes = [node() for _ in range(3)]
    for each in nodes:
        before = await data.compare(each, 0)
    await data.write(10)
    await data.restore({}, b"run2")
    epochs = [await data.compare(each, 10) for each in nodes] + [await data.compare(each) for each in nodes]
    assert len(set(epochs)) == 1
    assert before not in epochs
    assert {each.kept for each in nodes} == {0}


@pytest_twisted.ensureDeferred
async def test_an_epoch_that_has_ended_never_comes_back(data: Data) -> None:
    one, two = node(), node()
    first = await data.compare(one)
    await data.write(50)
    snapshot = await data.dump()
    await data.restore({}, b"run2")
    second = await data.compare(one, 50)
    await data.compare(two)
    await data.restore(snapshot, b"run3")
    third = await data.compare(one, 3)
    assert third not in (first, second)
    assert one.kept <= 50
    assert await data.compare(two, 3) == third
    assert await data.compare(one, 50) == third


@pytest_twisted.ensureDeferred
async def test_a_snapshot_of_before_another_server_took_over_is_noticed_however_far_it_goes(data: Data) -> None:
    one = node()
    await data.compare(one)
    await data.write(50)
    snapshot = await data.dump()
    data.run = b"run2"
    before = await data.compare(one, 50)
    await data.restore(snapshot, b"run3")
    # What it has seen is there, but not that run2 has taken over: what came then is another history.
    assert await data.compare(one, 50) != before


@pytest_twisted.ensureDeferred
async def test_what_is_left_after_several_losses_is_what_all_have_left(data: Data) -> None:
    one = node()
    await data.compare(one)
    for mark, run in ((40, b"run2"), (45, b"run3")):
        await data.write(mark)
        data.run = run
        await data.compare(one, 50)
    assert one.kept == 40  # nobody was told of the first one in between
    one.told = True
    await data.write(44)
    data.run = b"run4"
    await data.compare(one, 50)
    assert one.kept == 44


@pytest_twisted.ensureDeferred
async def test_only_the_latest_history_is_kept(data: Data) -> None:
    one = node()
    before = await data.compare(one)
    for number in range(50):
        data.run = b"run%d" % number
        assert await data.compare(one) == before
    kept = await data.protocol.execute_command("GET", PREFIX + "timelines")
    assert len(kept.split(b"\n")) == 30


# Nothing is written before all have looked.


@pytest_twisted.ensureDeferred
async def test_when_a_server_takes_over_nodes_wait_for_each_other(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = node(), node()
    await data.compare(one)
    await data.compare(two)
    monkeypatch.setattr(redis_timeline, "SETTLE_TIMEOUT", 1000.0)
    data.run = b"run2"
    first = Deferred.fromCoroutine(data.compare(one, 0))
    while not await data.protocol.execute_command("SCARD", PREFIX + "arrived"):
        await pause(0.01)
    assert not first.called
    await data.write(5)
    second = await data.compare(two, 9)
    assert await first == second


@pytest_twisted.ensureDeferred
async def test_a_node_that_does_not_come_is_not_waited_for_long(data: Data) -> None:
    one, two = node(), node()
    before = await data.compare(one)
    await data.compare(two)
    data.run = b"run2"
    assert await data.compare(one) == before


@pytest_twisted.ensureDeferred
async def test_a_node_that_was_silent_before_is_not_waited_for(data: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = node(), node()
    await data.compare(one)
    await data.compare(two)
    await data.protocol.execute_command("ZINCRBY", PREFIX + "members", 60_000, one.member)
    monkeypatch.setattr(redis_timeline, "SETTLE_TIMEOUT", 1000.0)
    data.run = b"run2"
    await Deferred.fromCoroutine(data.compare(one)).addTimeout(TIMEOUT, reactor)
