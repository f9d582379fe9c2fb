"""Nodes and Redis are killed at random while writers post and readers follow.

``python -m tests.faults.fault_loop 30`` prints its tally: every event that was
acknowledged must have been read by every reader, once and in order.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.error import ConnectError, ConnectionDone, ConnectionLost
from twisted.internet.task import deferLater, react
from twisted.web.client import RequestTransmissionFailed, ResponseFailed, ResponseNeverReceived

from tests.bridge.clients import Ganomede
from tests.support.cluster import Cluster
from tests.support.http_client import get

GONE = (
    *(ConnectError, ConnectionDone, ConnectionLost),
    *(ResponseFailed, ResponseNeverReceived, RequestTransmissionFailed),
)
WRITERS, READERS = 6, 3
PAUSE = 0.25  # seconds between two faults
CHANNEL = "faults"


@attrs.define
class Tally:
    """What happened.

    Attributes:
        acknowledged: number of the event by its id, as its writer was told.
        refused: how many posts were answered with an error, or not at all.
        read: what each reader has read, in that order: id and number.
        faults: how often what was killed.
    """

    acknowledged: dict[int, int] = attrs.field(factory=dict)
    refused: int = 0
    read: list[list[tuple[int, int]]] = attrs.field(factory=list)
    faults: dict[str, int] = attrs.field(factory=lambda: {"node": 0, "redis": 0})

    def problems(self) -> list[str]:
        """Return what should not be."""
        found = []
        for reader, events in enumerate(self.read):
            ids = [id for id, _ in events]
            if ids != list(range(1, len(ids) + 1)):
                found.append(f"reader {reader} has read {len(ids)} events with a hole, twice or out of order")
            read = dict(events)
            lost = [id for id, number in self.acknowledged.items() if read.get(id) != number]
            if lost:
                found.append(f"reader {reader} misses {len(lost)} acknowledged events: {sorted(lost)[:10]}")
        return found

    def __str__(self) -> str:
        return (
            f"{self.faults['node']} nodes and {self.faults['redis']} times Redis killed; "
            f"{len(self.acknowledged)} events acknowledged, {self.refused} posts not; "
            f"read by {len(self.read)} readers: {[len(events) for events in self.read]}; "
            f"problems: {self.problems() or 'none'}"
        )


class Loop:
    """Writers, readers and faults on one cluster."""

    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._random = random.Random(seed)
        self._numbers = iter(range(1, 1 << 60))
        self._writing = True
        self._goal: int | None = None
        self.tally = Tally(read=[[] for _ in range(READERS)])

    async def run(self, rounds: int) -> Tally:
        """Do *rounds* faults; return what happened."""
        writers = [Deferred.fromCoroutine(self._write()) for _ in range(WRITERS)]
        readers = [Deferred.fromCoroutine(self._read(number)) for number in range(READERS)]
        for _ in range(rounds):
            await self._fault()
            await deferLater(reactor, PAUSE)
        self._writing = False
        await gatherResults(writers)
        self._goal = max(self.tally.acknowledged, default=0)
        await gatherResults(readers)
        return self.tally

    async def _fault(self) -> None:
        if self._random.random() < 0.4:
            self.tally.faults["redis"] += 1
            await self._cluster.redis.kill()
            await self._cluster.redis.start()
        else:
            self.tally.faults["node"] += 1
            node = self._random.choice(self._cluster.nodes)
            await node.kill()
            await node.start()

    def _api(self) -> Ganomede:
        return Ganomede(self._random.choice(self._cluster.nodes))

    async def _write(self) -> None:
        while self._writing:
            number = next(self._numbers)
            said = {"clientId": "w", "secret": "any", "channel": CHANNEL, "from": "s", "type": "T"}
            try:
                answer = await self._api().post_raw(json.dumps({**said, "data": {"n": number}}).encode())
            except GONE:
                answer = None
            if answer is not None and answer.status == 200:
                self.tally.acknowledged[answer.json()["id"]] = number
            else:
                self.tally.refused += 1
                await deferLater(reactor, 0.02)

    async def _read(self, reader: int) -> None:
        events = self.tally.read[reader]
        while self._goal is None or len(events) < self._goal:
            after: dict[str, Any] = {"after": events[-1][0]} if events else {}
            url = self._api().url("events", channel=CHANNEL, clientId=f"reader {reader}", limit=500, **after)
            try:
                answer = await get(url)
            except (*GONE, CancelledError):
                answer = None
            if answer is not None and answer.status == 200:
                events += [(event["id"], event["data"]["n"]) for event in answer.json()]
            else:
                await deferLater(reactor, 0.02)


async def run(rounds: int, seed: int) -> Tally:
    """Run the loop on a cluster of its own."""
    cluster = await Cluster.new(
        TXBROKER_ERROR_DELAY_SECONDS="0.05", TXBROKER_POLL_TIMEOUT_SECONDS="1", TXBROKER_PROTOCOLS="ganomede"
    ).start()
    cluster.provoked.append("Redis")
    try:
        return await Loop(cluster, seed).run(rounds)
    finally:
        await cluster.end()


def main(arguments: Sequence[str]) -> None:
    """Run as many rounds as the first argument says; the second is the seed."""
    rounds = int(arguments[0]) if arguments else 30
    seed = int(arguments[1]) if len(arguments) > 1 else random.randrange(1 << 30)

    async def work(_: Any) -> None:
        print(f"{rounds} rounds, seed {seed}")
        tally = await run(rounds, seed)
        print(tally)
        if tally.problems():
            raise SystemExit(1)

    react(lambda reactor: Deferred.fromCoroutine(work(reactor)))


if __name__ == "__main__":
    main(sys.argv[1:])
