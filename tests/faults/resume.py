"""A subscriber behind a network that is cut, frozen and reset at random: it gets every event once and in order.

``python -m tests.faults.resume [--events 20000] [--faults 100] [--nodes 1|3] [--seed N]``.  Between the
client and each node is a proxy; nodes are killed, too: one on SQLite, or three on one Redis.  The client comes back to
any of them with the position of the last event that it has.  The exit status is 1 when an event is missing, or
comes twice, or out of order, and that was not told.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react

from tests.bridge.clients import Ganomede
from tests.faults.clients import NOT_REACHED
from tests.support.cluster import Cluster
from tests.support.daemon import Daemon
from tests.support.eventually import TIMEOUT, eventually, pause
from tests.support.proxy import Proxy
from tests.support.ws_client import Closed, Refused, WebSocket, ws_connect

TOPIC = "kept.resume"
WRITERS = 8
SILENCE = 0.5  # seconds without anything after which the client gives its connection up
UNREACHED = (Closed, Refused, *NOT_REACHED)
ENVIRON = {"TXBROKER_DURABLE_TOPICS": "kept.>", "TXBROKER_NODE_LEASE_SECONDS": "2"}


@attrs.define(eq=False)
class Subscriber:
    """Comes back with its position whenever it has lost its connection.

    Attributes:
        ids: of the events that it has got.
        problems: what it should not have got.
        lost: how often it was told that it has lost something.
        connections: how often it has come.
    """

    proxies: Sequence[Proxy]
    chance: random.Random
    ids: list[int] = attrs.field(factory=list)
    problems: list[str] = attrs.field(factory=list)
    lost: int = 0
    connections: int = 0
    going_on: bool = True
    _epoch: str = ""
    _last: int = 0

    async def follow(self) -> None:
        """Read until ``going_on`` ends."""
        while self.going_on:
            proxy = self.chance.choice(self.proxies)
            try:
                socket = await ws_connect(f"ws://127.0.0.1:{proxy.port}/owlmeans", timeout=SILENCE)
            except UNREACHED:
                await pause(0.02)
                continue
            try:
                await self._read(socket)
            except UNREACHED:
                pass
            finally:
                socket.abort()

    async def _read(self, socket: WebSocket) -> None:
        self.connections += 1
        origin: Any = {"epoch": self._epoch, "id": self._last} if self._epoch else "start"
        call = {"type": "call", "id": "1", "method": "broker.subscribe", "payload": [TOPIC, {"from": origin}]}
        socket.send_json(call)
        while self.going_on:
            frame = await socket.receive_json(SILENCE)
            kind, payload = frame["type"], frame.get("payload")
            if kind == "event":
                self._on_event(frame["epoch"], frame["id"])
            elif kind == "result":
                self._begin(payload["epoch"], payload["id"], payload["recovered"])
            elif kind == "system" and frame["event"] == "broker.gap":
                self.problems.append(f"lost {payload}") if payload["why"] != "epoch" else self._restart()
            elif kind == "error":
                return
            if kind == "event" and self._last % 100 == 0:
                socket.send_json({"type": "ping"})

    def _begin(self, epoch: str, id: int, recovered: bool) -> None:
        if not recovered:
            self.lost += 1
        elif self._epoch and (epoch, id) != (self._epoch, self._last):
            self.problems.append(f"asked for {self._last} and began at {id}")
        self._epoch, self._last = epoch, id

    def _restart(self) -> None:
        self.lost, self._epoch, self._last = self.lost + 1, "", 0

    def _on_event(self, epoch: str, id: int) -> None:
        if id != self._last + 1 or (self._epoch and epoch != self._epoch):
            self.problems.append(f"{id} of {epoch} after {self._last} of {self._epoch}")
        self._epoch, self._last = epoch, id
        self.ids.append(id)


class Torture:
    """One subscriber and some writers, while things fail.

    Args:
        nodes: where the broker is.
        count: how many events are published.
        seed: of the choices.
        kills: whether nodes are killed, too.
    """

    def __init__(self, nodes: Sequence[Daemon], count: int, seed: int, *, kills: bool) -> None:
        self.nodes, self.count, self.kills = nodes, count, kills
        self.chance = random.Random(seed)
        self.proxies = [Proxy(node.port) for node in nodes]
        self.subscriber = Subscriber(self.proxies, random.Random(self.chance.random()))
        self.acknowledged: list[int] = []
        self.faults: dict[str, int] = {}
        self._begun = 0
        self._progress = 0.0  # how much of it is over
        self._kinds: list[Callable[[], Coroutine[Any, Any, None]]] = []

    async def run(self, faults: int) -> None:
        """Let *faults* things fail, then wait until the subscriber has all."""
        for proxy in self.proxies:
            await proxy.start()
        following = Deferred.fromCoroutine(self.subscriber.follow())
        writing = gatherResults([Deferred.fromCoroutine(self._write()) for _ in range(WRITERS)])
        for number in range(1, faults + 1):
            await self._fail()
            self._progress = number / faults
        for proxy in self.proxies:
            proxy.heal()
        await writing
        await eventually(lambda: self.subscriber.ids and self.subscriber.ids[-1] >= max(self.acknowledged), TIMEOUT)
        self.subscriber.going_on = False
        for proxy in self.proxies:
            await proxy.stop()
        await following

    async def _write(self) -> None:
        while self._begun < self.count:
            if self._begun > self.count * self._progress + WRITERS:
                await pause(0.01)  # so that there is something to miss all the while
                continue
            self._begun += 1
            number = self._begun
            while (id := await self._post(number)) is None:
                await pause(0.05)
            self.acknowledged.append(id)

    async def _post(self, number: int) -> int | None:
        node = self.chance.choice(self.nodes)
        said = {"clientId": "w", "channel": TOPIC, "from": "w", "type": "t", "data": {"n": number}}
        try:
            answer = await Ganomede(node).post_raw(json.dumps(said).encode()).addTimeout(5, reactor)
        except NOT_REACHED:
            return None
        return int(answer.json()["id"]) if answer.status == 200 else None

    async def _fail(self) -> None:
        if not self._kinds:  # each once before any comes again
            self._kinds = [self._reset, self._freeze, self._lose, *([self._kill] if self.kills else [])]
            self.chance.shuffle(self._kinds)
        kind = self._kinds.pop()
        name = kind.__name__.strip("_")
        self.faults[name] = self.faults.get(name, 0) + 1
        await kind()
        await pause(self.chance.uniform(0.02, 0.15))

    async def _reset(self) -> None:
        for proxy in self.proxies:
            proxy.reset()

    async def _freeze(self) -> None:
        """Keep all bytes for a while, mostly for less than the client waits."""
        for proxy in self.proxies:
            proxy.hold()
        await pause(self.chance.choice((0.05, 0.2, 1.5 * SILENCE)))
        for proxy in self.proxies:
            proxy.heal()

    async def _lose(self) -> None:
        """Lose what is under way, and all that follows on these connections."""
        for proxy in self.proxies:
            proxy.swallow()
        await pause(self.chance.uniform(0.0, 0.1))
        for proxy in self.proxies:
            proxy.heal()

    async def _kill(self) -> None:
        node = self.chance.choice(self.nodes)
        await node.kill()
        await node.start()

    @property
    def problems(self) -> list[str]:
        """What broke the promise."""
        ids, reader = self.subscriber.ids, self.subscriber
        missing = sorted(set(self.acknowledged).difference(ids))
        found = list(reader.problems)
        if missing and not reader.lost:
            found.append(f"{len(missing)} acknowledged events are missing: {missing[:10]}")
        if ids != sorted(set(ids)) and not reader.lost:
            found.append("events came twice or out of order")
        return found

    def __str__(self) -> str:
        reader = self.subscriber
        return (
            f"{len(reader.ids)} events to {reader.connections} connections, {reader.lost} times told of a loss; "
            f"{self.faults}; problems: {self.problems}"
        )


async def run(nodes: int, count: int, faults: int, seed: int = 1, *, kills: bool = True) -> Torture:
    """Torture one node on SQLite, or three on one Redis."""
    if nodes == 1:
        directory = Path(tempfile.mkdtemp(prefix="txbroker-"))
        daemon = await Daemon(directory, **ENVIRON).start()
        try:
            torture = Torture([daemon], count, seed, kills=kills)
            await torture.run(faults)
        finally:
            await daemon.stop()
            shutil.rmtree(directory)
        assert daemon.troubles() == []
        return torture
    cluster = await Cluster.new(nodes, **ENVIRON).start()
    torture = Torture(cluster.nodes, count, seed, kills=kills)
    await torture.run(faults)
    await cluster.end()
    return torture


def main() -> None:
    """Run what the arguments say; end with status 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--faults", type=int, default=100)
    parser.add_argument("--nodes", type=int, choices=(1, 3), default=1)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()

    async def work(_: Any) -> None:
        torture = await run(chosen.nodes, chosen.events, chosen.faults, chosen.seed)
        print(torture)
        if torture.problems:
            raise SystemExit(1)

    react(lambda reactor: Deferred.fromCoroutine(work(reactor)))


if __name__ == "__main__":
    main()
