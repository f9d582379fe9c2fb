"""In the simulation, clients that follow topics from a position, and have no room at times, miss nothing."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest
from twisted.internet.task import deferLater

from broker.errors import BrokerError
from broker.messages import EPOCH, START, Event, Loss, Origin, Position
from broker.peer import Peer
from tests.simulation import clients
from tests.simulation.clients import RETRY, Client, Reader
from tests.simulation.node import Node
from tests.simulation.run import run_seed

SEEDS, SOAK_SEEDS = 8, 10_000
BLOCKS = 4  # tests that share the seeds
ROOM = 7  # events after which a client has no room for a while

pytestmark = pytest.mark.unmeasured


class Follower(Reader):
    """Follows the topic instead, and comes back with the position of its last event."""

    def __init__(self, client: Client, topic: str) -> None:
        super().__init__(client, topic)
        self.room = ROOM

    async def run(self, peer: Peer, node: Node) -> None:
        while self._is_there(peer):
            origin: Origin = Position(self.epoch, self.after) if self.epoch else START
            try:
                follower = await peer.follow(
                    self.topic,
                    origin,
                    lambda event: self._is_there(peer) and self._deliver(event, node),
                    lambda loss: self._lost(loss, peer.epoch) if self._is_there(peer) else None,
                    exact=True,  # beside the plain subscriptions of the same client
                    echo=True,
                )
                break
            except BrokerError:
                await deferLater(node.clock, RETRY)  # type: ignore[arg-type]
        else:
            return
        if not self._is_there(peer):
            return
        (start,) = follower.starts
        if start.loss is not None:
            self._lost(start.loss, start.position.epoch)
        self.epoch, self.after = start.position.epoch, start.position.id
        follower.start()
        while self._is_there(peer):
            await deferLater(node.clock, RETRY)  # type: ignore[arg-type]
            self.room = ROOM
            peer.resume()

    def _is_there(self, peer: Peer) -> bool:
        return self.client.peer is peer and not self.stopped

    def _deliver(self, event: Event, node: Node) -> bool:
        if not self.room:
            return False
        self.room -= 1
        if (event.epoch, event.id) != (self.epoch, self.after + 1):
            found = f"{self.topic} up to {self.after} of {self.epoch}, then {event.id} of {event.epoch}"
            self.client.history.world.violate("a follower missed events", f"{self.client.name} has {found}")
        self.client.history.append(event, node)
        self.epoch, self.after = event.epoch, event.id
        self.bodies.append(event.body or b"")
        return True

    def _lost(self, loss: Loss, epoch: str) -> None:
        if loss.why != EPOCH or loss.epoch != self.epoch or epoch == self.epoch:
            self.client.history.world.violate("a follower was told of a loss that is none", str(loss))
        self._begin_again(epoch)


@pytest.fixture(autouse=True)
def _end_what_was_abandoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let what a process that was killed has begun end here: no coroutine of it ends as it should."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    monkeypatch.setattr(clients, "Reader", Follower)
    yield
    gc.collect()


@pytest.mark.timeout(6 * 3600)
@pytest.mark.parametrize("block", range(BLOCKS))
def test_whoever_follows_gets_every_event_once_and_in_order(block: int, soak: bool) -> None:
    for seed in range(block, SOAK_SEEDS if soak else SEEDS, BLOCKS):
        violations = [str(violation) for violation in run_seed(seed).violations]
        assert violations == [], f"seed {seed}"
