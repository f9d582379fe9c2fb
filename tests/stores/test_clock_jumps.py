"""Stores whose clock jumps: dates never go back within a log, and nothing is lost by a jump."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.task import Clock

from broker.core.clocks import WallClock
from broker.messages import Event
from broker.stores import open_store
from broker.stores.expiry import SKIPPED_FOR
from tests.support.redis_server import RedisServer

NOW = 1_700_000_000.0
DAY, WEEK = 86400.0, 7 * 86400.0


@attrs.define
class Place:
    """A store on two clocks of which one can be set."""

    url: str
    directory: Path
    clock: Clock = attrs.field(factory=Clock)
    ahead: float = NOW
    store: Any = None

    def open(self) -> Any:
        wall = WallClock(lambda: self.clock.seconds() + self.ahead)
        self.store = open_store(
            self.url, clock=self.clock, reactor=cast(Any, reactor), directory=str(self.directory), wall=wall
        )
        self.store.startService()
        return self.store

    async def restart(self) -> Any:
        await maybeDeferred(self.store.stopService)
        return self.open()

    def hour_passes(self) -> None:
        """Let an hour pass in which the store is asked for what has expired, as the daemon does."""
        for _ in range(60):
            self.clock.advance(SKIPPED_FOR / 60)
            self.store.oldest(0.0)


@pytest_twisted.async_yield_fixture(params=["memory:", "sqlite:"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(request.param, tmp_path)
    place.open()
    yield place
    await maybeDeferred(place.store.stopService)


def event(date: float = 0.0) -> Event:
    return Event("topic", "kind", b"1", time=date)


async def times(store: Any) -> list[float]:
    return [each.time for each in await store.read("log", 0, 99)]


@pytest_twisted.ensureDeferred
async def test_dates_do_not_go_back_within_a_log(place: Place) -> None:
    told = [(await place.store.append("log", event())).time]
    place.ahead -= 3600
    told.append((await place.store.append("log", event())).time)
    other = await place.store.append("other", event())
    place.clock.advance(3601)
    told.append((await place.store.append("log", event())).time)
    assert await times(place.store) == told == [NOW, NOW, NOW + 1]
    assert other.time == NOW - 3600


@pytest_twisted.ensureDeferred
async def test_a_date_that_an_event_brings_along_stays(place: Place) -> None:
    for date in (NOW, NOW - 5, 0.0, float("inf"), 0.0):
        await place.store.append("log", event(date))
    assert await times(place.store) == [NOW, NOW - 5, NOW, float("inf"), NOW]


@pytest_twisted.ensureDeferred
async def test_dates_do_not_go_back_over_a_restart(place: Place) -> None:
    if place.url == "memory:":
        return  # it forgets all
    await place.store.append("log", event())
    place.ahead -= 3600
    store = await place.restart()
    assert (await store.append("log", event())).time == NOW


@pytest_twisted.ensureDeferred
async def test_keys_survive_a_jump_and_end_in_their_own_time(place: Place) -> None:
    store = place.store
    await store.set("kv", "old", b"1", expires=NOW + 60)
    place.ahead += WEEK
    assert (await store.get("kv", "old")).value == b"1"
    assert [key for key, _ in await store.range("kv", "", "z", 9)] == ["old"]
    assert await store.expired("kv", 9) == []
    await store.set("kv", "new", b"1", expires=NOW + WEEK + 30)
    place.clock.advance(30)
    assert await store.get("kv", "new") is None
    assert [key for key, _ in await store.range("kv", "", "z", 9)] == ["old"]
    assert await store.expired("kv", 9) == ["new"]
    place.clock.advance(30)
    assert await store.expired("kv", 9) == ["old"]


@pytest_twisted.ensureDeferred
async def test_what_is_written_to_a_key_that_was_jumped_over_finds_it(place: Place) -> None:
    store = place.store
    for key in ("set", "patch", "add", "delete"):
        await store.set("kv", key, b"1", expires=NOW + 60)
    place.ahead += WEEK
    assert (await store.set("kv", "set", b"2", revision=1)).revision == 5
    assert (await store.patch("kv", "patch", b"2", lambda stored, value: stored + value)).value == b"12"
    assert (await store.increment("kv", "add", b"2")).value == b"3"
    assert await store.delete("kv", "delete")


@pytest_twisted.ensureDeferred
async def test_a_jump_counts_when_it_has_lasted_an_hour(place: Place) -> None:
    await place.store.set("kv", "old", b"1", expires=NOW + DAY)
    place.ahead += WEEK
    place.store.oldest(0.0)
    place.hour_passes()
    assert await place.store.get("kv", "old") is None
    assert await place.store.expired("kv", 9) == ["old"]


@pytest_twisted.ensureDeferred
async def test_a_jump_forgets_no_events_and_no_keys_of_other_spaces(place: Place) -> None:
    store = place.store
    await store.append("log", event())
    await store.set("cursor", "k", b"1", expires=NOW + 60)
    place.ahead += WEEK
    assert await store.sweep("", store.oldest(DAY), 0) == 0
    assert await times(store) == [NOW]
    assert (await store.get("cursor", "k")).value == b"1"
    place.hour_passes()
    assert await store.sweep("", store.oldest(DAY), 0) == 1
    assert await store.expired("cursor", 9) == []  # swept


@pytest_twisted.ensureDeferred
async def test_a_jump_over_a_restart_is_skipped(place: Place) -> None:
    if place.url == "memory:":
        return  # it forgets all
    await place.store.set("kv", "old", b"1", expires=NOW + DAY)
    assert await place.store.expired("kv", 9) == []
    place.ahead += WEEK
    store = await place.restart()
    assert (await store.get("kv", "old")).value == b"1"
    assert await store.expired("kv", 9) == []
    store = await place.restart()  # what was noted meanwhile is not the new time
    assert (await store.get("kv", "old")).value == b"1"
    place.hour_passes()
    assert await store.get("kv", "old") is None


# On Redis the server's clock counts.

OpenStore = Callable[[], Any]


@pytest_twisted.async_yield_fixture
async def open_redis(redis_server: RedisServer) -> AsyncIterator[OpenStore]:
    opened: list[Any] = []

    def open_one() -> Any:
        wall = WallClock(lambda: time.time() + WEEK)  # that of the machine is a week ahead
        store = open_store(redis_server.url, clock=cast(Any, reactor), prefix="own:", wall=wall)
        store.startService()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await maybeDeferred(store.stopService)


async def time_of(server: RedisServer) -> float:
    seconds, micros = cast(Any, await server.command("TIME"))
    return int(seconds) + int(micros) / 1e6


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_nodes_go_by_the_clock_of_redis(open_redis: OpenStore, redis_server: RedisServer) -> None:
    store = open_redis()
    first = await store.append("log", event())  # before it has heard of Redis
    now = await time_of(redis_server)
    assert abs(first.time - now) < 60
    assert abs(store.wall.time() - now) < 60
    assert abs((await store.append("log", event())).time - now) < 60
    await store.set("kv", "k", b"1", expires=now + 600)
    assert await store.expired("kv", 9) == []
    assert (await store.get("kv", "k")).value == b"1"
    assert abs(store.oldest(DAY) - (now - DAY)) < 60


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_dates_in_redis_do_not_go_back_whichever_node_stores(open_redis: OpenStore) -> None:
    one, two = open_redis(), open_redis()
    await one.head("log")
    await two.head("log")
    one._time._ahead += 30  # it believes that the server's clock is half a minute further
    first = await one.append("log", event())
    second = await two.append("log", event())
    other = await two.append("other", event())
    assert first.time == second.time > other.time
    assert await times(one) == [first.time, first.time]
    assert (await two.append("log", event(NOW))).time == NOW  # its own
    assert abs((await two.append("log", event())).time - other.time) < 60


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_a_jump_of_redis_ends_nothing(open_redis: OpenStore, redis_server: RedisServer) -> None:
    one, two = open_redis(), open_redis()
    now = await time_of(redis_server)
    for store in (one, two):
        assert await store.expired("kv", 9) == []
    await one.set("kv", "old", b"1", expires=now + WEEK - 60)  # set a week ago, to live for a day
    for store in (one, two):
        store._time._ahead -= WEEK  # as if the server had just jumped
    await redis_server.command("SET", "own:clock", f"{now - WEEK} 0 0 0")
    await one.set("kv", "jumped", b"1", expires=now - 60)
    assert (await two.get("kv", "jumped")).value == b"1"
    assert [key for key, _ in await one.range("kv", "", "z", 9)] == ["jumped", "old"]
    await one.set("kv", "new", b"1", expires=now + 0.001)
    for store in (one, two):
        assert set(await store.expired("kv", 9)) <= {"new"}
        assert abs(store.wall.time() - now) < 60  # it knows the time again
        assert abs(store.oldest(0.0) - (now - WEEK)) < 60
    assert (await two.get("kv", "jumped")).value == b"1"


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_a_jump_of_redis_counts_when_it_has_lasted_an_hour(
    open_redis: OpenStore, redis_server: RedisServer
) -> None:
    store = open_redis()
    now = await time_of(redis_server)
    await store.set("kv", "jumped", b"1", expires=now - 4000)
    await redis_server.command("SET", "own:clock", f"{now - 1} {WEEK} {now - 3000} {now - 3000}")
    assert (await store.get("kv", "jumped")).value == b"1"
    await redis_server.command("SET", "own:clock", f"{now - 1} {WEEK} {now - 3601} {now - 3601}")
    assert await store.expired("kv", 9) == ["jumped"]


@pytest.mark.processes
@pytest_twisted.ensureDeferred
async def test_a_redis_that_nobody_has_asked_for_days_ends_nothing_for_an_hour(
    open_redis: OpenStore, redis_server: RedisServer
) -> None:
    now = await time_of(redis_server)
    await redis_server.command("SET", "own:clock", f"{now - 2 * DAY} 0 0 0")
    store = open_redis()
    await store.set("kv", "jumped", b"1", expires=now - 60)
    await store.set("kv", "older", b"1", expires=now - 3 * DAY)
    assert await store.expired("kv", 9) == ["older"]
    assert (await store.get("kv", "jumped")).value == b"1"
