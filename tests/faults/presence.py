"""Clients join a topic, leave it, are lost and come back at random, on three nodes of which one is killed.

``python -m tests.faults.presence [--clients 300] [--seconds 60] [--kills 1] [--seed N]``.  The exit status is 1 when
the nodes do not show the same members at the end, those who have stayed, or the joins and leaves that a listener
of some node has got do not add up to them.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import react
from websockets.exceptions import InvalidState

from tests.faults.clients import NOT_REACHED
from tests.support.cluster import Cluster
from tests.support.daemon import Daemon
from tests.support.eventually import TIMEOUT, eventually, pause
from tests.support.ws_client import Closed, Refused, WebSocket, ws_connect

TOPIC = "room"
UNREACHED = (Closed, Refused, InvalidState, *NOT_REACHED)
ENVIRON = {"TXBROKER_NODE_LEASE_SECONDS": "2"}


async def ask(socket: WebSocket, method: str, *arguments: Any) -> Any:
    """Return the result of a call; frames that come before it are dropped."""
    socket.send_json({"type": "call", "id": "1", "method": method, "payload": list(arguments)})
    while True:
        frame = await socket.receive_json()
        if frame["type"] == "result":
            return frame["payload"]
        assert frame["type"] != "error", frame


@attrs.define(eq=False)
class Listener:
    """Adds up the joins and leaves of one node, from the members it has found there.

    Attributes:
        node: of the broker.
        present: whom it takes for present.
        problems: joins of those who were there, and leaves of those who were not.
        heard: how many joins and leaves it has got.
    """

    node: Daemon
    present: set[str] = attrs.field(factory=set)
    problems: list[str] = attrs.field(factory=list)
    heard: int = 0
    going_on: bool = True
    _socket: WebSocket | None = None

    async def listen(self) -> None:
        """Read until ``stop``; whenever the connection is lost, begin again."""
        while self.going_on:
            try:
                self._socket = await ws_connect(self.node.ws("/owlmeans"))
                await ask(self._socket, "broker.subscribe", f"broker.presence.{TOPIC}")
                self._socket.send_json({"type": "call", "id": "2", "method": "broker.members", "payload": [TOPIC]})
                await self._read(self._socket)
            except UNREACHED:
                await pause(0.05)

    async def _read(self, socket: WebSocket) -> None:
        begun = False
        while self.going_on:
            frame = await socket.receive_json(10 * TIMEOUT)
            if frame["type"] == "result":
                self.present = {member["id"] for member in frame["payload"]["members"]}
                begun = True
            elif frame["type"] == "event" and begun:
                self._on_event(frame["name"], frame["payload"]["id"])

    def _on_event(self, name: str, client: str) -> None:
        self.heard += 1
        if (client in self.present) != (name == "leave"):
            self.problems.append(f"{name} of {client}")
        (self.present.add if name == "join" else self.present.discard)(client)

    def stop(self) -> None:
        """Listen no more."""
        self.going_on = False
        if self._socket is not None:
            self._socket.abort()


class Torture:
    """Clients that come and go.

    Args:
        nodes: where the broker is.
        clients: how many there are.
        seed: of the choices.
    """

    def __init__(self, nodes: Sequence[Daemon], clients: int, seed: int) -> None:
        self.nodes, self.chance = nodes, random.Random(seed)
        self.names = [f"c{number}" for number in range(clients)]
        self.listeners = [Listener(node) for node in nodes]
        self.joins = 0
        self.problems: list[str] = []
        self._going_on = True
        self._staying: dict[str, WebSocket] = {}

    async def run(self, seconds: float, kills: int) -> None:
        """Let them come and go for *seconds*, then check what every node shows."""
        listening = gatherResults([Deferred.fromCoroutine(each.listen()) for each in self.listeners])
        moving = gatherResults([Deferred.fromCoroutine(self._move(name)) for name in self.names])
        for _ in range(kills):
            await pause(seconds / (kills + 1))
            node = self.chance.choice(self.nodes)
            await node.kill()
            await node.start()
        await pause(seconds / (kills + 1))
        self._going_on = False
        await moving
        await self._check()
        for listener in self.listeners:
            listener.stop()
        for socket in self._staying.values():
            socket.abort()
        await listening

    async def _move(self, name: str) -> None:
        stays = self.chance.random() < 0.5
        while self._going_on or (stays and name not in self._staying):
            node = self.chance.choice(self.nodes)
            try:
                socket = await ws_connect(node.ws(f"/owlmeans?client={name}"))
                await ask(socket, "broker.subscribe", TOPIC, {"presence": {"n": name}})
                self.joins += 1
                if self._going_on:
                    await pause(self.chance.uniform(0.0, 4.0))
                    await self._go(socket)
                else:
                    self._staying[name] = socket
            except UNREACHED:
                await pause(0.1)
            if self._going_on:
                await pause(self.chance.choice((0.0, 0.5, 3.0)))

    async def _go(self, socket: WebSocket) -> None:
        """Let a client unsubscribe, close its connection, or lose it."""
        way = self.chance.randrange(3)
        if way == 0:
            await ask(socket, "broker.unsubscribe", TOPIC)
        if way == 1:
            await socket.close()
        else:
            socket.abort()

    async def _check(self) -> None:
        expected = set(self._staying)
        try:
            await eventually(lambda: all(listener.present == expected for listener in self.listeners), TIMEOUT)
        except Exception:
            for listener in self.listeners:
                more, fewer = listener.present - expected, expected - listener.present
                self.problems.append(f"{listener.node.port}: {len(more)} too many, {len(fewer)} missing")
        for listener in self.listeners:
            socket = await ws_connect(listener.node.ws("/owlmeans"))
            answer = await ask(socket, "broker.members", TOPIC)
            socket.abort()
            if {member["id"] for member in answer["members"]} != expected or answer["count"] != len(expected):
                self.problems.append(f"{listener.node.port} shows {answer['count']} of {len(expected)} members")
            self.problems += listener.problems

    def __str__(self) -> str:
        heard = [listener.heard for listener in self.listeners]
        return f"{self.joins} joins, {len(self._staying)} members, {heard} events heard; problems: {self.problems}"


async def run(clients: int, seconds: float, kills: int, seed: int = 1) -> Torture:
    """Let *clients* come and go on three nodes, some of which are killed."""
    cluster = await Cluster.new(3, **ENVIRON).start()
    cluster.provoked.append("an event on broker.client.")  # of a node that has started just now
    torture = Torture(cluster.nodes, clients, seed)
    await torture.run(seconds, kills)
    await cluster.end()
    return torture


def main() -> None:
    """Run what the arguments say; end with status 1 if a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--kills", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()

    async def work(_: Any) -> None:
        torture = await run(chosen.clients, chosen.seconds, chosen.kills, chosen.seed)
        print(torture)
        if torture.problems:
            raise SystemExit(1)

    react(lambda reactor: Deferred.fromCoroutine(work(reactor)))


if __name__ == "__main__":
    main()
