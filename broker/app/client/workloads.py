"""What ``txbroker bench`` does again and again, and measures."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar
from uuid import uuid4

import attrs

from broker.client import Event, Items, Job
from broker.client.asyncio import Client

KEYS = 100  # that are written again and again
KEPT = 3600.0  # seconds after which the broker forgets what an interrupted run has left


@attrs.frozen
class Load:
    """How much is done.

    Attributes:
        concurrency: operations at once, where there are several.
        clients: subscribers of a fan-out.
        size: bytes of a payload.
    """

    concurrency: int
    clients: int
    size: int


@attrs.define(eq=False)
class Workload(ABC):
    """One of them; ``operate`` is what is measured.

    Attributes:
        connect: returns a further client.
        load: how much is done.
    """

    name: ClassVar[str]
    text: ClassVar[str]

    connect: Callable[[], Awaitable[Client]]
    load: Load
    _topic: str = attrs.field(factory=lambda: f"txbroker.bench.{uuid4().hex}", init=False)
    _filling: str = attrs.field(init=False)
    _tasks: list[asyncio.Task[None]] = attrs.field(factory=list, init=False)
    _awaited: dict[int, asyncio.Future[None]] = attrs.field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        self._filling = "x" * self.load.size

    @property
    def concurrency(self) -> int:
        """How many operations there are at once."""
        return self.load.concurrency

    @property
    def deliveries(self) -> int:
        """How much one operation counts for."""
        return 1

    @abstractmethod
    async def begin(self) -> None:
        """Connect."""

    @abstractmethod
    async def operate(self, number: int) -> None:
        """Do it once; *number* is its own."""

    async def end(self) -> None:
        """Remove what is left."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _await(self, number: int) -> asyncio.Future[None]:
        """Return what ends when ``_arrived`` is called with *number*."""
        future = self._awaited[number] = asyncio.get_running_loop().create_future()
        return future

    def _arrived(self, number: int) -> None:
        future = self._awaited.pop(number, None)
        if future is not None and not future.done():
            future.set_result(None)


@attrs.define(eq=False)
class Relay(Workload):
    """An event from one client to another."""

    name, text = "relay", "an event from one client to another, one after the other"

    _publisher: Client = attrs.field(init=False)
    _left: dict[int, int] = attrs.field(factory=dict, init=False)  # who has not got an event yet

    @property
    def concurrency(self) -> int:
        """One."""
        return 1

    @property
    def subscribers(self) -> int:
        """How many get each event."""
        return 1

    @property
    def deliveries(self) -> int:
        """One for each subscriber."""
        return self.subscribers

    async def begin(self) -> None:
        """Connect the publisher and the subscribers."""
        self._publisher = await self.connect()
        for _ in range(self.subscribers):
            client = await self.connect()
            items = client.subscribe(self._topic)
            await client.settled()
            self._tasks.append(asyncio.create_task(self._read(items)))

    async def operate(self, number: int) -> None:
        """Publish an event, and wait until all have it."""
        arrived = self._await(number)
        self._left[number] = self.subscribers
        await self._publisher.publish(self._topic, [number, self._filling])
        await arrived

    async def _read(self, items: Items[Event]) -> None:
        async for event in items:
            number = event.payload[0]
            self._left[number] -= 1
            if not self._left[number]:
                del self._left[number]
                self._arrived(number)


@attrs.define(eq=False)
class Pipelined(Relay):
    """The same with many under way."""

    name, text = "pipelined", "an event from one client to another, many under way"

    @property
    def concurrency(self) -> int:
        """As many as the load says."""
        return self.load.concurrency


@attrs.define(eq=False)
class FanOut(Relay):
    """An event from one client to many."""

    name, text = "fan-out", "an event from one client to many, until the last has it; counted by deliveries"

    @property
    def subscribers(self) -> int:
        """As many as the load says."""
        return self.load.clients


@attrs.define(eq=False)
class Durable(Workload):
    """An event that is stored."""

    name, text = "durable", "an event that is stored, until that is acknowledged"

    _client: Client = attrs.field(init=False)

    async def begin(self) -> None:
        """Connect."""
        self._client = await self.connect()

    async def operate(self, number: int) -> None:
        """Store an event."""
        await self._client.publish(self._topic, [number, self._filling], durable=True, ttl=KEPT)


@attrs.define(eq=False)
class Jobs(Workload):
    """A job that is added and done."""

    name, text = "jobs", "a job, from its being added to its being done"

    _client: Client = attrs.field(init=False)

    async def begin(self) -> None:
        """Connect, and do jobs."""
        self._client = await self.connect()
        worker = await self.connect()
        jobs = worker.consume(self._topic, prefetch=self.load.concurrency)
        await worker.settled()
        self._tasks += [asyncio.create_task(self._work(jobs)) for _ in range(self.load.concurrency)]

    async def operate(self, number: int) -> None:
        """Add a job, and wait until it is done."""
        done = self._await(number)
        await self._client.enqueue(self._topic, [number, self._filling], ttl=KEPT)
        await done

    async def _work(self, jobs: Items[Job]) -> None:
        async for job in jobs:
            await job.done()
            self._arrived(job.payload[0])


@attrs.define(eq=False)
class Keys(Workload):
    """A key that is written."""

    name, text = "keys", "a key that is written"

    _client: Client = attrs.field(init=False)

    async def begin(self) -> None:
        """Connect."""
        self._client = await self.connect()

    async def operate(self, number: int) -> None:
        """Write one of the keys."""
        await self._client.set(f"{self._topic}.{number % KEYS}", self._filling, ttl=KEPT)

    async def end(self) -> None:
        """Remove the keys."""
        await super().end()
        await asyncio.gather(*(self._client.delete(f"{self._topic}.{number}") for number in range(KEYS)))


WORKLOADS: dict[str, type[Workload]] = {kind.name: kind for kind in (Relay, Pipelined, FanOut, Durable, Jobs, Keys)}
