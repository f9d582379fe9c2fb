"""Three real nodes on a Redis that goes back: what clients are told, and that nobody goes deaf."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, gatherResults

from tests.bridge.clients import Ganomede, OwlMeans
from tests.faults.clients import Failed, Micro
from tests.support.cluster import Cluster
from tests.support.daemon import WITH_METRICS, Daemon
from tests.support.eventually import pause
from tests.support.http_client import Answer, get
from tests.support.sentinel import SentinelSetup

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured, pytest.mark.timeout(300)]

ENVIRON = {
    **WITH_METRICS,
    "TXBROKER_DURABLE_TOPICS": "kept.>",
    "TXBROKER_ERROR_DELAY_SECONDS": "0.1",
    "TXBROKER_POLL_TIMEOUT_SECONDS": "600",
}
CHANNEL = "kept.a"
LEASE = 2.0  # seconds, where names are about


@pytest_twisted.async_yield_fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Three nodes and a Redis that keeps what it was told to save, and no more."""
    cluster = Cluster.new(**ENVIRON)
    cluster.redis.options = ["--appendonly", "no"]
    cluster.provoked.append("was lost")
    yield await cluster.start()
    await cluster.end()


@pytest_twisted.async_yield_fixture
async def pair() -> AsyncIterator[Cluster]:
    """Two nodes with short leases, and such a Redis."""
    cluster = Cluster.new(2, **ENVIRON, TXBROKER_NODE_LEASE_SECONDS=str(LEASE))
    cluster.redis.options = ["--appendonly", "no"]
    cluster.provoked.extend(["was lost", "Redis refuses"])
    yield await cluster.start()
    await cluster.end()


async def about(node: Daemon) -> dict[str, Any]:
    found: dict[str, Any] = (await get(node.admin_url + "/about")).json()
    return found


async def all_ready(nodes: list[Daemon]) -> None:
    for node in nodes:
        while (await get(node.admin_url + "/ready")).status != 200:
            await pause(0.05)


async def posted(node: Daemon, number: int) -> int:
    return int((await Ganomede(node).post(CHANNEL, json.dumps({"n": number})))["id"])


def polled(node: Daemon, after: int, epoch: str) -> Deferred[Answer]:
    return get(Ganomede(node).url("events", channel=CHANNEL, clientId="r", after=after, epoch=epoch))


async def post_some(nodes: list[Daemon]) -> None:
    for number in range(9):
        await posted(nodes[number % 3], number)


async def observers(nodes: list[Daemon]) -> list[OwlMeans]:
    clients = [await OwlMeans.join(node) for node in nodes]
    for client in clients:
        client.emulator.observe(CHANNEL)
        await client.subscribe(CHANNEL)
    return clients


async def observed(client: OwlMeans, upto: int) -> list[int]:
    """Return what *client* has observed when it has come to *upto*."""
    while not (seen := [payload["n"] for _, payload in client.emulator.heard]) or seen[-1] != upto:
        await client.event()
    return seen


async def check_everybody_goes_on(
    nodes: list[Daemon], clients: list[OwlMeans], before: str, last: int, times: int = 1
) -> None:
    """All nodes have one new epoch, tell it, and bring what is posted to all, each event once."""
    numbers = [100 + number for number, _ in enumerate(nodes)]
    for node, number in zip(nodes, numbers, strict=True):
        await posted(node, number)
    for client in clients:
        assert (await observed(client, numbers[-1]))[-len(numbers) :] == numbers
    (after,) = {(await about(node))["epoch"] for node in nodes}
    assert after != before
    for node in nodes:
        told = await polled(node, last, before)
        assert (told.status, told.headers["x-epoch"]) == (410, after)
        await node.until_metric("txbroker_store_went_back_total", times)
        assert any("data of Redis was lost" in line and after in line for line in node.output)
    events = (await polled(nodes[0], 0, after)).json()
    assert [event["id"] for event in events] == list(range(1, len(events) + 1))
    assert [event["data"]["n"] for event in events][-len(numbers) :] == numbers


@pytest_twisted.ensureDeferred
async def test_after_an_old_snapshot_there_is_one_new_epoch_and_all_go_on(cluster: Cluster) -> None:
    nodes = cluster.nodes
    clients = await observers(nodes)
    follower = await OwlMeans.join(nodes[1])
    await follower.ask("broker.subscribe", CHANNEL, {"from": "start"})
    before = (await about(nodes[0]))["epoch"]
    for number in range(10):
        await posted(nodes[number % 3], number)
        if number == 5:
            await cluster.redis.command("SAVE")
            file = Path(shutil.copy(cluster.redis.directory / "dump.rdb", cluster.redis.directory / "kept.rdb"))
    for client in clients:
        assert await observed(client, 9) == list(range(10))
    waiting = polled(nodes[0], 10, before)
    await nodes[0].until_metric("txbroker_polls_waiting", 1)
    assert (await polled(nodes[0], 0, before)).status == 200  # after that, the cursor of the first is stored
    await cluster.redis.kill()
    shutil.copy(file, cluster.redis.directory / "dump.rdb")
    await cluster.redis.start()
    await all_ready(nodes)
    assert (await waiting).status == 410
    await check_everybody_goes_on(nodes, clients, before, last=10)
    for client in clients:
        assert [payload["n"] for _, payload in client.emulator.heard] == [*range(10), 100, 101, 102]
        await client.socket.close()
    await check_follower_is_told(follower, before)


async def check_follower_is_told(follower: OwlMeans, before: str) -> None:
    """It has got ten events of the epoch *before*, then is told what is lost, and gets all of the new one."""
    events = [json.loads(await follower.event()) for _ in range(19)]
    assert [event["id"] for event in events] == [*range(1, 11), *range(1, 10)]
    assert {event["epoch"] for event in events[:10]} == {before}
    (epoch,) = {event["epoch"] for event in events[10:]}
    gap = json.loads(await follower.next("system"))["payload"]
    assert gap == {"topic": CHANNEL, "epoch": before, "from": 11, "to": None, "why": "epoch"}
    assert epoch != before
    await follower.socket.close()


async def joined(node: Daemon, service: str) -> Micro:
    """Return the *service* at *node*, which it has as soon as the one before has given it back."""
    while True:
        try:
            return await Micro.join(node, service)
        except Failed:
            await pause(0.05)


def _own_name(service: str, _: object) -> str:
    return service


async def answered(caller: Micro, service: str, performer: Micro) -> Any:
    """Return what *performer* answers as soon as it can be called by the name of its *service*."""
    while True:
        assert not performer.closed, "its name was taken from it"
        try:
            return await caller.ask(service, "ask")
        except Failed:
            await pause(0.1)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("away", [0.0, 1.25 * LEASE], ids=["leases-last", "leases-end"])
async def test_who_has_a_name_keeps_it_when_an_old_snapshot_has_it_as_held_at_another_node(
    pair: Cluster, away: float
) -> None:
    (one, two), redis = pair.nodes, pair.redis
    caller = await Micro.join(one, "caller")
    services = [f"svc{number}" for number in range(5)]
    before = [await Micro.join(one, service) for service in services]
    await redis.command("SAVE")
    file = Path(shutil.copy(redis.directory / "dump.rdb", redis.directory / "kept.rdb"))
    for client in before:
        client.drop()
    performers = {service: await joined(two, service) for service in services}
    for service, performer in performers.items():
        performer.performs["ask"] = partial(_own_name, service)
        assert await answered(caller, service, performer) == service
    await pause(max(0.0, LEASE - away))  # the leases of the snapshot have ended when it is there
    await redis.kill()
    shutil.copy(file, redis.directory / "dump.rdb")
    await pause(away)
    await redis.start()
    await all_ready([one, two])
    for service, performer in performers.items():
        assert await answered(caller, service, performer) == service
    assert not any(client.closed for client in (caller, *performers.values()))
    assert not any("another node holds" in line for line in pair.output)
    for client in (caller, *performers.values()):
        client.drop()


@pytest_twisted.ensureDeferred
async def test_after_a_failover_that_lost_something_all_go_on(short_path: Path, soak: bool) -> None:
    if not soak:
        pytest.skip("the like is done without daemons by tests/stores/test_redis_failover.py")
    setup = await SentinelSetup(short_path / "redis", "--appendonly", "no").start()
    nodes = [Daemon(short_path / f"node{number}", **ENVIRON, TXBROKER_NODE=f"node{number}") for number in range(3)]
    for node in nodes:
        node.directory.mkdir()
        node.environ["TXBROKER_STORE"] = setup.url
        node.provoked += ["was lost", "Redis refuses"]
    await gatherResults([Deferred.fromCoroutine(node.start()) for node in nodes])
    clients = await observers(nodes)
    before = (await about(nodes[0]))["epoch"]
    assert any("min-replicas-to-write" in warning for warning in (await about(nodes[0]))["warnings"])
    for times in (1, 2):
        before = (await about(nodes[0]))["epoch"]
        await post_some(nodes)
        await setup.until_replicas(1)
        await setup.lagging_failover(lambda: post_some(nodes))
        await all_ready(nodes)
        await check_everybody_goes_on(nodes, clients, before, last=1, times=times)
    for node in nodes:
        await node.stop()
        assert node.troubles() == []
    await setup.end()
