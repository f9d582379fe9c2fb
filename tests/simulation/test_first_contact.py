"""A node that has clients before it has reached Redis for the first time loses nothing of theirs without a word."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.task import Clock

from broker.core.service import START_TIMEOUT
from broker.messages import Event
from broker.peer import Peer
from broker.sessions import BaseSession
from broker.testing import make_broker
from tests.simulation.node import Node, simulated
from tests.simulation.schedule import ALL
from tests.simulation.server import Server
from tests.simulation.world import World

pytestmark = pytest.mark.unmeasured

ONLINE = "broker.client.online"


class Session(BaseSession):
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.gaps: list[tuple[str, str]] = []

    def event(self, event: Event, pattern: str) -> None:
        self.topics.append(event.topic)

    def gap(self, topic: str, why: str) -> None:
        self.gaps.append((topic, why))


class Pair:
    """A node that has reached Redis, and one that does not yet."""

    def __init__(self, world: World) -> None:
        self.world = world
        server = Server(world)
        self.near = Node(world, server, "near")
        self.wait(3.0)
        self.far = Node(world, server, "far")
        self.far.network.set_cut(ALL, True)

    def wait(self, seconds: float) -> None:
        self.world.run_until(self.world.now + seconds)

    def client(self, node: Node) -> tuple[Session, Peer]:
        session, peer = Session(), node.broker.attach("test", "127.0.0.1")
        peer.bind(session, lambda code, reason: None)
        return session, peer

    def heal(self) -> None:
        self.far.network.set_cut(ALL, False)
        self.wait(12.0)
        assert self.far.ready
        assert [str(violation) for violation in self.world.violations] == []


@pytest.fixture
def pair() -> Iterator[Pair]:
    world = World(1)
    with simulated(world):
        yield Pair(world)


@pytest.mark.parametrize("silence", [0.5, 4.0, 60.0])
def test_that_clients_came_and_went_is_told_when_redis_is_reached(pair: Pair, silence: float) -> None:
    watcher, peer = pair.client(pair.near)
    peer.subscribe("broker.client.*")
    pair.wait(1.0)
    _, guest = pair.client(pair.far)
    guest.appear()
    pair.wait(silence)
    guest.close()
    pair.heal()
    assert watcher.topics == [ONLINE, "broker.client.offline"]


def test_who_subscribed_too_early_hears_of_it_and_of_all_that_comes_later(pair: Pair) -> None:
    early, peer = pair.client(pair.far)
    peer.subscribe("durable.a")
    pair.wait(4.0)
    pair.heal()
    late, other = pair.client(pair.far)
    other.subscribe("durable.b")
    pair.wait(1.0)
    for topic in ("durable.a", "durable.b"):
        pair.near.broker.attach("test", "127.0.0.1").publish(topic, "n", b"1")
    pair.wait(1.0)
    assert (early.gaps, early.topics, late.gaps, late.topics) == (
        [("durable.a", "missed")],
        ["durable.a"],
        [],
        ["durable.b"],
    )


def test_who_watched_keys_too_early_hears_of_it(pair: Pair) -> None:
    early, peer = pair.client(pair.far)
    peer.watch(names=["k"])
    pair.wait(4.0)
    pair.heal()
    assert early.gaps == [("", "missed")]


@pytest.mark.parametrize("cut", [False, True])
def test_clients_wait_until_redis_was_reached_but_not_for_long(pair: Pair, cut: bool) -> None:
    if not cut:
        pair.far = Node(pair.world, pair.near.server, "new")
    at: list[float] = []
    began = pair.world.now
    reached = pair.far.broker.reached()
    assert reached is not None
    reached.addCallback(lambda _: at.append(pair.world.now - began))
    pair.wait(START_TIMEOUT + 1.0)
    assert at == [pytest.approx(START_TIMEOUT)] if cut else 0.0 < at[0] < START_TIMEOUT / 2


def test_nobody_waits_for_what_is_in_this_process() -> None:
    assert make_broker(Clock()).reached() is None
