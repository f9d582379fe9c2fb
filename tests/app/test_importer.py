"""What a ganomede-events server has stored is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
import txredisapi
from twisted.internet import reactor
from twisted.internet.defer import maybeDeferred
from twisted.internet.threads import deferToThread

from broker.app.importer import Report, import_ganomede
from broker.core.channels import CURSOR, cursor_key
from broker.errors import Unavailable
from broker.interfaces import IStore
from broker.messages import MAX_ID
from broker.patterns import LOG_PREFIX
from broker.stores import open_store
from tests.support.eventually import TIMEOUT
from tests.support.redis_server import RedisServer, refusing_port

TIME = 1_795_211_183_941  # ms


class Original:
    """Writes what the original writes."""

    def __init__(self, redis: Any) -> None:
        self.do = redis.execute_command

    async def publish(self, channel: str, id: int, data: str = '{"a": 1.0}') -> None:
        text = f'{{"id":{id},"timestamp":{TIME + id},"type":"add","from":"svc/v1","data":{data}}}'
        await self.do("SET", f"indices:{channel}", str(id))
        await self.do("SET", f"{channel}:{id}", text)
        await self.do("ZADD", f"{channel}:keys", str(id), f"{channel}:{id}")

    async def cursor(self, client: str, channel: str, id: int) -> None:
        await self.do("SET", f"last-fetched:{client}:{channel}", str(id))


@pytest_twisted.async_yield_fixture
async def original(redis_server: RedisServer) -> AsyncIterator[Original]:
    client = await txredisapi.UnixConnection(str(redis_server.socket), reconnect=False)
    yield Original(client)
    await client.disconnect()


@pytest.fixture
def url(redis_server: RedisServer) -> str:
    return f"redis+unix://{redis_server.socket}"


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def copy(url: str, tmp_path: Path, notes: list[str]) -> Any:
    async def run() -> tuple[Report, IStore]:
        report = await import_ganomede(url, new_store(tmp_path), reactor, notes.append)
        store = new_store(tmp_path)
        store.startService()
        return report, store

    return run


def new_store(directory: Path) -> IStore:
    return open_store("sqlite:", clock=reactor, directory=str(directory))


async def cursor(store: IStore, client: str, channel: str) -> int | None:
    entry = await store.get(CURSOR, cursor_key(client, channel))
    return None if entry is None else int(entry.value)


@pytest_twisted.ensureDeferred
async def test_events_cursors_and_indices_are_imported(original: Original, copy: Any, notes: list[str]) -> None:
    for number in range(1, 1201):
        await original.publish("users/v1", number, f'{{"n": {number}.0}}')
    await original.publish("other", 1, "[]")
    await original.cursor("reader", "users/v1", 700)
    await original.do("SET", "indices:by-type", '{"id":"by-type","channel":"users/v1","field":"type"}')
    report, store = await copy()
    assert str(report) == "1201 events of 2 channels, 1 cursors, 1 indices"
    (event,) = await store.read(LOG_PREFIX + "users/v1", 41, 1)
    assert (event.id, event.topic, event.name, event.source, event.author) == (42, "users/v1", "add", "", "svc/v1")
    assert (event.body, event.time) == (b'{"n": 42.0}', (TIME + 42) / 1000)
    assert await store.head(LOG_PREFIX + "users/v1") == 1200
    assert await cursor(store, "reader", "users/v1") == 700
    assert (await store.get("index", "by-type")).value == b'{"channel": "users/v1", "field": "type"}'
    assert notes == []
    await maybeDeferred(store.stopService)


@pytest_twisted.ensureDeferred
async def test_a_second_run_adds_what_is_new_only(original: Original, copy: Any) -> None:
    await original.publish("c", 1)
    _, store = await copy()
    await maybeDeferred(store.stopService)
    await original.publish("c", 2)
    report, store = await copy()
    assert report.events == {"c": 1}
    assert [event.id for event in await store.read(LOG_PREFIX + "c", 0, 9)] == [1, 2]
    await maybeDeferred(store.stopService)


@pytest_twisted.ensureDeferred
async def test_holes_are_closed_and_cursors_follow(original: Original, copy: Any, notes: list[str]) -> None:
    for number in (1, 2, 5, 6):
        await original.publish("c", number)
    for client, id_ in (("a", 2), ("b", 4), ("c", 5), ("d", 6), ("e", 99)):
        await original.cursor(client, "c", id_)
    _, store = await copy()
    assert [event.id for event in await store.read(LOG_PREFIX + "c", 0, 9)] == [1, 2, 3, 4]
    assert [await cursor(store, client, "c") for client in "abcde"] == [2, 2, 3, 4, 99]
    assert notes == ["channel 'c' had holes among its ids: its events have new ones from 1 on"]
    await maybeDeferred(store.stopService)


@pytest_twisted.ensureDeferred
async def test_what_can_not_be_told_apart_is_noted(original: Original, copy: Any, notes: list[str]) -> None:
    await original.publish("users/v1:add", 1)
    await original.publish("add", 1)
    await original.cursor("x", "users/v1:add", 1)
    await original.do("SET", "add:1", "no JSON")
    await original.do("SET", "last-fetched:y:unknown", "1")
    _, store = await copy()
    assert await cursor(store, "x", "users/v1:add") == 1
    assert "'add:1' is no event: it was skipped" in notes
    assert "the cursor 'x:users/v1:add' can be read in 2 ways: all were imported" in notes
    await maybeDeferred(store.stopService)


@pytest_twisted.ensureDeferred
async def test_times_and_cursors_that_can_not_be_are_not_taken_over(original: Original, copy: Any) -> None:
    for number, timestamp in enumerate(("1e308", "-1", "8.65e15"), 1):
        await original.publish("ch", number)
        await original.do("SET", f"ch:{number}", f'{{"id":{number},"timestamp":{timestamp},"type":"T","from":"f"}}')
    for client, digits in (("a", 17), ("b", 400), ("c", 5000)):
        await original.do("SET", f"last-fetched:{client}:ch", "1" + "0" * digits)
    _, store = await copy()
    assert [0 < event.time <= store.wall.time() for event in await store.read(LOG_PREFIX + "ch", 0, 5)] == [True] * 3
    assert [await cursor(store, client, "ch") for client in "abc"] == [MAX_ID] * 3
    await maybeDeferred(store.stopService)


@pytest_twisted.ensureDeferred
async def test_a_redis_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broker.app.importer.FIRST_CONNECTION_TIMEOUT", 0.5)
    with refusing_port() as port, pytest.raises(Unavailable, match=r"Redis can not be used: .*refused"):
        await import_ganomede(f"redis://127.0.0.1:{port}", new_store(tmp_path), reactor, print)


@pytest_twisted.ensureDeferred
async def test_the_command_copies_and_says_what(original: Original, url: str, tmp_path: Path) -> None:
    await original.publish("c", 1)

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from broker.app.command import main; main()", *arguments]
        environment = {**os.environ, "STATE_DIRECTORY": str(tmp_path), "TXBROKER_STORE": "sqlite:", **environ}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)

    done = await deferToThread(run, "import-ganomede", url)
    assert (done.returncode, done.stdout) == (0, "1 events of 1 channels, 0 cursors, 0 indices\n")
    assert (await deferToThread(run, "import-ganomede", "horse://x")).returncode == 1
    assert (await deferToThread(run, "import-ganomede", url, TXBROKER_RATE="fast")).returncode == 2
    assert (await deferToThread(run)).returncode == 2


@pytest_twisted.ensureDeferred
async def test_what_is_imported_ends_when_nobody_uses_it(original: Original, url: str, tmp_path: Path) -> None:
    await original.publish("ch", 1)
    await original.cursor("c", "ch", 1)
    await import_ganomede(url, new_store(tmp_path), reactor, print, cursor_seconds=1000.0)
    store = new_store(tmp_path)
    store.startService()
    entry = await store.get(CURSOR, cursor_key("c", "ch"))
    assert entry is not None
    assert 900 < entry.expires - store.wall.time() < 1200
    await maybeDeferred(store.stopService)
