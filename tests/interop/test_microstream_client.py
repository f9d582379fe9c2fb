"""The real socket.io-client, doing what a MicroStream service does, against a spawned daemon."""

from __future__ import annotations

import json
import os
import signal
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP4ServerEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone

from tests.support.eventually import TIMEOUT, pause
from tests.support.http_client import get, post
from tests.support.ws_client import Refused, ws_connect


@pytest.fixture(scope="module")
def daemon_environ():
    return {
        "TXBROKER_PROTOCOLS": "microstream",
        "TXBROKER_STORE": "memory:",
        "TXBROKER_SLOW_GRACE_SECONDS": "3",
    }


async def report(program, word, timeout=TIMEOUT):
    """Return the value of *word* in the next line of *program* that has it."""
    line = await program.line(lambda line: f'"{word}"' in line, timeout)
    return json.loads(line)[word]


async def raw_service(daemon, name):
    """Return a WebSocket that is registered as *name*."""
    socket = await ws_connect(daemon.ws(f"/socket.io/?EIO=4&transport=websocket&serviceName={name}"))
    assert (await socket.receive()).startswith("0{")
    socket.send("40")
    assert (await socket.receive()).startswith("40{")
    return socket


async def serves(socket, name):
    """Whether the hub brings a request of the service *name* to itself, and the answer back."""
    socket.send(f'42["request",{{"targetService":"{name}","payload":{{"id":"i","event":"e"}}}}]')
    assert await socket.receive() == '42["request",{"id":"i","event":"e"}]'
    socket.send('42["response",{"id":"i","response":1}]')
    return await socket.receive() == '42["response",{"id":"i","response":1}]'


# The shipped way of working


@pytest.mark.parametrize("transports", ["polling", "websocket", "polling,websocket"])
@pytest_twisted.ensureDeferred
async def test_two_services_say_everything_to_each_other(shared_daemon, node, transports):
    lines = await node.run("microstream_round.js", shared_daemon.url, transports)
    assert json.loads(lines[-1]) == {"done": True, "transport": transports.split(",")[-1]}


@pytest_twisted.ensureDeferred
async def test_the_second_of_one_name_ends_with_status_1(shared_daemon, node):
    first = node.start("microstream_service.js", shared_daemon.url, "dup")
    await report(first, "connected")
    second = node.start("microstream_service.js", shared_daemon.url, "dup")
    assert await report(second, "duplicate") == {
        "code": "DUPLICATE_SERVICE_REGISTRATION",
        "message": "Duplicate Service Registration Name! A service with the same name is already registered.",
        "errorData": {"serviceName": "dup"},
    }
    assert await second.exit() == 1
    first.say('{"target":"dup","event":"echo","data":5}')
    assert await report(first, "response") == {"got": 5}


@pytest_twisted.ensureDeferred
async def test_services_come_back_after_a_restart(daemon, node):
    service = node.start("microstream_service.js", daemon.url, "phoenix")
    await report(service, "connected")
    await daemon.restart()
    # Never "io server disconnect", after which the client would stay away.  A client that is
    # too busy to answer the close frame within a second is reset.
    assert await report(service, "disconnected") in ("transport close", "transport error")
    await report(service, "connected")
    service.say('{"target":"phoenix","event":"echo","data":5}')
    assert await report(service, "response") == {"got": 5}


@pytest_twisted.ensureDeferred
async def test_a_token_travels_in_the_url_and_stays_out_of_the_log(start_daemon, node):
    daemon = await start_daemon(TXBROKER_PROTOCOLS="microstream", TXBROKER_API_SECRET="s3cret-of-the-hub")
    good = node.start("microstream_service.js", f"{daemon.url}/?serviceName=good&token=s3cret-of-the-hub", "good")
    await report(good, "connected")
    for token in ("", "&token=s3cret-wrong"):
        bad = node.start("microstream_service.js", f"{daemon.url}/?serviceName=bad{token}", "bad")
        assert await report(bad, "refused") == "UNAUTHORIZED"
    await daemon.stop()
    assert not [line for line in daemon.output if "s3cret" in line]


# Links that break


class Cut(Protocol):
    """One direction of a connection through a cable that can be cut without a word."""

    other: Cut | None = None
    silent = False

    def __init__(self):
        self.early = []

    def dataReceived(self, data):
        if self.other is None:
            self.early.append(data)
        elif not self.silent:
            self.other.transport.write(data)

    def connectionLost(self, reason=connectionDone):
        if self.other is not None and not self.silent:
            self.other.transport.loseConnection()


class Cable(Factory):
    """A port whose connections lead to *port*."""

    url: str

    def __init__(self, port):
        self.target = TCP4ClientEndpoint(reactor, "127.0.0.1", port)
        self.pairs = []
        self.dark = []

    def buildProtocol(self, addr):
        near = Cut()
        self.target.connect(Factory.forProtocol(Cut)).addCallback(self.joined, near)
        return near

    def joined(self, far, near):
        near.other, far.other = far, near
        self.pairs.append((near, far))
        for data in near.early:
            far.transport.write(data)

    def cut(self):
        """The client sees its connections end; the server sees nothing at all."""
        for near, far in self.pairs:
            near.silent = far.silent = True
            near.transport.abortConnection()
            self.dark.append(far)
        self.pairs = []

    def end(self):
        for end in (*self.dark, *(far for _, far in self.pairs)):
            end.transport.abortConnection()


@pytest_twisted.async_yield_fixture
async def cable(shared_daemon):
    cable = Cable(shared_daemon.port)
    port: Any = await TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1").listen(cable)
    cable.url = f"http://127.0.0.1:{port.getHost().port}"
    yield cable
    await port.stopListening()
    cable.end()


@pytest.mark.parametrize("transports", ["polling,websocket", "polling"])
@pytest_twisted.ensureDeferred
async def test_a_cut_link_does_not_cost_the_name(cable, node, transports):
    service = node.start("microstream_service.js", cable.url, f"cut-{len(transports)}", transports)
    await report(service, "connected")
    service.say(json.dumps({"target": f"cut-{len(transports)}", "event": "echo", "data": 1}))
    await report(service, "response")
    while not any("disconnected" in line for line in service.lines):
        cable.cut()  # by polling there may be nothing to cut just now
        await pause(0.05)
    await report(service, "connected")
    service.say(json.dumps({"target": f"cut-{len(transports)}", "event": "echo", "data": 2}))
    assert await report(service, "response") == {"got": 2}
    assert service.status is None


@pytest.mark.parametrize(
    "limits",
    [
        {"TXBROKER_PING_SECONDS": "0.5", "TXBROKER_PONG_SECONDS": "4"},
        {"TXBROKER_MICROSTREAM_IDLE_SECONDS": "3"},
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_service_removed_for_silence_comes_back(start_daemon, node, limits):
    daemon = await start_daemon(TXBROKER_PROTOCOLS="microstream", **limits)
    service = node.start("microstream_service.js", daemon.url, "sleeper")
    for _ in range(2):  # the second is reported when the first has been sent
        await report(service, "heartbeat")
    witness = await raw_service(daemon, "witness")
    os.kill(service.pid, signal.SIGSTOP)
    code = ""
    while code != "TARGET_SERVICE_NOT_FOUND":
        witness.send('42["request",{"targetService":"sleeper","payload":{"id":"x","event":"none"}}]')
        frame = await witness.receive()
        while not frame.startswith("42"):
            witness.send("3")
            frame = await witness.receive()
        code = json.loads(frame[2:])[1]["response"]["error"]["code"]
        assert code in ("TARGET_SERVICE_NOT_FOUND", "TARGET_SERVICE_DISCONNECTED", "DUPLICATE_REQUEST_ID")
    os.kill(service.pid, signal.SIGCONT)
    assert await report(service, "disconnected") != "io server disconnect"
    await report(service, "connected")
    service.say('{"target":"sleeper","event":"echo","data":5}')
    assert await report(service, "response") == {"got": 5}
    await witness.close()


@pytest_twisted.ensureDeferred
async def test_a_killed_target_answers_its_open_requests_at_once(shared_daemon, node):
    asker = node.start("microstream_service.js", shared_daemon.url, "asker")
    target = node.start("microstream_service.js", shared_daemon.url, "target")
    await report(asker, "connected")
    await report(target, "connected")
    asker.say('{"target":"target","event":"hang"}')
    asker.say('{"target":"target","event":"echo","data":1}')
    await report(asker, "response")
    target.signal(signal.SIGKILL)
    assert (await report(asker, "error"))["code"] == "TARGET_SERVICE_DISCONNECTED"


# Hostile ones


@pytest.mark.parametrize(
    "frame",
    [
        '42["response",{"id":"nope","response":1}]',
        '42["request"]',
        '42["response"]',
        '42["heartbeat"]',
        '42["request",{"targetService":"victim"}]',
        '42["request",{"targetService":"victim","payload":null}]',
        '42["response",{"id":"i","response":{"forged":true}}]',
        '42["heartbeat",{"serviceName":"victim"}]',
        "4abc",
        "42" + "[" * 100_000,
        "4" + "x" * 1_000_000,
        "4" + "x" * 2_000_000,
        '4511-["request"]',
        b"\x00\xff",
        '42["request",{"targetService":"\\ud800","payload":{"id":"\\ud800","event":"\\ud800"}}]',
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_hostile_frame_leaves_the_hub_serving(shared_daemon, frame):
    victim = await raw_service(shared_daemon, "victim")
    hostile = await raw_service(shared_daemon, "hostile")
    hostile.send(frame)
    assert await serves(victim, "victim")
    await hostile.close()
    await victim.close()


@pytest_twisted.ensureDeferred
async def test_many_open_requests_are_bounded_and_end_with_their_caller(shared_daemon):
    target, caller = await raw_service(shared_daemon, "silent"), await raw_service(shared_daemon, "greedy")
    for number in range(10_001):
        caller.send(f'42["request",{{"targetService":"silent","payload":{{"id":"{number}","event":"e"}}}}]')
    answer = json.loads((await caller.receive())[2:])[1]
    assert (answer["id"], answer["response"]["error"]["code"]) == ("10000", "RATE_LIMITED")
    await caller.close()
    await target.close()
    witness = await raw_service(shared_daemon, "greedy")
    assert await serves(witness, "greedy")
    await witness.close()


@pytest_twisted.ensureDeferred
async def test_one_that_does_not_read_is_let_go(shared_daemon):
    target, caller = await raw_service(shared_daemon, "deaf"), await raw_service(shared_daemon, "talker")
    target.mute()
    text = "x" * 900_000
    for number in range(20):
        caller.send(
            f'42["request",{{"targetService":"deaf","payload":{{"id":"{number}","event":"e","data":"{text}"}}}}]'
        )
        await pause(0.01)
    answer = await caller.receive()
    while answer == "2":
        answer = await caller.receive()
    assert "TARGET_SERVICE_DISCONNECTED" in answer
    target.abort()
    await caller.close()


@pytest_twisted.ensureDeferred
async def test_guessed_sids_are_unknown(shared_daemon):
    path = "/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAAAAAAA"
    assert (await get(shared_daemon.url + path)).json()["code"] == 1
    assert (await post(shared_daemon.url + path, body=b"40")).json()["code"] == 1
    with pytest.raises(Refused):
        await ws_connect(shared_daemon.ws(path.replace("polling", "websocket")))
