"""Nodes, Redis and the network between them fail at random, while clients of all kinds go on.

``python -m tests.faults.fault_loop 30 --sentinel`` does thirty faults and prints what came of it; its exit
status is 1 when a promise was broken.  ``--seed`` repeats the choices of a run, though not its timing.
"""

from __future__ import annotations

import argparse
import random
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import react

from tests.faults.events import Log, Observer, Poller, Reader, deaf
from tests.faults.exchanges import (
    LIMIT,
    Calls,
    Exchange,
    Exclusive,
    ExclusiveService,
    Increments,
    Jobs,
    Rooms,
    Streams,
)
from tests.faults.faults import LEASE, Faults, SentinelFaults
from tests.support.cluster import ProxiedCluster, SentinelCluster
from tests.support.eventually import pause
from tests.support.http_client import get

WRITERS, POLLERS, OBSERVERS = 20, 3, 3
PAUSE = 0.5  # seconds between two faults
ENVIRON = {
    "TXBROKER_NODE_LEASE_SECONDS": str(LEASE),
    "TXBROKER_DURABLE_TOPICS": "kept.>",
    "TXBROKER_ERROR_DELAY_SECONDS": "0.05",
    "TXBROKER_POLL_TIMEOUT_SECONDS": "1",
    "TXBROKER_REQUEST_IDLE_SECONDS": "5",
    "TXBROKER_CALL_TIMEOUT_SECONDS": "5",
}


class Loop:
    """All the clients, and the faults, on one cluster."""

    def __init__(self, cluster: ProxiedCluster, seed: int, *, going_back: bool) -> None:
        self._cluster = cluster
        chance = random.Random(seed)
        kind = SentinelFaults if isinstance(cluster, SentinelCluster) else Faults
        self.faults = kind(cluster, random.Random(chance.random()), going_back=going_back)
        self.log = Log()
        nodes = cluster.nodes
        self.readers: list[Reader] = [
            *(Poller(f"poller{n}", nodes, random.Random(chance.random())) for n in range(POLLERS)),
            *(Observer(f"observer{n}", nodes, random.Random(chance.random())) for n in range(OBSERVERS)),
        ]
        self._chance = chance
        self.calls, self.streams, self.jobs = self._make(Calls), self._make(Streams), self._make(Jobs)
        self.exclusive, self.service = self._make(Exclusive), self._make(ExclusiveService)
        self.increments, self.rooms = self._make(Increments), self._make(Rooms)
        self._writing = True
        self.deaf: list[str] = []
        self._failed: list[str] = []  # tasks of the loop itself
        self.unanswered: set[int] = set()

    def _make(self, kind: Any) -> Any:
        return kind(self.faults, random.Random(self._chance.random()))

    @property
    def exchanges(self) -> list[Exchange]:
        return [self.calls, self.streams, self.jobs, self.exclusive, self.service, self.increments, self.rooms]

    async def run(self, rounds: int) -> None:
        """Let *rounds* things fail, then let everything come to rest."""
        writers = [Deferred.fromCoroutine(self._write()) for _ in range(WRITERS)]
        readers = [Deferred.fromCoroutine(reader.follow()) for reader in self.readers]
        working = [Deferred.fromCoroutine(task) for exchange in self.exchanges for task in exchange.tasks()]
        await pause(PAUSE)
        for _ in range(rounds):
            await self.faults.strike()
            self.unanswered.update(self.calls.late())
            await pause(PAUSE)
        self.faults.say("everything is well again")
        await self._until_ready()
        self._writing = False
        await gatherResults(writers)
        await self._last_words()
        self.faults.say("the last events are read, and the calls have ended")
        for exchange in self.exchanges:
            await exchange.finish()
            exchange.going_on = False
        self.faults.say("all exchanges are finished")
        for reader in self.readers:
            reader.going_on = False
        for task in (*readers, *working):
            task.cancel()  # wherever it waits; it goes on from there, and finds that it is time to go
        done = await DeferredList([*readers, *working], consumeErrors=True)
        self._failed = [str(result) for well, result in done if not well]
        self.faults.say("everybody has gone")

    async def _write(self) -> None:
        while self._writing:
            acknowledged = await self.log.post(self._chance.choice(self._cluster.nodes))
            await pause(0.1 if acknowledged else 0.05)

    async def _until_ready(self) -> None:
        for node in self._cluster.nodes:
            while (await get(node.admin_url + "/ready")).status != 200:
                await pause(0.1)

    async def _last_words(self) -> None:
        """Post one event more at each node, and see who hears it; let the calls end meanwhile."""
        began = reactor.seconds()
        while reactor.seconds() - began < 1.0:  # readers that have just connected subscribe
            await pause(0.1)
        for node in self._cluster.nodes:
            while not await self.log.post(node):
                await pause(0.1)
        await self._let_read(max(self.log.acknowledged))
        self.calls.going_on = False
        while self.calls.open and not self.calls.late():
            await pause(0.1)
        self.unanswered.update(self.calls.open)

    async def _let_read(self, last: int) -> None:
        """Return when all have read the event *last*, or those who have not do not get on any more.

        In a new epoch a poller reads all from the beginning, which takes as long as the machine is slow.
        """
        behind = deaf(self.readers, last)
        progress, seen = reactor.seconds(), -1
        while behind and reactor.seconds() - progress < 2 * LIMIT:
            await pause(0.1)
            behind, read = deaf(self.readers, last), sum(len(reader.read) for reader in self.readers)
            if read != seen:
                progress, seen = reactor.seconds(), read
        self.deaf = behind

    # What came of it

    def lost(self) -> set[int]:
        """Return the acknowledged events that some reader has missed without being told."""
        return {number for reader in self.readers for number in reader.missing(self.log, self.faults.back)}

    def doubled(self) -> list[str]:
        """Return what readers have read twice, out of order or with a hole."""
        return [fault for reader in self.readers for fault in reader.faults]

    def problems(self) -> list[str]:
        """Return which promises were broken."""
        found = {
            f"acknowledged events lost: {sorted(self.lost())[:10]}": self.lost(),
            f"read twice, out of order or with holes: {self.doubled()[:5]}": self.doubled(),
            f"calls without an end: {sorted(self.unanswered)[:10]}": self.unanswered,
            f"calls executed twice: {self.calls.twice()[:10]}": self.calls.twice(),
            f"deaf readers: {self.deaf}": self.deaf,
            f"two holders of a name: {self.two_holders()[:5]}": self.two_holders(),
            f"others: {self.others()[:5]}": self.others(),
        }
        return [text for text, there in found.items() if there]

    def two_holders(self) -> list[str]:
        return self.exclusive.two + self.service.two

    def others(self) -> list[str]:
        return [*self._failed, *(fault for exchange in self.exchanges for fault in exchange.faults)]

    def __str__(self) -> str:
        told = max(len(reader.epochs) - 1 for reader in self.readers)
        lines = [
            f"faults: {self.faults.summary()}",
            f"acknowledged {len(self.log.acknowledged)} (refused or without an answer {self.log.refused})",
            f"lost {len(self.lost())} (new epochs told: {told})",
            f"doubled, out of order or with holes {len(self.doubled())}",
            f"unanswered calls {len(self.unanswered)} of {sum(self.calls.counts.values())}; "
            f"the longest took {self.calls.longest:.1f} s",
            f"calls executed twice {len(self.calls.twice())}",
            f"deaf readers {len(self.deaf)} of {len(self.readers)}",
            f"two holders of an exclusive name {len(self.two_holders())} of {self.exclusive.counts['holders']} + "
            f"{self.service.counts['holders']} holders",
            f"longest gap {self.log.longest_gap:.1f} s",
            *(f"{type(exchange).__name__.lower()}: {dict(exchange.counts)}" for exchange in self.exchanges),
            *(f"BROKEN: {problem}" for problem in self.problems()),
        ]
        return "\n".join(lines)


async def run(rounds: int, seed: int, *, sentinel: bool = False, going_back: bool = True) -> Loop:
    """Run the loop on a cluster of its own."""
    cluster = (SentinelCluster if sentinel else ProxiedCluster).new(**ENVIRON)
    await cluster.start()
    cluster.provoked.extend(["Redis", "store", "lease", "epoch", "subscription"])
    try:
        loop = Loop(cluster, seed, going_back=going_back)
        await loop.run(rounds)
        return loop
    finally:
        await cluster.end()


def main() -> None:
    """Do as many rounds as are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int, nargs="?", default=30, metavar="ROUNDS")
    parser.add_argument("--rounds", type=int, help="the same")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--sentinel", action="store_true", help="a master with two replicas and three Sentinels")
    parser.add_argument("--no-going-back", action="store_true", help="let Redis lose nothing")
    options = parser.parse_args()
    rounds = options.count if options.rounds is None else options.rounds

    async def work(_: Any) -> None:
        print(f"{rounds} rounds, seed {options.seed}")
        loop = await run(rounds, options.seed, sentinel=options.sentinel, going_back=not options.no_going_back)
        print(loop)
        if loop.problems():
            raise SystemExit(1)

    react(lambda reactor: Deferred.fromCoroutine(work(reactor)))


if __name__ == "__main__":
    main()
