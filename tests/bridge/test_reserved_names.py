"""Names of the broker: whatever the dialect, a client reads there and does not write."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
import pytest_twisted

from tests.bridge.clients import Ganomede, Hpkv, MicroStream, OwlMeans, ThinWs
from tests.support.http_client import request
from tests.support.ws_client import ws_connect

JSON = {"Content-Type": "application/json"}
FORGED = '{"key":"k","value":"forged","timestamp":0}'
NAMES = ["broker", "broker.client.online", "kv/k", "kv/broker", "queue:q"]


@pytest.mark.parametrize("name", NAMES)
@pytest_twisted.ensureDeferred
async def test_nobody_publishes_where_the_broker_does(shared_daemon, join, name):
    ganomede, owl, thin = Ganomede(shared_daemon), await join(OwlMeans), await join(ThinWs)
    listener, watcher = await join(OwlMeans), await join(Hpkv.watcher, name.removeprefix("kv/"))
    await listener.subscribe(name)
    await thin.enter(name)
    owl.notify(name, FORGED)
    assert f"forbidden:publish:{name}" in await owl.next("system")
    said = {"clientId": "w", "secret": "any", "channel": name, "from": "f", "type": "set", "data": json.loads(FORGED)}
    answer = await ganomede.post_raw(json.dumps(said).encode())
    assert (answer.status, answer.json()["code"]) == (403, "Forbidden")
    assert (await thin.ask(type="message", roomID=name, message=1))["message"] == "Not authorized"
    await listener.sync()
    assert [listener.count("event"), thin.count("message"), watcher.count("notification")] == [0, 0, 0]
    assert await ganomede.latest(name) == []


@pytest_twisted.ensureDeferred
async def test_changes_of_keys_are_heard_in_every_dialect_all_the_same(shared_daemon, join):
    owl, thin, hpkv = await join(OwlMeans), await join(ThinWs), await join(Hpkv)
    await owl.subscribe("kv/heard")
    await thin.enter("kv/heard")
    watcher = await join(Hpkv.watcher, "heard")
    await hpkv.set("heard", "v")
    assert json.loads(await owl.event())["payload"]["value"] == "v"
    assert json.loads(await thin.message())["message"]["value"] == "v"
    assert (await watcher.notification())["value"] == "v"


@pytest.mark.parametrize("name", NAMES)
@pytest_twisted.ensureDeferred
async def test_nobody_serves_or_consumes_under_a_name_of_the_broker(shared_daemon, join, name):
    owl = await join(OwlMeans)
    for method in ("register", "acknowledge", "consume"):
        assert "forbidden" in await owl.failure(f"broker.{method}", name)
    owl.say(json.dumps({"type": "message", "payload": 1, "recipient": f"queue:{name}"}))
    assert "forbidden:send" in await owl.next("system")
    service = MicroStream(
        await ws_connect(shared_daemon.ws(f"/socket.io/?EIO=4&transport=websocket&serviceName={name}"))
    )
    service.say("40")
    assert json.loads((await service.next("44"))[2:])["message"] == "FORBIDDEN"
    await service.socket.close()


@pytest.mark.parametrize("key", ["broker", "broker.x"])
@pytest_twisted.ensureDeferred
async def test_nobody_writes_a_key_of_the_broker(join, key):
    owl, hpkv = await join(OwlMeans), await join(Hpkv)
    for op, value in ((2, "v"), (3, "v"), (6, 1)):
        assert (await hpkv.do(op, key, value))["error"] == "Access denied"
    for method, value in (("set", "v"), ("patch", "v"), ("increment", 1)):
        assert f"forbidden:write:{key}" in await owl.failure(f"broker.{method}", key, value)
    assert (await owl.ask("broker.get", key))["revision"] == 0


@pytest.mark.parametrize("name", NAMES)
@pytest_twisted.ensureDeferred
async def test_the_http_api_and_the_ways_to_publish_of_owlmeans_do_not_write_there_either(shared_daemon, join, name):
    owl, path = await join(OwlMeans), quote(name, safe="")
    for method, target in (("POST", f"topics/{path}"), ("POST", f"queues/{path}")):
        answer = await request(method, f"{shared_daemon.url}/v1/{target}", body=FORGED.encode(), headers=JSON)
        assert (answer.status, answer.json()["code"]) == (403, "DENIED"), target
    if name.startswith("broker"):
        for method in ("PUT", "PATCH"):
            answer = await request(method, f"{shared_daemon.url}/v1/keys/{path}", body=b"{}", headers=JSON)
            assert (answer.status, answer.json()["code"]) == (403, "DENIED"), method
    for options in ({}, {"retain": True}, {"durable": True}):
        assert "forbidden:publish" in await owl.failure("broker.publish", name, 1, options)
    assert "forbidden:publish" in await owl.failure("broker.batch", [{"topic": name, "payload": 1}])
    assert "forbidden:publish" in await owl.failure("broker.testament", name, 1)
    assert "forbidden:send" in await owl.failure("broker.enqueue", name, 1)
    assert "forbidden:act" in await owl.failure("broker.subscribe", "t", {"cursor": name})
    for method in ("retry", "drop"):
        assert "forbidden:manage" in await owl.failure(f"broker.{method}", name, ["1-1"])


@pytest_twisted.ensureDeferred
async def test_a_service_and_a_topic_may_be_called_user_or_default(shared_daemon, join):
    owl, caller = await join(OwlMeans), await join(OwlMeans)
    owl.emulator.perform("default", lambda *_: "here")
    await owl.ask("broker.register", "default")
    await owl.subscribe("user", "user:bob")
    caller.begin("default")
    await owl.next("call")
    assert json.loads(await caller.next("answer"))["payload"] == "here"
    for topic in ("user", "user:bob"):
        await Ganomede(shared_daemon).post(topic, "[1]")
        assert json.loads(await owl.event())["event"] == topic
