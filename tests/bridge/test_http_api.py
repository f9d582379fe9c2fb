"""Clients of the HTTP API and those of the other dialects."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol

from tests.bridge.clients import Ganomede, Hpkv, OwlMeans, member
from tests.bridge.test_calls import answer, asked, callee
from tests.protocols.http_api import events_of
from tests.support.http_client import Answer, get, post, request
from tests.support.public_port import RawClient
from tests.support.public_port import request as raw_request

# Names, numbers and order that a decoder would not give back.
BODY = '{"z":[1e3,1.0,-0,12345678901234567890],"a":{"\\u00e9":"é\\ud83d\\ude00\\/"},"":null}'


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_DURABLE_TOPICS": "kept.>"}


async def page(daemon, topic: str) -> Answer:
    read = await get(f"{daemon.url}/v1/topics/{topic}?wait=10")
    assert read.status == 200, read.text
    return read


@pytest.mark.parametrize(("topic", "status"), [("live.1", 202), ("kept.1", 201)])
@pytest_twisted.ensureDeferred
async def test_what_is_posted_comes_to_owlmeans(shared_daemon, join, topic, status):
    owl = await join(OwlMeans)
    await owl.subscribe(topic)
    posted = await post(f"{shared_daemon.url}/v1/topics/{topic}?name=n", body=BODY.encode())
    assert posted.status == status
    text = await owl.event()
    assert member(text, "payload") == BODY
    assert (json.loads(text)["name"], "epoch" in json.loads(text)) == ("n", status == 201)


@pytest_twisted.ensureDeferred
async def test_what_owlmeans_publishes_is_on_the_page(shared_daemon, join):
    owl = await join(OwlMeans)
    await owl.ask("broker.identify", "alice")
    reading = page(shared_daemon, "kept.2")
    owl.notify("kept.2", BODY)
    read = await reading
    (event,) = read.json()["events"]
    assert (event["name"], event["sender"], event["id"]) == ("kept.2", "alice", 1)
    assert BODY in read.text


@pytest_twisted.ensureDeferred
async def test_ganomede_and_the_page_say_the_same(shared_daemon):
    ganomede = Ganomede(shared_daemon)
    posted = await ganomede.post("users/v1", BODY, kind="T", source="svc/v1")
    (event,) = (await page(shared_daemon, "users%2Fv1")).json()["events"]
    assert (event["id"], event["time"], event["name"]) == (posted["id"], posted["timestamp"], "T")
    assert (event["sender"], event["from"]) == ("w", "svc/v1")
    await post(f"{shared_daemon.url}/v1/topics/users%2Fv1?durable=1", body=b"[2]")
    assert member((await ganomede.latest("users/v1"))[-1], "data") == "[2]"


@pytest_twisted.ensureDeferred
async def test_a_cursor_is_one_of_ganomede(shared_daemon):
    ganomede = Ganomede(shared_daemon)
    for _ in range(3):
        await ganomede.post("users/v2", "[]")
    await ganomede.poll("users/v2", after=1, client="me")
    url = f"{shared_daemon.url}/v1/cursors/me/users%2Fv2"
    assert (await get(url)).json()["id"] == 1
    assert (await request("PUT", url, body=b'{"id":2}')).status == 200
    assert [
        event["id"] for event in (await get(f"{shared_daemon.url}/v1/topics/users%2Fv2?cursor=me")).json()["events"]
    ] == [3]


async def follow(daemon, topic: str, count: int, *, cursor: str, id: str = "") -> list[dict[str, str]]:
    """Return the first *count* stored events of a stream, which is left then."""
    client = RawClient()
    await connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", daemon.port), client)
    lines = ["Accept: text/event-stream", *([f"Last-Event-ID: {id}"] if id else [])]
    client.transport.write(raw_request(f"/v1/topics/{topic}?cursor={cursor}", *lines))
    await client.until(lambda: client.data.count(b"data: ") >= count)
    client.transport.abortConnection()
    return events_of(re.sub(rb"\r\n[0-9a-f]+\r\n", b"", client.data.partition(b"\r\n\r\n")[2]))


@pytest_twisted.ensureDeferred
async def test_a_stream_goes_on_at_another_node_and_acknowledges_what_it_shows(shared_daemon):
    for number in range(6):
        await post(f"{shared_daemon.url}/v1/topics/kept.sse", body=b"%d" % number)
    first = await follow(shared_daemon, "kept.sse", 6, cursor="page")
    assert [event["data"] for event in first] == ["0", "1", "2", "3", "4", "5"]
    second = await follow(shared_daemon, "kept.sse", 3, cursor="page", id=first[2]["id"])
    assert [event["data"] for event in second] == ["3", "4", "5"]
    third = await follow(shared_daemon, "kept.sse", 3, cursor="page")  # what it has not shown comes again
    assert [event["data"] for event in third] == ["3", "4", "5"]
    assert (await get(f"{shared_daemon.url}/v1/cursors/page/kept.sse")).json()["id"] == 3


@pytest_twisted.ensureDeferred
async def test_a_key_is_one_of_hpkv(shared_daemon, join):
    hpkv = await join(Hpkv.watcher, "k")
    url = f"{shared_daemon.url}/v1/keys/k"
    assert (await request("PUT", url, body=b"5")).status == 201
    assert (await hpkv.notification())["value"] == "5"
    await hpkv.increment("k", 2)
    assert (await get(url)).text == "7"
    assert (await request("DELETE", url)).status == 204
    while (await hpkv.notification())["value"] is not None:
        pass


@pytest.mark.parametrize("key", ["a\0b", "line\nbreak\x7f", "\u00e9" * 512, "\U0001f600" * 256, "/../%2e?#", "."])
@pytest_twisted.ensureDeferred
async def test_each_dialect_reaches_every_key_of_the_others(shared_daemon, join, key):
    owl, hpkv = await join(OwlMeans), await join(Hpkv.watcher, key)
    url = f"{shared_daemon.url}/v1/keys/{quote(key, safe='')}"
    await owl.ask("broker.watch", key, {"exact": True})
    await hpkv.set(key, "1")
    assert (await hpkv.notification())["key"] == json.loads(await owl.event())["payload"]["key"] == key
    assert (await get(url)).text == (await owl.ask("broker.get", key))["value"] == "1"
    assert (await request("PUT", url, body=b"2")).status == 200
    assert (await hpkv.get(key))["value"] == "2"
    assert (await owl.ask("broker.set", key, "3"))["key"] == key
    assert (await get(url)).text == "3"
    assert (await owl.ask("broker.delete", key))["deleted"]
    assert ((await get(url)).status, (await hpkv.get(key))["code"]) == (404, 404)


@pytest.mark.parametrize("key", ["k" * 1025, "\u00e9" * 513, "\U0001f600" * 257])
@pytest_twisted.ensureDeferred
async def test_a_key_that_is_too_long_is_refused_in_the_words_of_each_dialect(shared_daemon, join, key):
    owl, hpkv = await join(OwlMeans), await join(Hpkv)
    refused = await get(f"{shared_daemon.url}/v1/keys/{quote(key)}")
    assert (refused.status, refused.json()["code"]) == (400, "INVALID")
    assert "SocketErrorMessageMalformed" in await owl.failure("broker.get", key)
    answered = await hpkv.get(key)
    assert (answered["code"], answered["error"]) == (400, "Key too large")


@pytest_twisted.ensureDeferred
async def test_a_job_is_one_of_owlmeans(shared_daemon, join):
    owl = await join(OwlMeans)
    await owl.call("broker.enqueue", '"jobs"', BODY)
    claimed = await post(f"{shared_daemon.url}/v1/queues/jobs/claim?wait=10")
    (job,) = claimed.json()
    assert BODY in claimed.text
    done = await post(f"{shared_daemon.url}/v1/queues/jobs/jobs/{job['id']}/done")
    assert done.status == 200


@pytest_twisted.ensureDeferred
async def test_a_call_by_a_key_is_made_once_at_whatever_nodes(shared_daemon, join):
    owl, key = await callee(join, "http.once"), {"Idempotency-Key": "once"}
    calling = post(f"{shared_daemon.url}/v1/call/http.once", body=b"7", headers=key)
    answer(owl, await asked(owl), BODY)
    assert (await calling).text == BODY
    for _ in range(3):
        again = await post(f"{shared_daemon.url}/v1/call/http.once", body=b"7", headers=key)
        assert (again.text, again.headers["idempotent-replayed"]) == (BODY, "true")
    other = await post(f"{shared_daemon.url}/v1/call/http.once", body=b"8", headers=key)
    assert other.status == 422


@pytest_twisted.ensureDeferred
async def test_a_call_is_answered_by_owlmeans(shared_daemon, join):
    owl = await callee(join, "http.p")
    calling = post(f"{shared_daemon.url}/v1/call/http.p", body=b'[1e3,"x"]')
    call = await asked(owl)
    assert member(call, "payload") == '[1e3,"x"]'
    answer(owl, call, BODY)
    assert (await calling).text == BODY
