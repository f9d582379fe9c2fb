"""Three real nodes on a real Redis: what they keep, what they survive, what they say meanwhile."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from tests.bridge.clients import Ganomede, Hpkv, MicroStream, OwlMeans, ThinWs
from tests.faults import fault_loop
from tests.support.cluster import Cluster
from tests.support.daemon import WITH_METRICS, Daemon
from tests.support.eventually import TIMEOUT, pause
from tests.support.http_client import Answer, get

ENVIRON = {"TXBROKER_DURABLE_TOPICS": "kept.>", "TXBROKER_ERROR_DELAY_SECONDS": "0.1"}


@pytest_twisted.async_yield_fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Three nodes and a Redis for one test."""
    cluster = await Cluster.new(**ENVIRON).start()
    yield cluster
    await cluster.end()


@pytest_twisted.async_yield_fixture
async def cluster_of_long_polls() -> AsyncIterator[Cluster]:
    """The same, where a poll outlasts any absence of Redis: at its end the store would be read."""
    cluster = await Cluster.new(**ENVIRON, **WITH_METRICS, TXBROKER_POLL_TIMEOUT_SECONDS="600").start()
    yield cluster
    await cluster.end()


pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]


def run(work: Any) -> Deferred[Any]:
    return Deferred.fromCoroutine(work)


async def ready(daemon: Daemon) -> Answer:
    return await get(daemon.admin_url + "/ready")  # where reasons are told in full


async def all_ready(cluster: Cluster, timeout: float = TIMEOUT) -> None:
    end = reactor.seconds() + timeout
    for node in cluster.nodes:
        while (await ready(node)).status != 200:
            assert reactor.seconds() < end, f"not ready within {timeout} s"
            await pause(0.1)


class Follower:
    """Reads a channel by its stored cursor, each poll at the next node."""

    def __init__(self, cluster: Cluster, channel: str, client: str) -> None:
        self.api, self.channel, self.client = Ganomede(cluster), channel, client  # type: ignore[arg-type]
        self.events: list[Any] = []

    @property
    def ids(self) -> list[int]:
        return [event["id"] for event in self.events]

    async def follow(self, upto: int) -> None:
        """Read until *upto* events have come, whatever goes wrong in between."""
        while len(self.events) < upto:
            query = {"after": self.events[-1]["id"]} if self.events else {}
            url = self.api.url("events", channel=self.channel, clientId=self.client, limit=1000, **query)
            answer = await get(url)
            if answer.status == 200:
                self.events += answer.json()


async def post(cluster: Cluster, channel: str, number: int) -> int:
    posted = await Ganomede(cluster).post(channel, json.dumps({"n": number}))  # type: ignore[arg-type]
    return int(posted["id"])


# Order.


@pytest_twisted.ensureDeferred
async def test_readers_on_all_nodes_see_all_of_many_writers_without_a_hole(cluster: Cluster, soak: bool) -> None:
    posts = 150 if soak else 40  # of each of 20 writers
    readers = [Follower(cluster, "busy", f"reader{number}") for number in range(3)]
    following = [run(reader.follow(20 * posts)) for reader in readers]
    acknowledged: list[int] = []

    async def write(writer: int) -> None:
        for number in range(posts):
            acknowledged.append(await post(cluster, "busy", writer * 1000 + number))

    await gatherResults([run(write(writer)) for writer in range(20)])
    await gatherResults(following)
    ids = list(range(1, 20 * posts + 1))
    assert sorted(acknowledged) == ids
    for reader in readers:
        assert reader.ids == ids
        assert [event["data"] for event in reader.events] == [event["data"] for event in readers[0].events]


@pytest_twisted.ensureDeferred
async def test_a_cut_of_the_subscriptions_loses_no_durable_event(cluster: Cluster) -> None:
    publisher, *observers = [await OwlMeans.join(node) for node in cluster.nodes]
    for observer in observers:
        observer.emulator.observe("kept.a")
        await observer.subscribe("kept.a")
    for number in range(1000):
        publisher.notify("kept.a", str(number))
        if number in (250, 500, 750):
            await publisher.sync()
            await cluster.redis.command("CLIENT", "KILL", "TYPE", "pubsub")
    for observer in observers:
        for _ in range(1000):
            await observer.event()
        assert [payload for _, payload in observer.emulator.heard] == list(range(1000))
    for client in (publisher, *observers):
        await client.socket.close()


# Dialects across nodes.


@pytest_twisted.ensureDeferred
async def test_members_of_a_room_on_three_nodes_get_each_message_once(cluster: Cluster) -> None:
    members = [await ThinWs.join(node) for node in cluster.nodes]
    for member in members:
        await member.enter("room")
    for number, member in enumerate(members):
        await member.send("room", str(number))
    for member in members:
        texts = [json.loads(await member.message())["message"] for _ in members]
        assert texts == [0, 1, 2]
    await members[0].send("room", "3")  # what came twice would come before it
    for member in members:
        assert json.loads(await member.message())["message"] == 3
        assert member.count("message") == 0
        await member.socket.close()


@pytest_twisted.ensureDeferred
async def test_increments_from_three_nodes_add_up(cluster: Cluster) -> None:
    clients = [await Hpkv.join(node) for node in cluster.nodes]

    async def add(client: Hpkv) -> None:
        for _ in range(100):
            await client.increment("counter", 1)

    await gatherResults([run(add(client)) for client in clients])
    assert (await clients[0].get("counter"))["value"] in (300, "300")
    for client in clients:
        await client.socket.close()


@pytest_twisted.ensureDeferred
async def test_a_request_crosses_nodes_and_ends_when_the_callee_s_node_dies(cluster: Cluster) -> None:
    one, two, _ = cluster.nodes
    caller, callee = await MicroStream.join(one, "caller"), await MicroStream.join(two, "callee")
    answered = run(caller.call("callee", "echo", '{"a":1}'))
    await callee.serve('{"b":2}')
    assert await answered == '{"b":2}'
    pending = run(caller.error("callee", "never"))
    await callee.request()
    await two.kill()
    assert (await pending)["code"] == "TARGET_SERVICE_DISCONNECTED"
    again = await MicroStream.join(one, "callee")
    for client in (caller, again):
        await client.socket.close()


@pytest_twisted.ensureDeferred
async def test_a_service_whose_node_died_comes_back_at_once_on_another(cluster: Cluster) -> None:
    one, two, _ = cluster.nodes
    await MicroStream.join(two, "callee")
    await two.kill()
    again = await MicroStream.join(one, "callee")
    await again.socket.close()


@pytest_twisted.ensureDeferred
async def test_a_poll_with_the_sid_of_another_node_is_refused(cluster: Cluster) -> None:
    one, two, _ = cluster.nodes
    path = "/socket.io/?EIO=4&transport=polling"
    opened = await get(f"{one.url}{path}&serviceName=me")
    sid = json.loads(opened.text[1:])["sid"]
    assert sid.startswith("node0.")
    answer = await get(f"{two.url}{path}&sid={sid}")
    assert (answer.status, answer.json()["code"]) == (400, 1)


# When Redis is not well.

WireError = Callable[[Cluster], Awaitable[Any]]


@pytest_twisted.ensureDeferred
async def test_nodes_that_start_before_redis_wait_for_it() -> None:
    cluster = Cluster.new(TXBROKER_ERROR_DELAY_SECONDS="0.1")
    await cluster.redis.start()
    await cluster.redis.kill()
    await cluster.start_nodes()
    answer = await ready(cluster.nodes[0])
    assert answer.status == 503
    assert "redis.sock" in answer.text
    refused = await Ganomede(cluster).post_raw(  # type: ignore[arg-type]
        b'{"clientId":"w","secret":"any","channel":"c","from":"s","type":"T"}'
    )
    assert (refused.status, refused.json()["code"]) == (503, "ServiceUnavailable")
    await cluster.redis.start()
    await all_ready(cluster)
    assert await post(cluster, "c", 1) == 1
    await cluster.end()


@pytest_twisted.ensureDeferred
async def test_clients_stay_and_everything_goes_on_after_redis_was_gone(cluster_of_long_polls: Cluster) -> None:
    cluster = cluster_of_long_polls
    one, two, three = cluster.nodes
    owl, thin, hpkv = await OwlMeans.join(one), await ThinWs.join(two), await Hpkv.join(three)
    service, caller = await MicroStream.join(one, "svc"), await MicroStream.join(two, "caller")
    await owl.subscribe("kept.x")
    await thin.enter("kept.x")
    assert await post(cluster, "kept.x", 1) == 1
    await owl.event()
    await thin.message()
    for number in range(2):
        await post(cluster, "other", number)
    polling = Ganomede(three).poll("kept.x", after=1)
    await three.until_metric("txbroker_polls_waiting", 1)
    # A node asks Redis in order: when a later poll of it is answered, the first has found nothing.
    assert [event["id"] for event in (await Ganomede(three).poll("other", after=1)).json()] == [2]
    await cluster.redis.kill()
    await eventually_not_ready(cluster)
    assert not polling.called
    answer = await hpkv.do(2, "k", "v")
    assert answer["code"] == 500
    assert json.loads(await thin_refusal(thin))["type"] == "error"
    await cluster.redis.start()
    await all_ready(cluster)
    assert await post(cluster, "kept.x", 2) == 2
    assert json.loads(await owl.event())["id"] == 2
    await thin.message()
    assert [event["id"] for event in (await polling).json()] == [2]
    await hpkv.set("k", "v")
    await eventually_answers(caller, service)
    for client in (owl, thin, hpkv, service, caller):
        await client.socket.close()


async def eventually_not_ready(cluster: Cluster) -> None:
    for node in cluster.nodes:
        while (answer := await ready(node)).status == 200:
            await pause(0.05)
        assert "Redis at" in answer.text


async def thin_refusal(thin: ThinWs) -> str:
    thin.say('{"messageID":9999,"type":"message","roomID":"kept.x","message":1}')
    return await thin.next("reply")


async def eventually_answers(caller: MicroStream, service: MicroStream) -> None:
    answered = run(caller.call("svc", "echo"))
    await service.serve("1")
    assert await answered == "1"


@pytest_twisted.ensureDeferred
async def test_an_old_cursor_does_not_hide_the_events_of_a_new_redis(cluster: Cluster) -> None:
    for number in range(5):
        await post(cluster, "c", number)
    before = json.loads((await get(cluster.nodes[0].url + "/about")).text)["epoch"]
    await cluster.redis.command("FLUSHALL")
    cluster.provoked.append("was lost")
    assert await post(cluster, "c", 6) == 1
    await eventually_differs(cluster, before)
    answer = await Ganomede(cluster).poll("c", after=0)  # type: ignore[arg-type]
    assert [event["id"] for event in answer.json()] == [1]
    url = Ganomede(cluster).url("events", channel="c", clientId="r", after=5, epoch=before)  # type: ignore[arg-type]
    told = await get(url)
    assert (told.status, told.json()["code"]) == (410, "Gone")


async def eventually_differs(cluster: Cluster, before: str) -> None:
    for node in cluster.nodes:
        while json.loads((await get(node.url + "/about")).text)["epoch"] == before:
            await pause(0.1)


@pytest_twisted.ensureDeferred
async def test_a_full_redis_refuses_writes_and_serves_reads(cluster: Cluster) -> None:
    assert await post(cluster, "c", 1) == 1
    cluster.provoked.append("Redis refuses")
    await cluster.redis.command("CONFIG", "SET", "maxmemory", "1")
    refused = await Ganomede(cluster).post_raw(  # type: ignore[arg-type]
        b'{"clientId":"w","secret":"any","channel":"c","from":"s","type":"T"}'
    )
    assert refused.status == 503
    answer = await get(Ganomede(cluster).url("latest", channel="c"))  # type: ignore[arg-type]
    assert (answer.status, len(answer.json())) == (200, 1)
    await eventually_told(cluster, "OOM")
    node = next(node for node in cluster.nodes if any("Redis refuses" in line for line in node.output))
    told = await ready(node)
    assert told.status == 503
    assert "OOM" in told.text
    await cluster.redis.command("CONFIG", "SET", "maxmemory", "0")
    await all_ready(cluster)
    assert await post(cluster, "c", 2) == 2


@pytest_twisted.ensureDeferred
async def test_a_redis_that_became_a_replica_is_not_used(cluster: Cluster) -> None:
    assert await post(cluster, "c", 1) == 1
    cluster.provoked.extend(["Redis refuses", "READONLY"])
    await cluster.redis.command("REPLICAOF", "127.0.0.1", "1")
    refused = await Ganomede(cluster).post_raw(  # type: ignore[arg-type]
        b'{"clientId":"w","secret":"any","channel":"c","from":"s","type":"T"}'
    )
    assert refused.status == 503
    await eventually_told(cluster, "replica")
    await cluster.redis.command("REPLICAOF", "NO", "ONE")
    await all_ready(cluster)
    assert await post(cluster, "c", 2) == 2


async def eventually_told(cluster: Cluster, word: str, timeout: float = TIMEOUT) -> None:
    end = reactor.seconds() + timeout
    while all([word not in (await ready(node)).text for node in cluster.nodes]):
        assert reactor.seconds() < end
        await pause(0.1)


@pytest_twisted.ensureDeferred
async def test_a_redis_that_hangs_is_unavailable_within_a_bounded_time(cluster: Cluster) -> None:
    assert await post(cluster, "c", 1) == 1
    cluster.redis.pause()
    refused = await Ganomede(cluster).post_raw(  # type: ignore[arg-type]
        b'{"clientId":"w","secret":"any","channel":"c","from":"s","type":"T"}'
    )
    assert refused.status == 503
    cluster.redis.resume()
    await all_ready(cluster)
    await post(cluster, "c", 2)


@pytest.mark.timeout(600)
@pytest_twisted.ensureDeferred
async def test_nothing_acknowledged_is_lost_in_rounds_of_faults(soak: bool) -> None:
    loop = await fault_loop.run(30 if soak else 2, seed=random.randrange(1 << 30), going_back=False)
    print(loop)
    assert (loop.lost(), loop.doubled(), loop.deaf) == (set(), [], [])
    assert len(loop.log.acknowledged) > 30


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("sentinel", [False, True], ids=["one Redis", "Sentinels"])
@pytest_twisted.ensureDeferred
async def test_no_promise_is_broken_in_many_rounds_of_faults(soak: bool, sentinel: bool) -> None:
    if not soak:
        pytest.skip("it takes minutes")
    loop = await fault_loop.run(30, seed=random.randrange(1 << 30), sentinel=sentinel)
    print(loop)
    assert loop.problems() == []
