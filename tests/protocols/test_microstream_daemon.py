"""Services on a spawned daemon: one node with SQLite, and three on one Redis, each client on another."""

from __future__ import annotations

import contextlib
import json

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from tests.support.eventually import eventually, pause
from tests.support.http_client import get, post
from tests.support.ws_client import Closed, ws_connect

COUNT = 10


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_PROTOCOLS": "microstream", "TXBROKER_MICROSTREAM_IDLE_SECONDS": "1.5"}


async def connect(daemon, name):
    """Return a WebSocket that is registered as the service *name*."""
    socket = await ws_connect(daemon.ws(f"/socket.io/?EIO=4&transport=websocket&serviceName={name}"))
    assert (await socket.receive()).startswith("0{")
    socket.send("40")
    assert (await socket.receive()).startswith("40{")
    return socket


async def poll(daemon, name):
    """Return the URL of a polling session that is registered as the service *name*."""
    url = f"{daemon.url}/socket.io/?EIO=4&transport=polling&serviceName={name}"
    opened = await get(url)
    url += f"&sid={json.loads(opened.text[1:])['sid']}"
    assert (await post(url, body=b"40")).text == "ok"
    assert (await get(url)).text.startswith("40{")
    return url


def request(target, id):
    return f'42["request",{{"targetService":"{target}","payload":{{"id":"{id}","event":"e"}}}}]'


def response(id):
    return f'42["response",{{"id":"{id}","response":1}}]'


async def ids(socket, name):
    """Return the ids of the next COUNT events of a WebSocket, which are all *name*."""
    events = [json.loads((await socket.receive())[2:]) for _ in range(COUNT)]
    assert {event[0] for event in events} == {name}
    assert [event for event in events if name == "response" and event[1]["response"] != 1] == []
    return sorted(int(event[1]["id"]) for event in events)


# Heartbeats


@pytest_twisted.ensureDeferred
async def test_a_service_whose_heartbeats_end_is_removed_and_its_name_is_free_on_every_node(shared_daemon):
    quiet, witness = await connect(shared_daemon, "quiet"), await connect(shared_daemon, "witness")
    quiet.send('42["heartbeat",{"serviceName":"quiet"}]')
    assert await quiet.closed() == (1001, "idle")
    witness.send(request("quiet", "1"))
    answer = json.loads((await witness.receive())[2:])[1]
    assert answer["response"]["error"]["code"] == "TARGET_SERVICE_NOT_FOUND"
    successor = await connect(shared_daemon, "quiet")
    witness.send(request("quiet", "2"))
    assert await successor.receive() == '42["request",{"id":"2","event":"e"}]'
    await successor.close()
    await witness.close()


@pytest_twisted.ensureDeferred
async def test_a_polling_service_whose_heartbeats_end_is_removed(shared_daemon):
    url = await poll(shared_daemon, "quiet-poller")
    assert (await post(url, body=b'42["heartbeat",{"serviceName":"x"}]')).text == "ok"
    assert (await get(url)).text == "2"
    assert (await get(url)).text == "1"
    assert (await get(url)).status == 400
    await (await connect(shared_daemon, "quiet-poller")).close()


@pytest_twisted.ensureDeferred
async def test_a_service_that_says_anything_else_stays(shared_daemon):
    service, quiet = await connect(shared_daemon, "talker"), await connect(shared_daemon, "no-talker")
    for socket in (service, quiet):
        socket.send('42["heartbeat",{"serviceName":"talker"}]')
    ended = []
    quiet.closed().addCallback(ended.append)
    while not ended:
        service.send('42["other"]')
        await pause(0.1)
    service.send(request("talker", "1"))
    assert await service.receive() == '42["request",{"id":"1","event":"e"}]'
    await service.close()


@pytest_twisted.ensureDeferred
async def test_of_many_that_take_over_a_name_one_gets_it_and_keeps_it(shared_daemon):
    holder, witness = await connect(shared_daemon, "wanted"), await connect(shared_daemon, "caller-of-wanted")
    holder.mute()
    takers = [
        await ws_connect(shared_daemon.ws("/socket.io/?EIO=4&transport=websocket&serviceName=wanted")) for _ in range(6)
    ]
    for taker in takers:
        assert (await taker.receive()).startswith("0{")
        taker.send("40")

    said = [[] for _ in takers]

    async def listen(taker, packets):
        with contextlib.suppress(Closed):
            while True:
                packet = await taker.receive()
                if packet == "2":  # who has the name is asked whether it is alive
                    taker.send("3")
                else:
                    packets.append(packet)

    listening = [Deferred.fromCoroutine(listen(taker, packets)) for taker, packets in zip(takers, said, strict=True)]
    await eventually(lambda: all(said))
    witness.send(request("wanted", "1"))
    await eventually(lambda: any(len(packets) > 1 for packets in said))
    assert [packets[1] for packets in said if packets[0].startswith("40{")] == ['42["request",{"id":"1","event":"e"}]']
    assert len([packets for packets in said if packets[0].startswith('44{"message":"DUPLICATE_SERVICE_')]) == 5
    for socket in (*takers, witness):
        await socket.close()
    await gatherResults(listening)
    holder.abort()


# What arrived before a clean close


async def leave(socket, how):
    if how == "websocket":
        await socket.close()
    else:
        socket.send(how)
        await eventually(lambda: how == "41" or socket.closed().called)


@pytest.mark.parametrize("how", ["websocket", "1", "41"])
@pytest_twisted.ensureDeferred
async def test_requests_before_a_close_reach_their_target(shared_daemon, how):
    target, caller = await connect(shared_daemon, f"target-{how}"), await connect(shared_daemon, f"caller-{how}")
    for number in range(COUNT):
        caller.send(request(f"target-{how}", number))
    await leave(caller, how)
    assert await ids(target, "request") == list(range(COUNT))
    await target.close()
    await caller.close()


@pytest.mark.parametrize("how", ["websocket", "1", "41"])
@pytest_twisted.ensureDeferred
async def test_responses_before_a_close_reach_their_requester(shared_daemon, how):
    target, caller = await connect(shared_daemon, f"giver-{how}"), await connect(shared_daemon, f"asker-{how}")
    for number in range(COUNT):
        caller.send(request(f"giver-{how}", number))
    assert await ids(target, "request") == list(range(COUNT))
    for number in range(COUNT):
        target.send(response(number))
    await leave(target, how)
    assert await ids(caller, "response") == list(range(COUNT))
    await caller.close()
    await target.close()


@pytest.mark.parametrize("together", [True, False])
@pytest_twisted.ensureDeferred
async def test_packets_of_a_poller_before_its_close_take_effect(shared_daemon, together):
    name = f"poller-{together}"
    target, url = await connect(shared_daemon, f"target-of-{name}"), await poll(shared_daemon, name)
    packets = [request(f"target-of-{name}", number) for number in range(COUNT)]
    if together:
        await post(url, body="\x1e".join([*packets, "1"]).encode())
    else:
        await post(url, body="\x1e".join(packets).encode())
        await post(url, body=b"1")
    assert await ids(target, "request") == list(range(COUNT))
    assert (await get(url)).status == 400
    await target.close()


# Numbers


@pytest_twisted.ensureDeferred
async def test_numbers_beyond_the_doubles_do_not_pass(shared_daemon):
    target, caller = await connect(shared_daemon, "numbers"), await connect(shared_daemon, "number-caller")

    async def error():
        return json.loads((await caller.receive())[2:])[1]["response"]["error"]["code"]

    for number in ("1e309", "9" * 400):
        text = request("numbers", "1")
        caller.send(text.replace('"event"', f'"data":[{number}],"event"'))
        assert await error() == "INVALID_REQUEST"
        caller.send(text)
        assert await target.receive() == '42["request",{"id":"1","event":"e"}]'
        target.send(f'42["response",{{"id":"1","response":{number}}}]')
        assert await error() == "INVALID_RESPONSE"
    await target.close()
    await caller.close()
