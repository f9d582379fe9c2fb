"""What is stored is read by whoever comes later, on whatever node: by one node and by three."""

from __future__ import annotations

import json
from typing import Any

import pytest
import pytest_twisted

from tests.bridge.clients import Ganomede, OwlMeans
from tests.support.daemon import Daemon
from tests.support.http_client import get


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_DURABLE_TOPICS": "log.>", "TXBROKER_POLL_TIMEOUT_SECONDS": "0.1"}


async def events(client: OwlMeans, count: int) -> list[dict[str, Any]]:
    return [json.loads(await client.event()) for _ in range(count)]


@pytest_twisted.ensureDeferred
async def test_whoever_comes_back_to_another_node_misses_nothing(shared_daemon: Daemon) -> None:
    api, seen = Ganomede(shared_daemon), []
    position: Any = "start"
    for number in range(6):
        await api.post("log.back", json.dumps([number]))
        client = await OwlMeans.join(shared_daemon)
        answer = await client.ask("broker.subscribe", "log.back", {"from": position})
        assert answer["recovered"]
        await api.post("log.back", json.dumps([-number]))
        found = await events(client, 2)
        seen += [event["id"] for event in found]
        position = {"epoch": found[-1]["epoch"], "id": found[-1]["id"]}
        client.socket.abort()
    assert seen == list(range(1, 13))


@pytest_twisted.ensureDeferred
async def test_the_seam_has_neither_hole_nor_double_while_others_publish(shared_daemon: Daemon) -> None:
    publisher = await OwlMeans.join(shared_daemon)
    for number in range(200):
        publisher.notify("log.seam", str(number))
    readers = []
    for number in range(5):
        reader = await OwlMeans.join(shared_daemon)
        readers.append(reader)
        for more in range(20):
            publisher.notify("log.seam", str(200 + 20 * number + more))
        reader.begin("broker.subscribe", '"log.seam"', '{"from":"start"}')
    for reader in readers:
        assert [event["id"] for event in await events(reader, 300)] == list(range(1, 301))
    for client in (publisher, *readers):
        await client.socket.close()


@pytest_twisted.ensureDeferred
async def test_a_pattern_brings_all_its_topics_from_every_node(shared_daemon: Daemon) -> None:
    api = Ganomede(shared_daemon)
    for number in range(12):
        await api.post(f"log.many.{number % 3}", json.dumps([number]))
    reader = await OwlMeans.join(shared_daemon)
    answer = await reader.ask("broker.subscribe", "log.many.*", {"from": "start"})
    assert sorted(answer["positions"]) == [f"log.many.{number}" for number in range(3)]
    found = await events(reader, 12)
    for number in range(3):
        assert [e["id"] for e in found if e["topic"] == f"log.many.{number}"] == [1, 2, 3, 4]
    await reader.socket.close()


@pytest_twisted.ensureDeferred
async def test_a_cursor_is_shared_with_ganomede_and_between_nodes(shared_daemon: Daemon) -> None:
    api = Ganomede(shared_daemon)
    for number in range(3):
        await api.post("log.cursor", json.dumps([number]))
    client = await OwlMeans.join(shared_daemon)
    assert (await client.ask("broker.ack", "shared-reader", "log.cursor", 2))["back"] is False
    polled = (await get(api.url("events", channel="log.cursor", clientId="shared-reader"))).json()
    assert [event["id"] for event in polled] == [3]
    listed = (await client.ask("broker.cursors", "log.cursor"))["cursors"]
    assert [(each["cursor"], each["id"], each["lag"]) for each in listed] == [("shared-reader", 2, 1)]
    await client.socket.close()


@pytest_twisted.ensureDeferred
async def test_all_nodes_read_the_same_page(shared_daemon: Daemon) -> None:
    for number in range(3):
        await Ganomede(shared_daemon).post("log.page", json.dumps([number]))
    pages = []
    for _ in range(3):
        client = await OwlMeans.join(shared_daemon)
        pages.append(await client.ask("broker.read", "log.page", {"last": 2}))
        await client.socket.close()
    assert [event["payload"] for event in pages[0]["events"]] == [[1], [2]]
    assert pages == [pages[0]] * 3
