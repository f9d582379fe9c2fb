"""Histories of keys under faults, judged: ``python -m tests.faults.linearizability 100``.

Eight clients get, set, compare and set, patch and increment a few keys on three nodes, while nodes, Redis
and the network fail.  Whatever node is asked, what was answered must fit one order of all operations.
"""

from __future__ import annotations

import argparse
import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from tests.faults.clients import NOT_REACHED, Failed, Lost, Native
from tests.faults.faults import LEASE, Faults
from tests.faults.histories import CONFLICT, UNKNOWN, Operation, State, Undecided, is_linearizable, revisions_of
from tests.support.cluster import ProxiedCluster
from tests.support.daemon import Daemon
from tests.support.eventually import pause
from tests.support.http_client import get

CLIENTS, KEYS, FAULTS = 8, 3, 2  # of one history
WAITING = 1.5  # seconds for an answer; then the operation counts as one without
THINKING = 0.02  # seconds at most between two operations of a client
TELLING = 20.0  # seconds in which a new epoch is told
KINDS = ("get", "get", "set", "compare", "patch", "increment")


@attrs.define(eq=False)
class Client:
    """Does one operation after the other, each at a node that it picks."""

    name: str
    nodes: Sequence[Daemon]
    chance: random.Random
    histories: dict[str, list[Operation]]
    _connections: dict[Daemon, Native] = attrs.field(factory=dict)
    _revisions: Counter[str] = attrs.field(factory=Counter)  # that were seen last

    async def step(self) -> None:
        """Do one operation, and write down what came of it."""
        node, key, kind = self.chance.choice(self.nodes), self.chance.choice(list(self.histories)), self._kind()
        try:
            connection = await self._connection(node)
        except NOT_REACHED:
            await pause(0.1)
            return
        argument: Any = None if kind == "get" else str(self.chance.randrange(1, 10))
        if kind == "compare":
            argument = argument, self._revisions[key]
        start = reactor.seconds()
        answer = await self._answer(connection, key, kind, argument)
        end = math.inf if answer is UNKNOWN else reactor.seconds()
        self.histories[key].append(Operation(kind, argument, start, end, answer, f"{self.name} at {node.url}"))

    def _kind(self) -> str:
        return self.chance.choice(KINDS)

    async def _connection(self, node: Daemon) -> Native:
        there = self._connections.get(node)
        if there is None or there.closed:
            there = self._connections[node] = await Native.join(node)
        return there

    async def _answer(self, connection: Native, key: str, kind: str, argument: Any) -> Any:
        arguments = {
            "get": lambda: [],
            "set": lambda: [argument],
            "compare": lambda: [argument[0], {"revision": argument[1]}],
            "patch": lambda: [argument],
            "increment": lambda: [int(argument)],
        }[kind]()
        method = "broker." + ("set" if kind == "compare" else kind)
        try:
            told = await connection.ask(method, key, *arguments).addTimeout(WAITING, reactor)
        except Failed as failed:
            # Any other error may stand for an answer that was lost between the node and Redis.
            return CONFLICT if ":conflict:" in failed.words else UNKNOWN
        except (Lost, *NOT_REACHED):
            connection.drop()
            return UNKNOWN
        self._revisions[key] = told["revision"]
        if kind in ("set", "compare"):
            return told["revision"]
        return (told["value"] or "", told["revision"])

    def leave(self) -> None:
        for connection in self._connections.values():
            connection.drop()


@attrs.define
class Record:
    """What was done with some keys, and answered, while things failed.

    Attributes:
        histories: of each key.
        back: when the store began to go back, and when all nodes had told a new epoch.
        silent: how often they told none.
    """

    histories: dict[str, list[Operation]]
    back: list[tuple[float, float]] = attrs.field(factory=list)
    silent: int = 0

    def parts(self) -> Iterator[tuple[str, list[Operation], State, set[float]]]:
        """Give a name, operations, the state before them, and all revisions that were given, for each key and epoch."""
        segments = {key: self._segments(history) for key, history in self.histories.items()}
        for number in range(len(self.back) + 1):
            taken = set().union(*(revisions_of(parts[number]) for parts in segments.values()))
            for key, parts in segments.items():
                yield f"{key} in epoch {number}", parts[number], None if number else ("", 0), taken

    def _segments(self, history: list[Operation]) -> list[list[Operation]]:
        """Return the operations of each epoch."""
        found, rest = [], history
        for began, told in self.back:
            found.append([_without_answer(one, began) for one in rest if one.start < began])
            # What was under way meanwhile may have happened to what came after.
            rest = [_without_answer(one, math.inf if one.start > told else 0) for one in rest if one.end > began]
        return [*found, rest]


def _without_answer(one: Operation, until: float) -> Operation:
    """Return *one* as it is, or as without an answer if that came behind *until*."""
    return one if one.end <= until else attrs.evolve(one, end=math.inf, answer=UNKNOWN)


async def record(cluster: ProxiedCluster, faults: Faults, seed: int, keys: Sequence[str]) -> Record:
    """Let clients work on *keys* while ``FAULTS`` things fail."""
    chance = random.Random(seed)
    made = Record({key: [] for key in keys})
    clients = [Client(f"c{n}", cluster.nodes, random.Random(chance.random()), made.histories) for n in range(CLIENTS)]
    going_on = True

    async def work(client: Client) -> None:
        while going_on:
            await client.step()
            await pause(client.chance.random() * THINKING)

    working = [Deferred.fromCoroutine(work(client)) for client in clients]
    for _ in range(FAULTS):
        await pause(0.3)
        before = await epochs(cluster)
        await faults.strike()
        if len(faults.back) > len(made.back):
            told = await _until_told(cluster, before)
            made.silent += not told
            made.back.append((faults.back[-1][0], reactor.seconds()))
    await pause(0.5)
    going_on = False
    await gatherResults(working)
    for client in clients:
        client.leave()
    return made


async def epochs(cluster: ProxiedCluster) -> set[str]:
    """Return the epochs that the nodes are in: one, as long as the store has not gone back."""
    return {(await get(node.admin_url + "/about")).json()["epoch"] for node in cluster.nodes}


async def _until_told(cluster: ProxiedCluster, before: set[str]) -> bool:
    """Return whether all nodes tell one new epoch before long."""
    end = reactor.seconds() + TELLING
    while reactor.seconds() < end:
        now = await epochs(cluster)
        if len(now) == 1 and not now & before:
            return True
        await pause(0.1)
    return False


async def until_ready(cluster: ProxiedCluster) -> None:
    """Wait until all nodes take work."""
    for node in cluster.nodes:
        while (await get(node.admin_url + "/ready")).status != 200:
            await pause(0.1)


@attrs.define
class Tally:
    """What came of the histories."""

    histories: int = 0
    operations: Counter[str] = attrs.field(factory=Counter)
    violations: list[str] = attrs.field(factory=list)

    def judge(self, name: str, history: Sequence[Operation], state: State, taken: set[float]) -> None:
        """Count a history that began in *state*, and note it when it is not linearizable; *taken* as there."""
        for one in history:
            self.operations["without an answer" if one.answer is UNKNOWN else "answered"] += 1
        try:
            verdict = "" if is_linearizable(history, state, taken) else "is not linearizable"
        except Undecided as undecided:
            verdict = f"could not be judged {undecided}"
        if verdict:
            self.violations.append(f"{name} {verdict}")
            print(f"{name} {verdict}:")
            for one in sorted(history, key=lambda one: one.start):
                print("   ", one)

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {name}" for name, count in sorted(self.operations.items()))
        return f"{self.histories} histories, operations: {counts}; violations: {self.violations or 'none'}"


async def run(histories: int, seed: int, *, going_back: bool = False) -> Tally:
    """Record and judge so many histories, on one cluster."""
    cluster = ProxiedCluster.new(TXBROKER_NODE_LEASE_SECONDS=str(LEASE), TXBROKER_PROTOCOLS="owlmeans")
    cluster.provoked.extend(["Redis", "lost", "went back"])
    await cluster.start()
    tally, chance = Tally(), random.Random(seed)
    try:
        await until_ready(cluster)
        for number in range(histories):
            before = await epochs(cluster)
            keys = [f"h{number}k{key}" for key in range(KEYS)]
            faults = Faults(cluster, chance, going_back=going_back)
            made = await record(cluster, faults, chance.randrange(1 << 30), keys)
            for name, history, state, taken in made.parts():
                tally.judge(f"key {name}", history, state, taken)
            tally.histories += 1
            await until_ready(cluster)
            if made.silent:
                tally.violations.append(f"the store went back in history {number}, and no new epoch was told")
            if not made.back and await epochs(cluster) != before:
                tally.violations.append(f"a new epoch was told in history {number}, although nothing was lost")
    finally:
        await cluster.end()
    return tally


def main() -> None:
    """Record and judge as many histories as are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("histories", type=int, nargs="?", default=100)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument("--going-back", action="store_true", help="let Redis go back to snapshots, too")
    options = parser.parse_args()

    async def work(_: Any) -> None:
        print(f"{options.histories} histories, seed {options.seed}")
        tally = await run(options.histories, options.seed, going_back=options.going_back)
        print(tally)
        if tally.violations:
            raise SystemExit(1)

    react(lambda reactor: Deferred.fromCoroutine(work(reactor)))


if __name__ == "__main__":
    main()
