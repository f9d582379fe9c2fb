"""Who answers a streamed request waits for who reads the answers; what is shared or limited holds over all nodes."""

from __future__ import annotations

import json

import pytest
import pytest_twisted

from tests.bridge.clients import OwlMeans
from tests.protocols.owlmeans_emulator import HOLD, Failed

PIECES = 200
PIECE = "x" * 100_000  # 20 MB in all: more than the buffers of the kernel take on the whole way


@pytest.fixture(scope="module")
def daemon_environ():
    return {"TXBROKER_SEND_QUEUE_BYTES": "65536"}


async def responder(join, action):
    owl = await join(OwlMeans)
    await owl.ask("broker.acknowledge", action)
    return owl


def ask(owl, action):
    owl.say(json.dumps({"type": "request", "id": "r", "payload": {"action": action}}))


@pytest_twisted.ensureDeferred
async def test_all_responses_reach_a_slow_requester_in_order(join):
    slow, sends, other = await join(OwlMeans), await responder(join, "stream"), await join(OwlMeans)
    ask(slow, "stream")
    id = json.loads(await sends.next("request"))["id"]
    slow.socket.transport.pauseProducing()
    for number in range(PIECES):
        sends.say(f'{{"type":"response","id":"{id}","payload":[{number},"{PIECE}"]}}')
    for _ in range(200):  # meanwhile the broker serves the others
        await other.sync()
    assert sends.socket.transport.dataBuffer or sends.socket.transport._tempDataBuffer
    slow.socket.transport.resumeProducing()
    numbers = [json.loads(await slow.next("response"))["payload"][0] for _ in range(PIECES)]
    assert numbers == list(range(PIECES))
    await sends.sync()


@pytest_twisted.ensureDeferred
async def test_a_requester_that_goes_away_lets_the_responder_go_on(join):
    slow, sends = await join(OwlMeans), await responder(join, "gone")
    ask(slow, "gone")
    id = json.loads(await sends.next("request"))["id"]
    slow.socket.transport.pauseProducing()
    for number in range(PIECES):
        sends.say(f'{{"type":"response","id":"{id}","payload":[{number},"{PIECE}"]}}')
    slow.socket.abort()
    await sends.sync()


async def worker(join, method, **options):
    owl = await join(OwlMeans)
    owl.emulator.perform(method, lambda *_: HOLD)
    await owl.ask("broker.register", method, options)
    return owl


@pytest_twisted.ensureDeferred
async def test_calls_go_to_the_least_busy_of_all_nodes(join):
    workers = [await worker(join, "busy.least", mode="leastbusy") for _ in range(3)]
    callers = [await join(OwlMeans) for _ in range(3)]
    for number in range(9):
        callers[number % 3].begin("busy.least", id=str(number), timeout=0)
        await callers[number % 3].sync()
        await arrived(workers, number + 1, *callers)
    assert [len(each.emulator.of("call")) for each in workers] == [3, 3, 3]


async def arrived(workers, calls, *callers):
    """Return when the workers have got so many *calls* in all; none of the *callers* may have been refused."""
    while sum(len(each.emulator.of("call")) for each in workers) < calls:
        for each in (*workers, *callers):
            await each.sync()
        refused = [error for each in callers for error in each.emulator.of("error")]
        assert not refused, (refused, [len(each.emulator.of("call")) for each in workers])


@pytest_twisted.ensureDeferred
async def test_callers_are_told_when_everybody_on_all_nodes_is_busy(join):
    workers = [await worker(join, "busy.limit", mode="roundrobin", max_in_flight=1) for _ in range(3)]
    caller = await join(OwlMeans)
    for number in range(3):
        caller.begin("busy.limit", id=str(number), timeout=0)
    await arrived(workers, 3, caller)
    assert [len(each.emulator.of("call")) for each in workers] == [1, 1, 1]
    with pytest.raises(Failed, match=r"message:busy:busy\.limit"):
        await caller.ask("busy.limit")
    workers[1].emulator.answer(workers[1].emulator.of("call")[0]["id"], 1)
    workers[1].flush()
    await workers[1].sync()
    caller.begin("busy.limit", id="4", timeout=0)
    await arrived(workers, 4)
    assert len(workers[1].emulator.of("call")) == 2


@pytest_twisted.ensureDeferred
async def test_cancel_reaches_the_callee_on_whatever_node(join):
    callee, caller = await worker(join, "busy.cancel"), await join(OwlMeans)
    caller.begin("busy.cancel", id="mine")
    id = json.loads(await callee.next("call"))["id"]
    assert await caller.ask("broker.cancel", "mine") == {"cancelled": "mine"}
    assert json.loads(await callee.next("system")) == {"type": "system", "event": "broker.cancel", "id": id}
