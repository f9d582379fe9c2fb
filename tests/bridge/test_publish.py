"""Publications that are answered: on whichever node, and as other dialects get them."""

from __future__ import annotations

import json

import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from tests.bridge.clients import Ganomede, OwlMeans

STORED = {"durable": True, "key": "k"}


async def read(daemon, topic):
    return (await Ganomede(daemon).poll(topic)).json()


@pytest_twisted.ensureDeferred
async def test_what_all_send_by_one_key_is_stored_and_delivered_once(shared_daemon, join):
    reader = await join(OwlMeans)
    await reader.subscribe("once")
    clients = [await join(OwlMeans) for _ in range(3)]
    asked = [client.ask("broker.publish", "once", {"n": 1}, STORED) for client in clients for _ in range(5)]
    answers = await gatherResults([Deferred.fromCoroutine(each) for each in asked])
    assert {answer["id"] for answer in answers} == {1}
    assert sorted(answer["duplicate"] for answer in answers) == [False] + [True] * 14
    assert [event["data"] for event in await read(shared_daemon, "once")] == [{"n": 1}]
    await clients[0].ask("broker.publish", "once", {"n": 2}, {"durable": True})
    heard = [json.loads(await reader.event()) for _ in range(2)]
    assert [(event["id"], event["payload"]) for event in heard] == [(1, {"n": 1}), (2, {"n": 2})]


@pytest_twisted.ensureDeferred
async def test_of_those_that_expect_one_head_one_is_stored(shared_daemon, join):
    clients = [await join(OwlMeans) for _ in range(3)]
    for head in range(3):
        asked = [
            client.call("broker.publish", '"raced"', "1", f'{{"durable":true,"expect":{head}}}') for client in clients
        ]
        answers = [json.loads(text) for text in await gatherResults([Deferred.fromCoroutine(each) for each in asked])]
        assert sorted(answer["type"] for answer in answers) == ["error", "error", "result"]
        refusals = {answer["payload"] for answer in answers if answer["type"] == "error"}
        assert refusals == {f"SocketErrorMessage|||socket:message:conflict:{head + 1}|||"}
    assert len(await read(shared_daemon, "raced")) == 3


@pytest_twisted.ensureDeferred
async def test_a_batch_comes_in_its_order_to_whoever_listens(shared_daemon, join):
    reader, writer = await join(OwlMeans), await join(OwlMeans)
    await reader.subscribe("together.a", "together.b")
    several = [{"topic": f"together.{'ab'[number % 2]}", "payload": number} for number in range(100)]
    positions = (await writer.ask("broker.batch", several))["events"]
    heard = [json.loads(await reader.event()) for _ in several]
    for number, topic in enumerate(("together.a", "together.b")):
        assert [position["id"] for position in positions if position["topic"] == topic] == list(range(1, 51))
        assert [event["payload"] for event in heard if event["event"] == topic] == list(range(number, 100, 2))
        assert [event["data"] for event in await read(shared_daemon, topic)] == list(range(number, 100, 2))
