"""The writer of a key ends at a bad moment: whatever has changed, those who watch it hear of it."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.bridge.clients import Hpkv
from tests.support.cluster import ProxiedCluster
from tests.support.daemon import Daemon
from tests.support.http_client import get

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]


@pytest_twisted.async_yield_fixture(scope="module")
async def cluster() -> AsyncIterator[ProxiedCluster]:
    """Two nodes, each with its own way to Redis, for all tests."""
    cluster = await ProxiedCluster.new(2).start()
    yield cluster
    await cluster.end()


async def stored(reader: Hpkv, key: str) -> Any:
    return (await reader.get(key)).get("value")


async def until_stored(reader: Hpkv, key: str, value: Any) -> None:
    while await stored(reader, key) != value:
        pass


async def heard_of(watcher: Hpkv, key: str) -> Any:
    """Return the value in the next notification of *key*."""
    while (notification := await watcher.notification())["key"] != key:
        pass
    return notification["value"]


@pytest_twisted.ensureDeferred
async def test_a_change_is_heard_whatever_else_its_node_wanted_to_say(cluster: ProxiedCluster) -> None:
    writing, other = cluster.nodes
    cluster.networks[0].proxies[0].fatal = b"\r\npublish\r\n"
    writer, reader = await Hpkv.join(writing), await Hpkv.join(other)
    watcher = await Hpkv.watcher(other, "k", "n")
    changes = [(2, "k", "a", "a"), (3, "k", "b", "ab"), (6, "n", 2, "2"), (4, "k", None, None)]
    for op, key, value, left in changes:
        writer.say(json.dumps({"op": op, "key": key, "messageId": op, **({} if value is None else {"value": value})}))
        await until_stored(reader, key, left)
        assert await heard_of(watcher, key) == left
    cluster.networks[0].proxies[0].fatal = b""
    await writing.kill()
    await writing.start()


@pytest_twisted.ensureDeferred
async def test_all_that_is_stored_was_heard_when_a_writer_is_killed(cluster: ProxiedCluster, soak: bool) -> None:
    writing, other = cluster.nodes
    reader, watcher = await Hpkv.join(other), await Hpkv.watcher(other, "n", "last")
    chance = random.Random(1)
    for _ in range(20 if soak else 1):
        writers = [await Hpkv.join(writing) for _ in range(8)]
        for message in range(200):
            writers[message % 8].say(json.dumps({"op": 6, "key": "n", "value": 1, "messageId": message}))
        for _ in range(chance.randrange(1, 20)):
            await writers[0].next("answer")
        await writing.kill()
        await reader.increment("n", 0)  # comes after all that the other one has stored
        last = await stored(reader, "n")
        values = [await heard_of(watcher, "n")]
        while values[-1] != last or len(values) < 2 or values[-2] != last:
            values.append(await heard_of(watcher, "n"))
        first = int(values[0])
        assert values[:-1] == [str(number) for number in range(first, int(last) + 1)]
        await reader.set("n", "0")
        assert await heard_of(watcher, "n") == "0"
        await writing.start()


@pytest_twisted.ensureDeferred
async def test_on_one_node_a_stored_change_has_its_stored_event(short_path: Path, soak: bool) -> None:
    daemon = await Daemon(short_path, TXBROKER_DURABLE_TOPICS="kv/n", TXBROKER_POLL_TIMEOUT_SECONDS="0.01").start()
    chance, values = random.Random(1), list[int]()
    for _ in range(20 if soak else 1):
        writers = [await Hpkv.join(daemon) for _ in range(8)]
        for message in range(200):
            writers[message % 8].say(json.dumps({"op": 6, "key": "n", "value": 1, "messageId": message}))
        for _ in range(chance.randrange(1, 20)):
            await writers[0].next("answer")
        await daemon.kill()
        await daemon.start()
        last = int(await stored(await Hpkv.join(daemon), "n"))
        url = f"{daemon.url}/events/v1/events?clientId=r&channel=kv/n&limit=1000"
        while page := (await get(f"{url}&after={len(values)}")).json():
            values += [int(event["data"]["value"]) for event in page]
        assert values == list(range(1, last + 1))
    await daemon.stop()
