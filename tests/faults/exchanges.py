"""Calls, streams, jobs, counters and rooms under faults, and what must not happen to them.

Each kind counts what it did in ``counts``, and appends what breaks a promise to ``faults``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from itertools import count
from typing import Any

import attrs
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from tests.faults.clients import NOT_REACHED, Connection, Failed, Lost, Micro, Native, Thin
from tests.faults.faults import LEASE, Faults
from tests.support.daemon import Daemon
from tests.support.eventually import eventually, pause

DEADLINE = 2.0  # seconds, of the calls that have one
# By when a call has ended, in seconds since it was begun or the caller's own node ran again: a renewal of the
# lease may just have been sent when the callee's node was lost; the rest is for a busy machine.
LIMIT = 2 * LEASE + 2.0 + 4.0
Work = Coroutine[Any, Any, None]
NOT_DONE = (Failed, Lost, *NOT_REACHED)


@attrs.define(eq=False)
class Exchange:
    """One kind of work, which goes on until ``going_on`` ends."""

    faults_of: Faults
    chance: random.Random
    counts: Counter[str] = attrs.field(factory=Counter)
    faults: list[str] = attrs.field(factory=list)
    going_on: bool = True

    def __attrs_post_init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Make what this kind keeps."""

    @property
    def nodes(self) -> list[Daemon]:
        return self.faults_of.cluster.nodes

    def tasks(self) -> list[Work]:
        """Return what is to be done at once."""
        raise NotImplementedError

    async def finish(self) -> None:
        """Check what must hold when nothing fails any more."""

    async def stay(self, join: Callable[[], Awaitable[Connection]], use: Callable[[Any], Awaitable[None]]) -> None:
        """Connect, and use that until it is lost, again and again."""
        while self.going_on:
            try:
                await pause(0.05)
                client = await join()
            except NOT_DONE:
                continue
            try:
                while self.going_on and not client.closed:
                    await use(client)
            except NOT_DONE:
                pass
            self.faults += client.faults
            client.drop()


class Calls(Exchange):
    """Every node has a performer and a service, and callers that call whichever the broker chooses."""

    def begin(self) -> None:
        self.executed: Counter[int] = Counter()
        self._executors: dict[int, list[tuple[float, Connection]]] = {}
        self.open: dict[int, tuple[Daemon, float]] = {}
        self.longest = 0.0
        self._numbers = count()

    def tasks(self) -> list[Work]:
        made: list[Work] = []
        for number, node in enumerate(self.nodes):
            made.append(self.stay(partial(Native.join, node), self._perform))
            made.append(self.stay(partial(Micro.join, node, f"svc{number}"), self._serve))
            made.append(self.stay(partial(Native.join, node), self._call))
            made.append(self.stay(partial(Micro.join, node, f"asker{number}"), self._ask))
        return made

    def _note(self, number: int, client: Connection) -> None:
        self.executed[number] += 1
        self._executors.setdefault(number, []).append((reactor.seconds(), client))
        if self.executed[number] > 1:
            now = reactor.seconds()
            at = [f"node{self.nodes.index(one.node)} {now - when:.2f} s ago" for when, one in self._executors[number]]
            self.faults_of.say(f"call {number} is executed again: {at}; it is {'open' * (number in self.open)}")

    async def _execute(self, number: int) -> Any:
        await pause(self.chance.choice((0.0, 0.0, 0.05)))
        return number

    def _handle(self, client: Connection, said: Any) -> Any:
        self._note(said["n"], client)
        return Deferred.fromCoroutine(self._execute(said["n"])) if said["answer"] else Deferred()

    async def _perform(self, client: Native) -> None:
        if "work" not in client.performs:
            await client.perform("work", partial(self._handle, client), mode="roundrobin")
        await pause(0.1)

    async def _serve(self, client: Micro) -> None:
        client.performs["work"] = partial(self._handle, client)
        await pause(0.1)

    async def _call(self, client: Native) -> None:
        timed = self.chance.random() < 0.5
        said = {"n": next(self._numbers), "answer": not timed or self.chance.random() < 0.8}
        self._begun(client, said["n"], client.ask("work", said, timeout=int(DEADLINE * 1000) if timed else 0))
        await pause(0.02)

    async def _ask(self, client: Micro) -> None:
        said = {"n": next(self._numbers), "answer": True}
        self._begun(client, said["n"], client.ask(f"svc{self.chance.randrange(len(self.nodes))}", "work", said))
        await pause(0.02)

    def _begun(self, client: Connection, number: int, ended: Deferred[Any]) -> None:
        self.open[number] = client.node, reactor.seconds()
        ended.addCallbacks(
            lambda answer: self._ended(number, "answered", answer),
            lambda failure: self._ended(number, failure.value.kind if failure.check(Failed) else "connection lost"),
        )

    def _ended(self, number: int, how: str, answer: Any = None) -> None:
        self.longest = max(self.longest, self._age(number))
        del self.open[number]
        self.counts[how] += 1
        if how == "answered" and answer != number:
            self.faults.append(f"call {number} got the answer of {answer}")

    def _age(self, number: int) -> float:
        node, begun = self.open[number]
        return reactor.seconds() - max(begun, self.faults_of.frozen[node])

    def late(self) -> list[int]:
        """Return the calls that should have ended."""
        return [number for number in self.open if self._age(number) > LIMIT]

    def twice(self) -> list[int]:
        """Return the calls that were executed more than once."""
        return [number for number, times in self.executed.items() if times > 1]


@attrs.frozen
class Holding:
    """That one client has a name: since when, and who it is."""

    since: float
    who: str


class Exclusive(Exchange):
    """One name that a client at each node wants, taken over when its holder is lost or gives it up."""

    name = "sole"

    def begin(self) -> None:
        self.holdings: list[Holding] = []
        self.two: list[str] = []
        self._told: set[tuple[Holding, Holding]] = set()  # whose incidents were shown
        self._callers = count()

    def tasks(self) -> list[Work]:
        made: list[Work] = []
        for node in self.nodes:
            made.append(self.stay(partial(Native.join, node), self._contend))
            made.append(self.stay(partial(Native.join, node), self._probe))
        return made

    def _who(self, client: Connection) -> str:
        return f"{id(client):x} at node{self.nodes.index(client.node)}"

    def held(self, who: str) -> Holding:
        """Note that a client was told that it has the name."""
        self.counts["holders"] += 1
        self.holdings.append(holding := Holding(reactor.seconds(), who))
        return holding

    def served(self, holding: Holding | None, called: float, who: str) -> None:
        """Judge a call that was made at *called* and came to a client that had the name since *holding*."""
        self.counts["served"] += 1
        if holding is None:
            return  # its registration is not answered yet, or it has given the name up
        for later in self.holdings[self.holdings.index(holding) + 1 :]:
            if holding.since < later.since < called:
                late = called - later.since
                text = f"{who} was called as {self.name} {late:.2f} s after {later.who} was told to be that"
                if (holding, later) not in self._told:
                    self._told.add((holding, later))
                    self.faults_of.say(text)
                self.two.append(text)
                return

    async def _contend(self, client: Native) -> None:
        who = self._who(client)
        state: dict[str, Holding | None] = {"holding": None}

        def handle(called: float) -> str:
            self.served(state["holding"], called, who)
            return who

        try:
            await Deferred.fromCoroutine(client.perform(self.name, handle)).addTimeout(LIMIT, reactor)
        except Failed:
            await pause(0.2)
            return
        state["holding"] = self.held(who)
        await self._keep(client)
        state["holding"] = None
        await client.ask("broker.unregister", self.name).addTimeout(LIMIT, reactor)

    async def _keep(self, client: Connection) -> None:
        """Have the name for a while."""
        end = reactor.seconds() + self.chance.choice((0.5, 2.0, 5.0))
        while self.going_on and reactor.seconds() < end and not client.closed:
            await pause(0.05)

    async def _probe(self, client: Native) -> None:
        try:
            await client.ask(self.name, reactor.seconds(), timeout=int(DEADLINE * 1000)).addTimeout(LIMIT, reactor)
        except Failed as failed:
            self.counts[failed.kind] += 1
        await pause(0.03)


class ExclusiveService(Exclusive):
    """The same with a service name of MicroStream."""

    name = "sole-service"

    def tasks(self) -> list[Work]:
        made: list[Work] = []
        for number, node in enumerate(self.nodes):
            made.append(self.stay(partial(Micro.join, node, self.name), self._hold))
            made.append(self.stay(partial(Micro.join, node, f"{self.name}{number}"), self._probe_service))
        return made

    async def _hold(self, client: Micro) -> None:
        who = self._who(client)
        holding = self.held(who)
        client.performs["who"] = lambda called: (self.served(holding, called, who), who)[1]
        await self._keep(client)
        client.drop()
        raise Lost

    async def _probe_service(self, client: Micro) -> None:
        try:
            await client.ask(self.name, "who", reactor.seconds()).addTimeout(LIMIT, reactor)
        except Failed as failed:
            self.counts[failed.kind] += 1
        await pause(0.03)


class Streams(Exchange):
    """Streamed requests, whose parts must come in order and without a hole, up to an end that is told."""

    parts = 5

    def begin(self) -> None:
        self.open: dict[int, tuple[Connection, float, list[Any]]] = {}
        self._numbers = count()

    def tasks(self) -> list[Work]:
        made: list[Work] = []
        for node in self.nodes:
            made.append(self.stay(partial(Native.join, node), self._reply))
            made.append(self.stay(partial(Native.join, node), self._request))
        return made

    async def _reply(self, client: Native) -> None:
        if "acknowledging" not in client.performs:
            client.on_request = lambda id, _: Deferred.fromCoroutine(self._send(client, id))
            await client.ask("broker.acknowledge", "stream").addTimeout(LIMIT, reactor)
            client.performs["acknowledging"] = lambda _: None
        await pause(0.1)

    async def _send(self, client: Native, id: str) -> None:
        for part in range(self.parts):
            if not client.closed:
                client.reply(id, part)
            await pause(0.02)

    async def _request(self, client: Native) -> None:
        number = next(self._numbers)
        got: list[Any] = []
        self.open[number] = client, reactor.seconds(), got
        client.request("stream", lambda part: self._took(number, got, part))
        await pause(0.05)

    def _took(self, number: int, got: list[Any], part: Any) -> None:
        if isinstance(part, dict):
            self.counts["ended by an error"] += 1
            self.open.pop(number, None)
            return
        got.append(part)
        if got != list(range(len(got))):
            self.faults.append(f"stream {number} has brought {got}")
        if len(got) == self.parts:
            self.counts["whole"] += 1
            self.open.pop(number, None)

    async def finish(self) -> None:
        await pause(0)
        for number, (client, begun, got) in list(self.open.items()):
            if client.closed or reactor.seconds() - max(begun, self.faults_of.frozen[client.node]) < LIMIT:
                continue
            self.faults.append(f"stream {number} has brought {got} and no end")


class Jobs(Exchange):
    """Messages of a work queue, each for one of three consumers."""

    queue = "jobs"

    def begin(self) -> None:
        self.done: Counter[Any] = Counter()
        self.sent: dict[int, Native] = {}
        self.refused: set[int] = set()
        self._numbers = count()
        self._producers: dict[int, Native] = {}

    def tasks(self) -> list[Work]:
        made: list[Work] = []
        for number, node in enumerate(self.nodes):
            made.append(self.stay(partial(Native.join, node), self._consume))
            made.append(self.stay(partial(Native.join, node), partial(self._produce, number)))
        return made

    async def _consume(self, client: Native) -> None:
        if "consuming" not in client.performs:
            client.on_message = lambda frame: self.done.update([frame["payload"]])
            await client.ask("broker.consume", self.queue).addTimeout(LIMIT, reactor)
            client.performs["consuming"] = lambda _: None
        await pause(0.1)

    async def _produce(self, number: int, client: Native) -> None:
        if self._producers.get(number) is not client:
            self._producers[number] = client
            client.on_error = lambda id: self.refused.add(int(id.removeprefix("j") or -1))
        job = next(self._numbers)
        self.sent[job] = client
        client.send(type="message", id=f"j{job}", recipient=f"queue:{self.queue}", payload=job)
        await pause(0.05)

    async def finish(self) -> None:
        """Whatever was sent when nothing failed any more must be done."""
        last = [f"last {number}" for number in self._producers]
        for word, client in zip(last, self._producers.values(), strict=True):
            client.send(type="message", recipient=f"queue:{self.queue}", payload=word)
        try:
            await eventually(lambda: all(self.done[word] for word in last), 20.0)
        except AssertionError:
            self.faults.append(f"the queue is stuck: {[word for word in last if not self.done[word]]} not done")
        done = {job for job in self.sent if self.done[job]}
        self.counts["sent"], self.counts["done"] = len(self.sent), len(done)
        self.counts["done again"] = sum(times - 1 for times in self.done.values())
        self.counts["refused"] = len(self.refused - done)
        left = set(self.sent) - done - self.refused
        # Some were on the way to a node or to a consumer, or back, when that was lost.
        self.counts["lost with a connection of theirs"] = sum(self.sent[job].closed for job in left)
        self.counts["neither done nor refused"] = sum(not self.sent[job].closed for job in left)


class Increments(Exchange):
    """A counter that clients at all nodes add to."""

    key = "counted"

    def begin(self) -> None:
        self.acknowledged: list[float] = []
        self.unknown = self.under_way = 0

    def tasks(self) -> list[Work]:
        return [self.stay(partial(Native.join, node), self._add) for node in self.nodes]

    async def _add(self, client: Native) -> None:
        self.under_way += 1
        try:
            await client.ask("broker.increment", self.key).addTimeout(LIMIT, reactor)
        except NOT_DONE:
            self.unknown += 1
            raise
        finally:
            self.under_way -= 1
        self.acknowledged.append(reactor.seconds())
        await pause(0.02)

    async def finish(self) -> None:
        self.going_on = False
        await eventually(lambda: self.under_way == 0)
        client = await Native.join(self.nodes[0])
        value = int((await client.ask("broker.get", self.key))["value"] or 0)
        client.drop()
        back = self.faults_of.back
        least = sum(not any(begin <= at <= end + LIMIT for begin, end in back) for at in self.acknowledged)
        self.counts["acknowledged"], self.counts["without an answer"] = len(self.acknowledged), self.unknown
        self.counts["value"] = value
        if not least <= value <= len(self.acknowledged) + self.unknown:
            self.faults.append(f"{self.counts} is not what was added")


class Rooms(Exchange):
    """A ThinWS room with a member at each node."""

    room = "room"

    def begin(self) -> None:
        self.members: dict[int, tuple[Thin, Counter[str]]] = {}
        self._numbers = count()

    def tasks(self) -> list[Work]:
        return [self.stay(partial(self._enter, number, node), self._talk) for number, node in enumerate(self.nodes)]

    async def _enter(self, number: int, node: Daemon) -> Thin:
        client = await Thin.join(node, f"member{number}")
        heard: Counter[str] = Counter()
        client.on_message = lambda message: heard.update([message])
        await client.ask(type="subscribe", roomID=self.room).addTimeout(LIMIT, reactor)
        self.members[number] = client, heard
        return client

    async def _talk(self, client: Thin) -> None:
        try:
            await client.ask(type="message", roomID=self.room, message=f"m{next(self._numbers)}").addTimeout(
                LIMIT, reactor
            )
            self.counts["sent"] += 1
        except Failed:
            self.counts["refused"] += 1
        await pause(0.1)

    async def finish(self) -> None:
        twice = [text for _, heard in self.members.values() for text, times in heard.items() if times > 1]
        if twice:
            self.faults.append(f"messages of a room came twice: {twice[:5]}")
        try:
            sender, _ = self.members[0]
            await sender.ask(type="message", roomID=self.room, message="last").addTimeout(LIMIT, reactor)
            await eventually(lambda: all(heard["last"] for _, heard in self.members.values()), 20.0)
        except (AssertionError, *NOT_DONE) as error:
            deaf = [number for number, (_, heard) in self.members.items() if not heard["last"]]
            self.faults.append(f"members {deaf} of the room hear nothing: {error!r}")
