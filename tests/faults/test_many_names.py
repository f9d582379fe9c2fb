"""A node with very many names gets all of them back after a reconnect, and goes on publishing meanwhile."""

from __future__ import annotations

import random
from functools import partial
from statistics import median
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.defer import TimeoutError as TookTooLong

from tests.faults.clients import Native
from tests.support.cluster import ProxiedCluster
from tests.support.daemon import Daemon
from tests.support.eventually import pause

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]

EACH = 1000  # names of one client, as many as it may have
LEASE = 5.0  # seconds
HELD_AGAIN = 10.0  # seconds after the reconnect
AT_ONCE = 500  # calls


class Publisher:
    """Sends one event after the other to a node, each when the last one was received."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.refused = 0
        self.going_on = True

    async def publish(self, node: Daemon) -> None:
        client = await Native.join(node)
        await client.ask("broker.subscribe", "kept.news", {"echo": True})
        while self.going_on:
            heard: Deferred[None] = Deferred()
            client.on_event = partial(self._heard, heard)
            began = reactor.seconds()
            client.send(type="event", event="kept.news", payload=1)
            try:
                await heard.addTimeout(1.0, reactor)
            except TookTooLong:  # it was refused, in the moment of the break
                self.refused += 1
            else:
                self.seconds.append(reactor.seconds() - began)
            await pause(0.002)
        client.drop()

    @staticmethod
    def _heard(waiting: Deferred[None], frame: dict[str, Any]) -> None:
        if not waiting.called:
            waiting.callback(None)


async def register(node: Daemon, clients: int) -> list[str]:
    """Let clients perform *EACH* names each at *node*; return all of them."""
    names: list[str] = []
    for number in range(clients):
        client = await Native.join(node)
        mine = [f"p{number}.n{each}" for each in range(EACH)]
        client.performs.update(dict.fromkeys(mine, lambda argument: argument))
        await client.ask("broker.register", mine)
        names += mine
    return names


async def unanswered(caller: Native, names: list[str]) -> int:
    """Call each name; return how many calls had no answer."""
    failed = 0
    for start in range(0, len(names), AT_ONCE):
        calls = [caller.ask(name, 1, timeout=5000) for name in names[start : start + AT_ONCE]]
        failed += sum(not well for well, _ in await DeferredList(calls, consumeErrors=True))
    return failed


@pytest.mark.timeout(600)
@pytest.mark.parametrize("away", [0.0, 2 * LEASE], ids=["a blip", "longer than the lease"])
@pytest_twisted.ensureDeferred
async def test_all_names_of_a_node_are_held_again_soon_after_a_reconnect(soak: bool, away: float) -> None:
    if not soak:
        pytest.skip("it takes a minute")
    settings = {"TXBROKER_NODE_LEASE_SECONDS": str(LEASE), "TXBROKER_DURABLE_TOPICS": "kept.>"}
    cluster = ProxiedCluster.new(2, TXBROKER_PROTOCOLS="owlmeans", **settings)
    cluster.provoked.extend(["Redis", "lease"])
    await cluster.start()
    try:
        names = await register(cluster.nodes[0], 25)
        caller = await Native.join(cluster.nodes[1])
        assert await unanswered(caller, names) == 0
        before = await publish_for(cluster.nodes[0], 2.0)
        network = cluster.networks[0]
        network.swallow()
        await pause(away)
        network.reset()
        network.heal()
        publisher, began = Publisher(), reactor.seconds()
        publishing = Deferred.fromCoroutine(publisher.publish(cluster.nodes[0]))
        sample = random.sample(names, AT_ONCE)
        while failed := await unanswered(caller, sample):
            assert reactor.seconds() - began < HELD_AGAIN, f"{failed} of {len(sample)} are not held again"
            await pause(0.1)
        print(f"held again after {reactor.seconds() - began:.1f} s")
        during = list(publisher.seconds)  # without what the calls of all names cost
        assert await unanswered(caller, names) == 0
        publisher.going_on = False
        await gatherResults([publishing])
        print(f"an event takes {median(during):.4f} s, before {median(before):.4f} s")
        print(f"the slowest {max(during):.4f} s, before {max(before):.4f} s; refused {publisher.refused}")
        assert median(during) < 2 * median(before)
    finally:
        await cluster.end()


async def publish_for(node: Daemon, seconds: float) -> list[float]:
    """Return what each event has taken, in so many seconds."""
    publisher = Publisher()
    publishing = Deferred.fromCoroutine(publisher.publish(node))
    await pause(seconds)
    publisher.going_on = False
    await publishing
    return publisher.seconds
