"""Publications that three clients send to three nodes, with kills in between: each is stored once.

Usage: ``python -m tests.faults.dedupe [PUBLICATIONS]``.  It does so on three nodes with one Redis, which
is killed too, and on one node with SQLite; it prints what was done, and what breaks a promise.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred, DeferredList, gatherResults
from twisted.internet.task import react

from tests.faults.clients import NOT_REACHED, Failed, Lost, Native
from tests.support.cluster import Cluster
from tests.support.daemon import Daemon
from tests.support.eventually import eventually, pause
from tests.support.http_client import get

PUBLICATIONS = 1000
RESTARTS = 15
CLIENTS = 3  # of which each sends every publication
TOGETHER = 8  # publications of one client that are under way
PAUSE = 0.2  # seconds between them, at most
BATCH = 4  # that are one call, now and then
TOPIC = "orders"
UNAVAILABLE = "socket:internal"
SETTINGS = {"TXBROKER_POLL_TIMEOUT_SECONDS": "0.1", "TXBROKER_NODE_LEASE_SECONDS": "2"}

Restart = Callable[[], Awaitable[None]]


@attrs.define(eq=False)
class Publishers:
    """The clients, and what they were answered.

    Attributes:
        nodes: where they publish.
        restarts: what is done to the servers, by chance.
        times: how often, while they publish.
        count: how many publications each of them sends.
        answers: by the number of the publication.
        faults: what breaks a promise.
    """

    nodes: Sequence[Daemon]
    restarts: Sequence[Restart]
    times: int
    count: int
    chance: random.Random
    answers: dict[int, list[dict[str, Any]]] = attrs.field(factory=dict)
    faults: list[str] = attrs.field(factory=list)
    sent: int = 0
    answered: int = 0

    async def run(self) -> None:
        """Publish until everybody has got an answer for all, and check what is stored then."""
        clients = [Deferred.fromCoroutine(self._client(number)) for number in range(CLIENTS)]
        await gatherResults([*clients, Deferred.fromCoroutine(self._disturb())])
        self._check(await self.stored())

    async def _disturb(self) -> None:
        for number in range(self.times):
            # By what is answered, not by the time: on a busy machine nothing would be between two of them.
            await eventually(partial(self._has_answered, CLIENTS * self.count * number // self.times))
            await self.chance.choice(self.restarts)()

    def _has_answered(self, due: int) -> bool:
        return self.answered >= due

    async def _client(self, number: int) -> None:
        left = list(range(self.count))
        self.chance.shuffle(left)
        joins = 0
        while left:
            node = self.nodes[(number + joins) % len(self.nodes)]
            joins += 1
            try:
                client = await Native.join(node)
            except NOT_REACHED:
                await pause(0.05)
                continue
            while left and not client.closed:
                await self._publish_some(client, left)
            self.faults += client.faults
            client.drop()

    async def _publish_some(self, client: Native, left: list[int]) -> None:
        """Send the last of *left*, and remove those that were answered."""
        chosen = left[-TOGETHER:]
        self.sent += len(chosen)
        if self.chance.random() < 0.2:
            calls = [chosen[at : at + BATCH] for at in range(0, len(chosen), BATCH)]
            asked = [client.ask("broker.batch", [draft(number) for number in call]) for call in calls]
        else:
            calls = [[number] for number in chosen]
            options = [{"durable": True, "key": f"k{number}"} for number in chosen]
            asked = [client.ask("broker.publish", TOPIC, {"n": n}, o) for n, o in zip(chosen, options, strict=True)]
        outcomes: Any = await DeferredList(asked, consumeErrors=True)
        for call, (done, result) in zip(calls, outcomes, strict=True):
            if done:
                for number, answer in zip(call, result.get("events", [result]), strict=True):
                    self.answers.setdefault(number, []).append(answer)
                    left.remove(number)
                    self.answered += 1
            elif not (result.check(Lost) or (result.check(Failed) and result.value.words == UNAVAILABLE)):
                self.faults.append(f"{call} ended with {result.value!r}")
        await pause(self.chance.uniform(0.0, PAUSE))

    async def stored(self) -> list[dict[str, Any]]:
        """Return all events that are stored."""
        found: list[dict[str, Any]] = []
        while True:
            after = found[-1]["id"] if found else 0
            url = f"{self.nodes[0].url}/events/v1/events?channel={TOPIC}&clientId=reader&after={after}"
            answer = await get(url)
            page = answer.json() if answer.status == 200 else None
            if page == []:
                return found
            found += page or []
            if page is None:
                await pause(0.05)  # the node has just been started

    def _check(self, events: list[dict[str, Any]]) -> None:
        times = Counter(event["data"]["n"] for event in events)
        self.faults += [f"{number} is stored {count} times" for number, count in times.items() if count > 1]
        self.faults += [f"{number} is lost" for number in range(self.count) if number not in times]
        ids = {event["data"]["n"]: event["id"] for event in events}
        for number, answers in sorted(self.answers.items()):
            if len(answers) != CLIENTS or {answer["id"] for answer in answers} != {ids.get(number)}:
                self.faults.append(f"{number} has the id {ids.get(number)}, and was answered with {answers}")
            if sum(not answer.get("duplicate") for answer in answers) > 1:
                self.faults.append(f"{number} was new to several: {answers}")


def draft(number: int) -> dict[str, Any]:
    """Return a publication as one of a batch."""
    return {"topic": TOPIC, "payload": {"n": number}, "key": f"k{number}"}


async def on_three_nodes(count: int, times: int, chance: random.Random) -> Publishers:
    """Publish to three nodes on one Redis; each of the four is killed now and then."""
    cluster = await Cluster.new(**SETTINGS).start()

    async def restart_node() -> None:
        node = chance.choice(cluster.nodes)
        await node.kill()
        await node.start()

    async def restart_redis() -> None:
        await cluster.redis.kill()
        await cluster.redis.start()

    publishers = Publishers(cluster.nodes, (restart_node, restart_node, restart_redis), times, count, chance)
    cluster.provoked.append("Redis")
    try:
        await publishers.run()
    finally:
        await cluster.end()
    return publishers


async def on_one_node(count: int, times: int, chance: random.Random, directory: Path) -> Publishers:
    """Publish to one node with SQLite, which is killed now and then."""
    daemon = await Daemon(directory, **SETTINGS).start()

    async def restart() -> None:
        await daemon.kill()
        await daemon.start()

    publishers = Publishers([daemon], (restart,), times, count, chance)
    await publishers.run()
    await daemon.stop()
    publishers.faults += daemon.troubles()
    return publishers


def report(publishers: Publishers) -> None:
    """Print what was done; end with the status 1 when a promise was broken."""
    done = f"{publishers.count} publications of {CLIENTS} clients, {publishers.sent} sent, {publishers.times} restarts"
    print(done, f"{len(publishers.faults)} faults", *publishers.faults, sep="\n", flush=True)
    if publishers.faults:
        raise SystemExit(1)


def main(words: Sequence[str]) -> None:
    """Publish as many as the first of *words* says."""
    count, chance = int(words[0]) if words else PUBLICATIONS, random.Random()

    async def work(_: Any) -> None:
        with tempfile.TemporaryDirectory() as directory:
            report(await on_three_nodes(count, RESTARTS, chance))
            report(await on_one_node(count, RESTARTS, chance, Path(directory)))

    react(lambda reactor: Deferred.fromCoroutine(work(reactor)))


if __name__ == "__main__":
    main(sys.argv[1:])
