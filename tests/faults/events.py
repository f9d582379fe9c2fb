"""Writers and readers of one stored topic, and what they may find fault with."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from itertools import count, pairwise
from typing import Any

import attrs
from twisted.internet import reactor

from tests.bridge.clients import Ganomede
from tests.faults.clients import NOT_REACHED, Failed, Lost, Native
from tests.support.daemon import Daemon
from tests.support.eventually import pause
from tests.support.http_client import Answer, get

CHANNEL = "kept.faults"
POST_TIMEOUT, POLL_TIMEOUT = 6.0, 4.0  # seconds
SLACK = 8.0  # seconds in which nodes may find out that the store went back


@attrs.define(eq=False)
class Log:
    """What the writers were told.

    Attributes:
        acknowledged: when, by the number of the event.
        refused: how many posts were answered with an error, or not at all.
    """

    acknowledged: dict[int, float] = attrs.field(factory=dict)
    refused: int = 0
    numbers: Iterator[int] = attrs.field(factory=lambda: count(1))

    async def post(self, node: Daemon) -> bool:
        """Post the next event at *node*; return whether it was acknowledged."""
        number = next(self.numbers)
        said = {"clientId": "w", "secret": "any", "channel": CHANNEL, "from": "s", "type": "T", "data": {"n": number}}
        try:
            answer = await Ganomede(node).post_raw(json.dumps(said).encode()).addTimeout(POST_TIMEOUT, reactor)
        except NOT_REACHED:
            answer = None
        if answer is None or answer.status != 200:
            self.refused += 1
            return False
        self.acknowledged[number] = reactor.seconds()
        return True

    @property
    def longest_gap(self) -> float:
        """The longest time, in seconds, in which no post was acknowledged."""
        times = sorted(self.acknowledged.values())
        return max((after - before for before, after in pairwise(times)), default=0.0)


@attrs.define(eq=False)
class Reader:
    """Follows the topic from its first event on.

    Attributes:
        read: numbers of the events, in order.
        epochs: when it was told of each epoch.
        answered: what it was answered last, if that may say why it does not go on.
        faults: what it should not have read.
    """

    name: str
    nodes: Sequence[Daemon]
    chance: random.Random
    read: list[int] = attrs.field(factory=list)
    epochs: dict[str, float] = attrs.field(factory=dict)
    faults: list[str] = attrs.field(factory=list)
    epoch: str = ""
    last: int = 0
    going_on: bool = True
    answered: str = ""
    node: Daemon | None = None  # where it is connected, if it stays there
    _anywhere: bool = False  # whether the next event may have any id

    def took(self, epoch: str, id: int, number: int) -> None:
        """Note one event."""
        if epoch != self.epoch:
            if epoch in self.epochs:
                self.faults.append(f"{self.name} was led back into the epoch {epoch}")
            self.began(epoch)
        if id <= self.last:
            self.faults.append(f"{self.name} has read id {id} of {epoch} behind {self.last}")
        elif id != self.last + 1 and not self._anywhere:
            self.faults.append(f"{self.name} has read id {id} of {epoch} after {self.last}: a hole")
        self._anywhere = False
        self.last = id
        self.read.append(number)

    def began(self, epoch: str) -> None:
        """Begin anew, in another epoch."""
        self.epoch, self.last = epoch, 0
        self.epochs.setdefault(epoch, reactor.seconds())

    def missing(self, log: Log, back: Sequence[tuple[float, float]]) -> list[int]:
        """Return the acknowledged events that were not read, and that no new epoch has told to be lost.

        *back* has when the store began to go back, or the copy was taken that it went back to, and when
        that was over.
        """
        read = set(self.read)
        told = list(self.epochs.values())[1:]  # the first is no new one

        def covered(at: float) -> bool:
            return any(begin <= at <= end + SLACK and any(begin <= when for when in told) for begin, end in back)

        return [number for number, at in log.acknowledged.items() if number not in read and not covered(at)]

    async def follow(self) -> None:
        """Read until ``going_on`` ends."""
        raise NotImplementedError


class Poller(Reader):
    """Over HTTP, each poll at another node, from its own cursor."""

    async def follow(self) -> None:
        while self.going_on:
            node = self.chance.choice(self.nodes)
            query: dict[str, Any] = {"epoch": self.epoch, "after": self.last}
            url = Ganomede(node).url("events", channel=CHANNEL, clientId=self.name, limit=500, **query)
            try:
                answer = await get(url).addTimeout(POLL_TIMEOUT, reactor)
            except NOT_REACHED:
                answer = None
            self._note(node, answer)
            if answer is not None and answer.status == 410:
                # The node may be behind the others: only an epoch that is new to this reader is a new one.
                epoch = answer.headers.get("x-epoch", "")
                if epoch and epoch not in self.epochs:
                    self.began(epoch)
            elif answer is not None and answer.status == 200 and (epoch := answer.headers.get("x-epoch", "")):
                for event in answer.json():
                    self.took(epoch, event["id"], event["data"]["n"])
            if self.going_on and (answer is None or answer.status != 200):
                await pause(0.05)

    def _note(self, node: Daemon, answer: Answer | None) -> None:
        epoch = "" if answer is None else answer.headers.get("x-epoch", "")
        said = "nothing" if answer is None else f"{answer.status} {epoch} {answer.body[:80]!r}"
        self.answered = f", to which {node.directory.name} has answered {said}"


class Observer(Reader):
    """Over a WebSocket; what passes while it has none is nothing to it."""

    def began(self, epoch: str) -> None:
        super().began(epoch)
        self._anywhere = True

    async def follow(self) -> None:
        while self.going_on:
            try:
                self.node = self.chance.choice(self.nodes)
                await self._observe(await Native.join(self.node))
            except (Failed, Lost, *NOT_REACHED):
                if self.going_on:
                    await pause(0.2)

    async def _observe(self, client: Native) -> None:
        self.last, self._anywhere = 0, True
        client.on_event = lambda frame: self.took(frame["epoch"], frame["id"], frame["payload"]["n"])
        try:
            await client.ask("broker.subscribe", CHANNEL).addTimeout(POST_TIMEOUT, reactor)
            while self.going_on and not client.closed:
                await pause(0.1)
        finally:
            client.on_event = lambda _: None  # what the next one reads is in an order of its own
            client.drop()

    def missing(self, log: Log, back: Sequence[tuple[float, float]]) -> list[int]:
        return []  # between two connections it may miss anything; holes within one are faults


def deaf(readers: Sequence[Reader], number: int) -> list[str]:
    """Return the readers that have not read the event *number*, the last one."""
    return [
        f"{reader.name} at {reader.node and reader.node.directory.name}, at {reader.last} of {reader.epoch}"
        f"{reader.answered}"
        for reader in readers
        if number not in reader.read[-1000:]
    ]
