"""What one Redis carries, and what a second node costs: ``python -m benchmarks.redis_capacity``.

It starts a redis-server of its own, without files, so that the disk is not what is measured.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.task import react
from twisted.internet.threads import deferToThread

from benchmarks.servers import build_load
from broker.buses import open_bus
from broker.core.channels import StoreEventSource
from broker.messages import Announcement, Event, KeyAnnouncement
from broker.stores import open_store
from tests.bridge.clients import Ganomede, OwlMeans
from tests.support.daemon import Daemon
from tests.support.redis_server import RedisServer

BODY = b'{"payload":"' + b"x" * 106 + b'"}'  # 120 bytes
LISTENERS, EVENTS = 500, 300
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_of(pid: int) -> float:
    """Return the seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def measure(name: str, redis: RedisServer, count: int, flight: int, do: Callable[[int], Deferred[Any]]) -> None:
    """Do *count* operations, *flight* of them at a time, and print what each costs."""
    started, own, theirs = time.perf_counter(), time.process_time(), cpu_of(redis.program.pid)
    done: Deferred[None] = Deferred()
    state = {"begun": 0, "ended": 0}

    def begin() -> None:
        if state["begun"] < count:
            state["begun"] += 1
            do(state["begun"]).addCallback(end)

    def end(_: Any) -> None:
        state["ended"] += 1
        if state["ended"] == count:
            done.callback(None)
        else:
            begin()

    for _ in range(flight):
        begin()
    await done
    seconds = time.perf_counter() - started
    print(
        f"{name:32} {flight:4} in flight  {count / seconds:9.0f}/s   "
        f"broker {(time.process_time() - own) / count * 1e6:5.1f} µs   "
        f"Redis {(cpu_of(redis.program.pid) - theirs) / count * 1e6:5.1f} µs"
    )


async def one_node(redis: RedisServer) -> None:
    """Measure the store and the bus in this process."""
    store: Any = open_store(redis.url, clock=reactor, prefix="bench:", announce=True)
    bus: Any = open_bus(redis.url, "bench", reactor=reactor, prefix="bench:")
    bus.source = StoreEventSource(store)
    heard: list[Any] = []
    bus.deliver = heard.append
    store.startService()
    bus.startService()
    bus.listen("heard")
    await store.head("")
    while bus.ready or bus.listening() is not None:
        await (bus.listening() or store.head(""))

    def append(number: int) -> Deferred[Any]:
        topic = f"channel {number % 100}"
        event = Event(topic, "kind", BODY, "me", 1.0, origin="session", dialect="x")
        appended: Deferred[Any] = store.append(f"event/{topic}", event)
        return appended

    def publish(topic: str) -> Callable[[int], Deferred[Any]]:
        return lambda number: bus.publish(Event(topic, "kind", BODY, "me", 1.0, origin="session", dialect="x"))

    def changed(number: int) -> tuple[str, bytes]:
        return f"key {number % 1000}", BODY

    def told(number: int) -> Announcement:
        key, _ = changed(number)
        return KeyAnnouncement(f"kv/{key}", "set", 1.0, origin="session", key=key)

    for flight in (1, 64, 512):
        await measure("append, announced", redis, 2000 if flight == 1 else 50_000, flight, append)
    await measure("the same, a call for each", redis, 20_000, 64, pipelined(store, append))
    await measure("live event that nobody hears", redis, 50_000, 64, publish("unheard"))
    await measure("live event that this node hears", redis, 50_000, 64, publish("heard"))
    await measure("read of 10 events", redis, 20_000, 64, lambda n: store.read(f"event/channel {n % 100}", n % 400, 10))
    await measure("set of a key", redis, 50_000, 64, lambda n: store.set("kv", f"key {n % 1000}", BODY))
    await measure(
        "set of a key, announced", redis, 50_000, 64, lambda n: store.set("kv", *changed(n), announcement=told(n))
    )
    await measure("increment of one key", redis, 50_000, 64, lambda n: store.increment("kv", "n", b"1"))
    await measure("patch of a key", redis, 20_000, 64, lambda n: store.patch("kv", f"p {n % 1000}", b"1", _second))
    await gatherResults([maybeDeferred(part.stopService) for part in (bus, store)])


def _second(_: bytes, value: bytes) -> bytes:
    return value


def pipelined(store: Any, do: Callable[[int], Deferred[Any]]) -> Callable[[int], Deferred[Any]]:
    """Return what does the same in a call of the script for each operation, which waits for none before it."""
    batcher = store._batcher

    def submit(operation: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(batcher.call(batcher.connection.protocol, operation.words))

    def do_alone(number: int) -> Deferred[Any]:
        batcher.submit = submit
        try:
            return do(number)
        finally:
            del batcher.submit

    return do_alone


async def nodes(redis: RedisServer, count: int) -> None:
    """Measure what *count* daemons use for a fan-out and for posts, in the last of which the clients are."""
    directory = Path(tempfile.mkdtemp(prefix="txbroker-"))
    daemons = []
    for number in range(count):
        (directory / str(number)).mkdir()
        store = {"TXBROKER_STORE": redis.url, "TXBROKER_REDIS_PREFIX": f"nodes{count}:"}
        daemons.append(await Daemon(directory / str(number), **store).start())
    listeners = [await OwlMeans.join(daemons[-1]) for _ in range(LISTENERS)]
    for listener in listeners:
        await listener.subscribe("fan")
    publisher = await OwlMeans.join(daemons[0])
    before = sum(cpu_of(daemon.pid) for daemon in daemons)
    for _ in range(EVENTS):
        publisher.notify("fan", BODY.decode())
        await listeners[-1].socket.receive()
    for listener in listeners[:-1]:
        for _ in range(EVENTS):
            await listener.socket.receive()
    deliveries = (sum(cpu_of(daemon.pid) for daemon in daemons) - before) / (EVENTS * LISTENERS) * 1e6
    before = sum(cpu_of(daemon.pid) for daemon in daemons)
    api = Ganomede(daemons[0])
    for _ in range(60):
        await gatherResults([api.post_raw(_posted()) for _ in range(32)])
    posts = (sum(cpu_of(daemon.pid) for daemon in daemons) - before) / (60 * 32) * 1e6
    print(f"{count} nodes: a delivery {deliveries:5.2f} µs, a post on a connection of its own {posts:6.1f} µs")
    for client in (*listeners, publisher):
        await client.socket.close()
    for daemon in daemons:
        await daemon.stop()


async def appends(redis: RedisServer, count: int) -> None:
    """Measure durable publications by clients of *count* daemons at once, and what Redis uses for each."""
    directory, load = Path(tempfile.mkdtemp(prefix="txbroker-")), build_load()
    daemons = []
    for number in range(count):
        (directory / str(number)).mkdir()
        store = {"TXBROKER_STORE": redis.url, "TXBROKER_REDIS_PREFIX": f"appends{count}:"}
        daemons.append(await Daemon(directory / str(number), **store).start())
    pids = ",".join(str(daemon.pid) for daemon in daemons)
    words = [*"-m append -k owlmeans -n 32 -w 4 -d 4 -u / -P".split(), pids]
    before = cpu_of(redis.program.pid)
    running = [subprocess.Popen([load, *words, "-p", str(daemon.port)], stdout=subprocess.PIPE) for daemon in daemons]
    seen = [json.loads((await deferToThread(each.communicate, timeout=60))[0]) for each in running]
    rate, measured = sum(each["ops_per_s"] for each in seen), sum(each["ops"] for each in seen)
    broker = max(each["cpu_us"] * each["ops"] for each in seen) / measured  # each has seen that of all daemons
    of_redis = (cpu_of(redis.program.pid) - before) / (measured * 5 / 4) * 1e6  # one second more than was measured
    print(f"{count} nodes: {rate:8.0f} appends/s   broker {broker:5.1f} µs   Redis {of_redis:5.1f} µs")
    for daemon in daemons:
        await daemon.stop()


def _posted() -> bytes:
    return b'{"clientId":"w","secret":"any","channel":"c","from":"s","type":"T","data":%b}' % BODY


async def main() -> None:
    """Measure everything."""
    redis = await RedisServer(Path(tempfile.mkdtemp(prefix="txbroker-"))).start()
    try:
        await one_node(redis)
        for count in (1, 2):
            await nodes(redis, count)
        for count in (1, 2, 3):
            await appends(redis, count)
    finally:
        await redis.kill()


if __name__ == "__main__":
    react(lambda _: Deferred.fromCoroutine(main()))
