"""How long a node takes to hold its names again after a fault: ``python -m benchmarks.claimed_names [names]``.

A client of the first of two nodes publishes all the while, one event after the other; printed are the times of its
publications before, and until all names are held again.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.task import deferLater, react

from broker.buses import open_bus
from broker.config.settings import Settings
from broker.core.service import Broker
from broker.errors import BrokerError
from broker.sessions import BaseSession
from broker.stores import open_store
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

EXCLUSIVE = 1000  # of the names
LEASE = 5.0  # seconds


class Node:
    """A broker on Redis."""

    def __init__(self, url: str, name: str, names: int) -> None:
        self.store: Any = open_store(url, clock=reactor, announce=True)
        self.bus: Any = open_bus(url, name, reactor=reactor, lease=LEASE)
        self.broker = Broker(Settings(max_registrations=names), self.store, self.bus, reactor)
        self.broker.startService()

    def peer(self) -> Any:
        peer = self.broker.attach("bench", "127.0.0.1")
        peer.bind(BaseSession())
        return peer

    def held(self) -> int:
        claims = self.broker.parts.cluster._claims  # type: ignore[attr-defined]
        return sum(claims.holds(name) for name in claims._claims)


async def publish(peer: Any, until: Callable[[], Any]) -> list[float]:
    """Publish until that is true; return how long each took, in milliseconds."""
    times: list[float] = []
    while not until():
        began = time.perf_counter()
        try:
            await peer.publish("topic", "kind", b"1")
        except BrokerError:
            await deferLater(reactor, 0.01)
            continue
        times.append((time.perf_counter() - began) * 1000)
        await deferLater(reactor, 0.001)
    return times


def shown(times: list[float]) -> str:
    ordered = sorted(times)
    slow = ordered[len(times) * 99 // 100]
    return f"{len(times)} in all, median {median(ordered):.2f} ms, 99 of 100 under {slow:.2f} ms"


async def measure(
    what: str, node: Node, peer: Any, names: int, fault: Callable[[], Awaitable[object]], gone: Callable[[], bool]
) -> None:
    end = time.perf_counter() + 2
    before = await publish(peer, lambda: time.perf_counter() > end)
    await fault()
    await eventually(gone)
    began = time.perf_counter()
    claims = node.broker.parts.cluster._claims  # type: ignore[attr-defined]
    meanwhile = await publish(peer, lambda: not (claims._renewing or claims._batch or claims._next))
    seconds = time.perf_counter() - began
    print(f"{what}: {node.held()} of {names} names held again after {seconds:.2f} s")
    print(f"    publications before: {shown(before)}")
    print(f"    meanwhile:           {shown(meanwhile)}" if meanwhile else "    meanwhile: none")


async def run(names: int) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        redis = await RedisServer(Path(directory)).start()
        one, two = Node(redis.url, "one", names), Node(redis.url, "two", names)
        await eventually(lambda: one.bus.lease and two.bus.lease)
        publisher = one.peer()
        for start in range(0, EXCLUSIVE, 100):
            await one.peer().perform([f"p{number}" for number in range(start, start + 100)])
        for start in range(0, names - EXCLUSIVE, 200):
            peer = one.peer()
            for number in range(start, start + 200):
                peer.acknowledge(f"t{number}")
            await peer.listening()
        claims = one.broker.parts.cluster._claims  # type: ignore[attr-defined]

        async def cut() -> None:
            one.bus._batcher.connection.drop("cut by the benchmark")

        async def wipe() -> None:
            await redis.command("FLUSHALL")

        async def hang() -> None:
            redis.pause()
            end = time.perf_counter() + LEASE + 2
            while time.perf_counter() < end:
                await deferLater(reactor, 0.05)
            redis.resume()

        number = one.bus.lease
        await measure("connection cut", one, publisher, names, cut, lambda: bool(one.bus._batcher.connection.protocol))
        await measure("Redis wiped", one, publisher, names, wipe, lambda: one.bus.lease not in (0, number))
        number = one.bus.lease
        await measure("Redis hung", one, publisher, names, hang, lambda: one.bus.lease not in (0, number))
        print("tables:", len(claims), "names,", await redis.command("HLEN", "txbroker:names"), "in Redis")
        for node in (one, two):
            await maybeDeferred(node.broker.stopService)
        await redis.stop()


def main(_: Any, names: str = "25000") -> Deferred[None]:
    return Deferred.fromCoroutine(run(int(names)))


if __name__ == "__main__":
    react(main, sys.argv[1:])
