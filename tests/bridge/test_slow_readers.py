"""A client that does not read costs itself its connection, and nobody else anything."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import pytest_twisted

from tests.bridge.clients import Client, Ganomede, Hpkv, MicroStream, OwlMeans, ThinWs
from tests.support.daemon import Daemon, clean_environ
from tests.support.eventually import TIMEOUT
from tests.support.http_client import get, request
from tests.support.processes import Program

READERS = 10  # one of them dead
MESSAGE = 100_000  # bytes
MESSAGES = 60  # 60 MB to all; of the 6 MB to the dead one the buffers of the kernel take more than half
MAX_GROWTH = 32 << 20  # bytes by which the broker may grow
BURST = 13_000_000  # bytes
SUPPORT = Path(__file__).parent.parent / "support"


@pytest.fixture(scope="module")
def daemon_environ():
    return {
        "TXBROKER_STORE": "memory:",
        "TXBROKER_SEND_QUEUE_BYTES": "65536",
    }


def peak(daemon: Daemon) -> int:
    """Return the most memory that the daemon has ever had, in bytes."""
    status = Path(f"/proc/{daemon.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


@attrs.frozen
class Fanout:
    """How a message comes to all readers of a dialect: one that joins, and what they are sent."""

    reader: Callable[[Daemon, int], Awaitable[Client]]
    kind: str
    publish: Callable[[Daemon, str], Awaitable[None]]


async def thinws_reader(daemon: Daemon, number: int) -> Client:
    thin = await ThinWs.join(daemon)
    await thin.enter("slow.thinws")
    return thin


async def hpkv_reader(daemon: Daemon, number: int) -> Client:
    return await Hpkv.watcher(daemon, "slow.hpkv")


def post_to(topic: str) -> Callable[[Daemon, str], Awaitable[None]]:
    async def publish(daemon: Daemon, text: str) -> None:
        await Ganomede(daemon).post(topic, json.dumps([text]))

    return publish


async def set_key(daemon: Daemon, text: str) -> None:
    hpkv = await Hpkv.join(daemon)
    await hpkv.set("slow.hpkv", text)
    await hpkv.socket.close()


FANOUTS = {
    "thinws": Fanout(thinws_reader, "message", post_to("slow.thinws")),
    "hpkv": Fanout(hpkv_reader, "notification", set_key),
}


@pytest.mark.parametrize("dialect", FANOUTS)
@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_a_dead_reader_among_ten_is_closed_with_1013(shared_daemon, dialect):
    fanout = FANOUTS[dialect]
    dead, *others = [await fanout.reader(shared_daemon, number) for number in range(READERS)]
    before = peak(shared_daemon)
    dead.socket.mute()
    for number in range(MESSAGES):
        text = f"{number} " + "x" * MESSAGE
        await fanout.publish(shared_daemon, text)
        for reader in others:
            assert text in await reader.next(fanout.kind)
    assert peak(shared_daemon) - before < MAX_GROWTH
    dead.socket.listen()
    assert (await dead.socket.closed())[0] == 1013
    for reader in others:
        await reader.socket.close()


@pytest_twisted.ensureDeferred
async def test_a_client_that_does_not_read_what_is_stored_costs_no_memory(start_daemon, soak):
    # Without pings: on a busy machine it does not read for so long that it would be taken for dead.
    limits = {"TXBROKER_SEND_QUEUE_BYTES": "65536", "TXBROKER_SLOW_GRACE_SECONDS": "0.1", "TXBROKER_PING_SECONDS": "0"}
    daemon = await start_daemon(**limits)
    dead = await OwlMeans.join(daemon)
    await dead.subscribe("slow.disk")
    dead.socket.mute()
    before, messages = peak(daemon), 2000 if soak else MESSAGES
    for number in range(messages):
        await Ganomede(daemon).post("slow.disk", json.dumps([f"{number} " + "x" * MESSAGE]))
    assert peak(daemon) - before < MAX_GROWTH
    dead.socket.listen()
    assert [json.loads(await dead.event())["id"] for _ in range(messages)] == list(range(1, messages + 1))
    assert peak(daemon) - before < MAX_GROWTH
    await dead.socket.close()


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_a_native_client_is_told_how_many_other_events_it_did_not_get(shared_daemon):
    dead, publisher = await OwlMeans.join(shared_daemon), await OwlMeans.join(shared_daemon)
    await dead.subscribe("slow.live")
    dead.socket.mute()
    for number in range(MESSAGES):
        publisher.notify("slow.live", json.dumps([number, "x" * MESSAGE]))
    await publisher.sync()
    dead.socket.listen()
    publisher.notify("slow.live", "[-1]")
    numbers = []
    while -1 not in numbers:
        numbers.append(json.loads(await dead.event())["payload"][0])
    gaps = [json.loads(await dead.next("system"))["payload"] for _ in range(dead.count("system"))]
    assert numbers[:-1] == sorted(numbers[:-1])
    assert gaps == [{"topic": "slow.live", "count": MESSAGES + 1 - len(numbers)}]
    for client in (dead, publisher):
        await client.socket.close()


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_a_dead_service_among_ten_is_closed_with_1013(shared_daemon):
    services = [await MicroStream.join(shared_daemon, f"slow-{number}") for number in range(READERS)]
    caller = await OwlMeans.join(shared_daemon)
    before = peak(shared_daemon)
    services[0].socket.mute()
    for number in range(MESSAGES):
        argument = json.dumps(f"{number} " + "x" * MESSAGE)
        caller.begin("slow-0.take", argument)
        for index, service in enumerate(services[1:], 1):
            caller.begin(f"slow-{index}.take", argument)
            assert f'"data":{argument}}}' in await service.serve(str(number))
    assert peak(shared_daemon) - before < MAX_GROWTH
    services[0].socket.listen()
    assert (await services[0].socket.closed())[0] == 1013
    answers = [json.loads(await caller.next("answer")) for _ in range(MESSAGES * READERS)]
    failures = [answer["payload"] for answer in answers if answer["type"] == "error"]
    assert len(failures) == MESSAGES
    assert set(failures) == {"SocketErrorConnection|||socket:connection:lost:slow-0.take|||"}
    for client in (*services[1:], caller):
        await client.socket.close()


@pytest.mark.alone
@pytest_twisted.ensureDeferred
async def test_a_service_that_does_not_poll_any_more_is_let_go(shared_daemon):
    url = f"{shared_daemon.url}/socket.io/?EIO=4&transport=polling&serviceName=slow-poller"
    url += "&sid=" + json.loads((await get(url)).body[1:])["sid"]
    assert (await request("POST", url, body=b"40")).status == 200
    assert (await get(url)).body.startswith(b"40{")
    caller = await OwlMeans.join(shared_daemon)
    before = peak(shared_daemon)
    for _ in range(MESSAGES):
        caller.begin("slow-poller.take", json.dumps("x" * MESSAGE))
    for _ in range(MESSAGES):
        assert '"type":"error"' in await caller.next("answer")
    assert peak(shared_daemon) - before < MAX_GROWTH
    assert (await get(url)).status == 400
    await caller.socket.close()


@pytest_twisted.ensureDeferred
async def test_one_that_never_reads_again_is_cut_off(start_daemon):
    daemon = await start_daemon(TXBROKER_SEND_QUEUE_BYTES="65536", TXBROKER_SLOW_GRACE_SECONDS="0.1")
    dead, observer = await OwlMeans.join(daemon), await OwlMeans.join(daemon)
    session = (await dead.ask("broker.whoami"))["session"]
    await observer.subscribe("broker.client.offline")
    await dead.ask("broker.set", "large", "x" * MESSAGE)
    dead.socket.mute()
    for _ in range(MESSAGES):
        dead.begin("broker.get", '"large"')
    assert json.loads(await observer.event())["payload"]["session"] == session
    dead.socket.abort()
    await observer.socket.close()


@pytest_twisted.ensureDeferred
async def test_near_the_limit_of_memory_publishing_is_refused_until_somebody_reads(start_daemon):
    daemon = await start_daemon(TXBROKER_SEND_QUEUE_BYTES="100000000", TXBROKER_MEMORY_LIMIT_BYTES="2000000")
    dead = await OwlMeans.join(daemon)
    await dead.subscribe("crowd")
    dead.socket.mute()
    said = {"clientId": "w", "channel": "crowd", "from": "w", "type": "t", "data": ["x" * MESSAGE]}
    statuses = []
    while 429 not in statuses:
        statuses.append((await Ganomede(daemon).post_raw(json.dumps(said).encode())).status)
        assert len(statuses) < 300
    ready, health = await get(f"{daemon.url}/ready"), await get(f"{daemon.url}/health")
    assert (set(statuses[:-1]), ready.status, health.status) == ({200}, 503, 200)
    assert "TXBROKER_MEMORY_LIMIT_BYTES" in ready.text
    dead.socket.listen()
    for _ in statuses[:-1]:
        await dead.event()
    await Ganomede(daemon).post("crowd", "[1]")
    assert '"payload":[1]' in await dead.event()
    await dead.socket.close()


@pytest_twisted.ensureDeferred
async def test_whoever_does_not_read_the_most_is_closed_above_the_limit_of_memory(start_daemon):
    daemon = await start_daemon(TXBROKER_SEND_QUEUE_BYTES="100000000", TXBROKER_MEMORY_LIMIT_BYTES="2000000")
    dead, alive = await OwlMeans.join(daemon), await OwlMeans.join(daemon)
    await dead.ask("broker.set", "large", "x" * MESSAGE)
    dead.socket.mute()
    for _ in range(200):
        dead.begin("broker.get", json.dumps("large"))
    assert (await alive.ask("broker.get", "large"))["value"] == "x" * MESSAGE
    await daemon.program.line(lambda line: "bytes were held" in line)
    dead.socket.listen()
    # 1006 where what the kernel is being given would have been too much by itself.
    assert (await dead.socket.closed())[0] in (1013, 1006)
    await alive.ask("broker.set", "large", "small")
    await alive.socket.close()


@pytest.mark.parametrize("stopped", [False, True], ids=["reading", "not running meanwhile"])
@pytest_twisted.ensureDeferred
async def test_a_process_that_does_nothing_but_read_is_not_slow(start_daemon, stopped):
    daemon = await start_daemon(TXBROKER_SLOW_GRACE_SECONDS=str(TIMEOUT))
    thin = await ThinWs.join(daemon)
    await thin.enter("flood")
    subscribe = json.dumps({"type": "subscribe", "roomID": "flood", "messageID": 1, "connectionID": "reader"})
    command = [sys.executable, SUPPORT / "only_reads.py", daemon.ws("/thinws"), subscribe, '"last"}']
    reader = Program.start(command, env=clean_environ(daemon.directory), cwd=daemon.directory)
    await reader.line(lambda line: line == "ready")
    if stopped:
        reader.signal(signal.SIGSTOP)
    message = json.dumps({"type": "message", "roomID": "flood", "message": "x" * MESSAGE})
    thin.socket.raw(unmasked(message) * (BURST // MESSAGE))
    thin.say('{"type":"message","roomID":"flood","message":"last"}')
    while not (await thin.message()).endswith('"last"}'):  # the publisher is in the room too
        pass
    if stopped:
        reader.signal(signal.SIGCONT)
    said = json.loads(await reader.line(lambda line: line.startswith("{")))
    assert (said["closed"], said["bytes"] >= BURST) == (None, True)
    await reader.exit()
    await thin.socket.close()


def unmasked(text: str) -> bytes:
    """Return *text*, which is long, as the frame of a client, with a mask of zeros."""
    payload = text.encode()
    return b"\x81\xff" + len(payload).to_bytes(8, "big") + bytes(4) + payload
