"""Jobs of several nodes on one store, whose leases come and go: without Redis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import attrs
import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from broker.cluster.jobs import SharedJobs
from broker.interfaces import IStore
from broker.jobs import Worker
from broker.messages import Mail
from broker.stores import open_store
from broker.testing import value_of
from tests.core.test_jobs import Peer

LEASE = 5.0  # seconds


@attrs.define(eq=False)
class Bus:
    """What jobs need of a bus.

    ``leases`` has who has a lease, ``awaited`` who may renew his, and ``known`` whose lease this node has heard of.
    """

    address: str
    leases: set[str]
    awaited: set[str]
    known: set[str] = attrs.field(factory=set)
    lease_seconds: float = LEASE

    @property
    def lease(self) -> int:
        return int(self.address in self.leases)

    def lives(self, node: str) -> bool:
        return node in self.known & self.leases

    def may_live(self, node: str) -> Deferred[bool]:
        return succeed(node in self.leases | self.awaited)


@attrs.define(eq=False)
class Node:
    """One of them, with a worker that acknowledges."""

    jobs: SharedJobs
    bus: Bus
    worker: Peer

    def consume(self) -> None:
        self.jobs.consume(self.worker, "q", Worker("w", self.bus.address), ack=True, prefetch=1, lease=30.0)


class Cluster:
    def __init__(self) -> None:
        self.clock = Clock()
        self.clock.advance(1_000_000.0)
        self.store: IStore = open_store("memory:", clock=self.clock)
        self.store.startService()
        self.leases: set[str] = set()
        self.awaited: set[str] = set()
        self.nodes = [self.node(name) for name in ("one", "two")]

    def node(self, name: str) -> Node:
        async def no(*_: str) -> bool:
            return False

        bus = Bus(name, self.leases, self.awaited)
        jobs = SharedJobs(self.store, self.clock, lambda: name, no)
        jobs.use(cast(Any, bus), lambda _: cast(Any, succeed(True)))
        return Node(jobs, bus, Peer(name))

    def add(self) -> None:
        value_of(self.nodes[0].jobs.add(Mail("q", "", b"1", "ann", 0.0)))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    cluster = Cluster()
    yield cluster
    for node in cluster.nodes:
        node.jobs.stop()
    assert cluster.clock.getDelayedCalls() == []


def test_a_node_without_a_lease_gives_no_jobs_to_workers(cluster: Cluster) -> None:
    one, _ = cluster.nodes
    one.consume()
    cluster.add()
    assert not one.worker.got
    cluster.leases.add("one")
    one.jobs.leased()
    assert one.worker.last.delivery == 1


@pytest.mark.parametrize("new", [True, False], ids=["a new lease", "a lease that is awaited"])
def test_the_jobs_of_a_node_that_another_does_not_know_stay_there(cluster: Cluster, new: bool) -> None:
    one, two = cluster.nodes
    cluster.leases |= {"one", "two"}
    one.consume()
    cluster.add()
    if not new:
        cluster.leases.discard("one")
        cluster.awaited.add("one")
    two.consume()
    two.jobs.leased()
    assert not two.worker.got
    value_of(one.jobs.leases.finish(one.worker.last.id, Worker("w", "one")))


def test_the_jobs_of_one_that_was_awaited_in_vain_are_delivered_again(cluster: Cluster) -> None:
    one, two = cluster.nodes
    cluster.leases |= {"one", "two"}
    one.consume()
    cluster.add()
    one.jobs.stop()
    cluster.leases.discard("one")
    cluster.awaited.add("one")
    two.consume()
    two.jobs.departed("one")
    cluster.awaited.discard("one")
    assert not two.worker.got
    cluster.clock.advance(LEASE)
    assert two.worker.last.delivery == 2


def test_a_job_that_was_claimed_late_for_a_node_that_is_no_more_is_delivered_again(cluster: Cluster) -> None:
    one, two = cluster.nodes
    cluster.leases |= {"one", "two"}
    one.jobs.stop()
    cluster.leases.discard("one")
    two.jobs.departed("one")
    cluster.add()
    # What the node had sent comes now.
    value_of(cluster.store.jobs.claim("q", [(Worker("w", "one"), 30.0)]))
    two.consume()
    assert not two.worker.got
    two.jobs.review()
    assert two.worker.last.delivery == 2
