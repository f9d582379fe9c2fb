"""A store on Redis that fails over, or is started from an old snapshot: nothing acknowledged is lost in silence."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import gatherResults, maybeDeferred
from twisted.logger import LogEvent

from broker.errors import Unavailable
from broker.messages import Event
from broker.redis import batcher, replicas
from broker.stores import open_store
from tests.support.eventually import eventually, pause
from tests.support.redis_server import DENIED, RedisServer
from tests.support.sentinel import SentinelSetup, info_of

pytestmark = [pytest.mark.processes, pytest.mark.timeout(120)]

MakeStore = Callable[..., Any]


@pytest_twisted.async_yield_fixture
async def make_store() -> AsyncIterator[MakeStore]:
    """Makes started stores on a Redis; ``store.told`` has the epoch and what was kept, each time they were wiped."""
    made: list[Any] = []

    def make(url: str, **options: Any) -> Any:
        store: Any = open_store(url, clock=cast(Any, reactor), prefix="own:", **options)
        store.told = []
        store.wiped = lambda: store.told.append((store.epoch, store.kept))
        made.append(store)
        store.startService()
        return store

    yield make
    for store in made:
        await maybeDeferred(store.stopService)


@pytest_twisted.async_yield_fixture
async def server(short_path: Path) -> AsyncIterator[RedisServer]:
    """A redis-server that keeps what it was told to save, and no more."""
    server = RedisServer(short_path, "--appendonly", "no")
    yield await server.start()
    await server.kill()


def event(body: str = "1") -> Event:
    return Event("topic", "kind", body.encode())


async def snapshot(server: RedisServer) -> Path:
    """Return a file with what *server* holds now."""
    await server.command("SAVE")
    return Path(shutil.copy(server.directory / "dump.rdb", server.directory / "kept.rdb"))


async def restart_from(server: RedisServer, file: Path) -> None:
    """Let *server* go down, and come back with what is in *file*."""
    await server.kill()
    shutil.copy(file, server.directory / "dump.rdb")
    await server.start()


async def bodies(store: Any) -> list[bytes]:
    return [each.body for each in await store.read("event/topic", 0, 1000)]


# A snapshot.


@pytest_twisted.ensureDeferred
async def test_a_redis_that_was_started_from_a_snapshot_begins_a_new_epoch(
    make_store: MakeStore, server: RedisServer, logged: list[LogEvent]
) -> None:
    one, two = make_store(server.url), make_store(server.url)
    await one.append("event/topic", event("kept"))
    mark = await two.mark()
    file = await snapshot(server)
    lost = await one.append("event/topic", event("lost"))
    await restart_from(server, file)
    again = [await store.append("event/topic", event("new")) for store in (two, one)]
    assert [each.id for each in again] == [2, 3]
    assert again[0].epoch == again[1].epoch != lost.epoch
    assert one.told == two.told == [(again[0].epoch, mark)]
    assert await bodies(two) == [b"kept", b"new", b"new"]
    lines = [each for each in logged if "was lost" in str(each["log_format"])]
    assert [line["kept"] for line in lines] == [mark, mark]
    assert max(line["seen"] for line in lines) > mark


@pytest_twisted.ensureDeferred
async def test_keys_that_went_back_do_so_too(make_store: MakeStore, server: RedisServer) -> None:
    store = make_store(server.url)
    await store.set("s", "key", b"old")
    file = await snapshot(server)
    before = store.epoch
    assert (await store.set("s", "key", b"lost")).revision == 2
    await restart_from(server, file)
    assert (await store.get("s", "key")).value == b"old"
    assert store.epoch != before
    assert len(store.told) == 1


@pytest_twisted.ensureDeferred
async def test_a_snapshot_with_everything_changes_nothing(make_store: MakeStore, server: RedisServer) -> None:
    store = make_store(server.url)
    before = (await store.append("event/topic", event())).epoch
    await restart_from(server, await snapshot(server))
    assert (await store.append("event/topic", event())).id == 2
    assert (store.epoch, store.told) == (before, [])


@pytest_twisted.ensureDeferred
async def test_a_store_that_goes_back_under_a_connection_is_noticed_before_it_is_changed(
    make_store: MakeStore, server: RedisServer
) -> None:
    store = make_store(server.url)
    lost = [await store.append("event/topic", event(str(number))) for number in range(5)][-1]
    # As if its data had been replaced.
    await server.command("DEL", "own:log:event/topic")
    await server.command("HSET", "own:heads", "event/topic", "2")
    await server.command("DECRBY", "own:mark", "3")
    answers = await gatherResults([store.append("event/topic", event()) for _ in range(3)])
    assert [each.id for each in answers] == [3, 4, 5]
    assert {each.epoch for each in answers} == {store.epoch} != {lost.epoch}


@pytest_twisted.ensureDeferred
async def test_what_is_stored_again_when_it_went_back_is_stored(make_store: MakeStore, server: RedisServer) -> None:
    store = make_store(server.url)
    await store.append("event/topic", event())
    stored: list[Any] = []
    store.wiped = lambda: stored.append(store.set("s", "restored", b"1"))
    await server.kill()
    await eventually(lambda: store._batcher._timeout is None and not store._batcher._usable)  # it has waited in vain
    await server.start()
    await eventually(lambda: stored)
    await stored[0]
    assert (await store.get("s", "restored")).value == b"1"


# A failover.


@pytest_twisted.async_yield_fixture
async def setup() -> AsyncIterator[SentinelSetup]:
    """A master with two replicas and three Sentinels."""
    setup = SentinelSetup.new()
    yield await setup.start()
    await setup.end()


@pytest_twisted.ensureDeferred
async def test_a_failover_loses_nothing_or_what_it_loses_is_told(
    setup: SentinelSetup, make_store: MakeStore, soak: bool
) -> None:
    one, two = stores = make_store(setup.url), make_store(setup.url)
    before = (await one.append("event/topic", event("kept"))).epoch
    await two.head("event/topic")
    await setup.until_replicas(2)
    if soak:
        await setup.failover()
        await eventually(lambda: one.ready == two.ready == "")
    assert (await two.append("event/topic", event("kept"))).id == 2
    assert [(store.epoch, store.told) for store in stores] == [(before, []), (before, [])]
    await setup.until_replicas(1)

    async def lose() -> None:
        await gatherResults([one.append("event/topic", event("lost")) for _ in range(20)])
        await one.append("event/topic", event("lost"))

    await setup.lagging_failover(lose)
    await eventually(lambda: one.ready == two.ready == "")
    # That which has seen less writes first.
    again = [await store.append("event/topic", event("new")) for store in (two, one)]
    assert [each.id for each in again] == [3, 4]
    assert again[0].epoch == again[1].epoch != before
    assert len(one.told) == len(two.told) == 1
    assert await bodies(one) == [b"kept", b"kept", b"new", b"new"]


# Replicas.


@asynccontextmanager
async def replica_of(server: RedisServer) -> AsyncIterator[RedisServer]:
    """A replica of *server*."""
    directory = server.directory / "replica"
    directory.mkdir()
    replica = RedisServer(directory, "--replicaof", "127.0.0.1", str(server.port), "--repl-diskless-sync-delay", "0")
    await replica.start()
    while "state=online" not in (await info_of(server, "replication")).get("slave0", ""):
        await pause(0.01)
    yield replica
    await replica.kill()


@pytest_twisted.async_yield_fixture
async def replica(server: RedisServer) -> AsyncIterator[RedisServer]:
    """A replica of the server."""
    async with replica_of(server) as replica:
        yield replica


@pytest_twisted.ensureDeferred
async def test_a_write_is_acknowledged_when_the_replicas_have_it(
    make_store: MakeStore, server: RedisServer, replica: RedisServer
) -> None:
    store = make_store(server.url, wait=(1, 4000))
    assert (await store.append("event/topic", event())).id == 1
    assert await replica.command("HGET", "own:heads", "event/topic") == 1


@pytest_twisted.ensureDeferred
async def test_a_write_that_too_few_replicas_have_is_refused_and_a_read_is_not(
    make_store: MakeStore, server: RedisServer
) -> None:
    failed: list[int] = []
    store = make_store(server.url, wait=(2, 10), failed=failed.append)
    writes = [store.append("event/topic", event()), store.set("s", "key", b"1"), store.increment("s", "n", b"1")]
    head = store.head("event/topic")
    for write in writes:
        with pytest.raises(Unavailable, match="only 0 of 2 replicas"):
            await write
    assert await head == 1  # it may have been done, and was
    assert sum(failed) == 3


@pytest_twisted.ensureDeferred
async def test_a_store_is_not_ready_while_too_few_replicas_confirm_writes(
    make_store: MakeStore, server: RedisServer, short_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "INTERVAL", 0.05)  # seconds
    store = make_store(server.url, wait=(1, 4000))
    await store.head("")
    reason = "TXBROKER_REDIS_WAIT_REPLICAS is 1 and 0 replicas"
    assert reason in store.ready  # although nothing was written
    async with replica_of(server):
        await eventually(lambda: store.ready == "")
        assert (await store.append("event/topic", event())).id == 1
    store._batcher._replicas._timeout = 10  # milliseconds
    with pytest.raises(Unavailable):
        await store.append("event/topic", event())
    assert reason in store.ready


@pytest_twisted.ensureDeferred
async def test_a_redis_that_permits_no_wait_is_not_ready_where_replicas_are_waited_for(
    make_store: MakeStore, server: RedisServer
) -> None:
    await server.command("ACL", "SETUSER", "default", "-wait")
    store = make_store(server.url, wait=(1, 4000))
    await store.head("")
    assert "WAIT is not possible: NOPERM" in store.ready


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("command", ["publish", "xadd", "hset", "hincrby", "zadd", "sadd", "set"])
async def test_a_redis_that_does_not_permit_a_write_is_not_ready_though_nothing_was_written_yet(
    make_store: MakeStore, server: RedisServer, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(batcher, "PROBE_INTERVAL", 0.05)  # seconds
    await server.command("ACL", "SETUSER", "default", f"-{command}")
    store = make_store(server.url, announce=True)
    await eventually(lambda: DENIED.search(store.ready))
    await server.command("ACL", "SETUSER", "default", f"+{command}")
    await eventually(lambda: store.ready == "")


@pytest_twisted.ensureDeferred
async def test_a_connection_that_is_lost_while_replicas_are_waited_for_fails_the_write(
    make_store: MakeStore, server: RedisServer
) -> None:
    store = make_store(server.url, wait=(1, 4000))
    await store.head("event/topic")
    write = store.append("event/topic", event())
    await eventually(lambda: store._batcher.mark)
    store._batcher.connection.drop("cut by the test")
    with pytest.raises(Unavailable, match="has not answered"):
        await write


@pytest_twisted.ensureDeferred
async def test_replication_without_a_minimum_of_replicas_is_warned_of(
    make_store: MakeStore, server: RedisServer, replica: RedisServer, logged: list[LogEvent]
) -> None:
    store = make_store(server.url)
    await store.head("")
    (warning,) = store.warnings
    assert "min-replicas-to-write" in warning
    assert warning in [event.get("warning") for event in logged]
    await server.command("CONFIG", "SET", "min-replicas-to-write", "1")
    safe = make_store(server.url)
    await safe.head("")
    assert safe.warnings == []


@pytest_twisted.ensureDeferred
async def test_a_server_that_was_made_a_replica_is_left_at_the_next_write(
    make_store: MakeStore, server: RedisServer
) -> None:
    store = make_store(server.url)
    await store.append("event/topic", event())
    await server.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(Unavailable, match="READONLY"):
        await store.expired("s", 1)  # which writes nothing
    await eventually(lambda: "replica" in store.ready)
