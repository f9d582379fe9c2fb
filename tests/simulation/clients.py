"""Clients of the simulated nodes: what they ask for, what they are told, and what that must never be.

A client is an identity that comes again, perhaps to another node, when its node or its connection has ended, and
then asks for everything that it had.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from math import inf
from typing import Any

import attrs
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater

from broker.errors import BrokerError, NotFound, Taken, Unavailable
from broker.messages import Delivery, Event, Mail, Reply, Request
from broker.patterns import PRESENCE_PREFIX, PROCEDURE, QUEUE
from broker.peer import Peer
from broker.sessions import BaseSession
from tests.simulation.node import Node
from tests.simulation.server import Server
from tests.simulation.world import World

MAX_IN_FLIGHT = 2  # calls of a limited procedure
GRACE = 0.4  # seconds that the end of a call may be late: the grain of deadlines, and the network
JOB_SECONDS, JOB_LEASE = 0.2, 5.0  # that a job takes, and may take
TOIL_SECONDS, TOIL_LEASE = 9.0, 30.0  # that a job takes of one who takes long, and may take
RETRY = 0.5  # seconds until a reader asks again
POLL = 3.0  # seconds that a poll waits


Place = tuple[str, str, int]  # topic, epoch and id of an event


@attrs.define(eq=False)
class Issued:
    """A call that a client has made.

    Attributes:
        token: in its body, unlike all others.
        limit: when it must have ended at the latest; 0.0: it has no deadline.
        ends: the replies that ended it.
        parts: the answers of a stream.
        gone: whether its caller, or the process of that, has ended meanwhile.
        ended: when it ended.
    """

    token: str
    client: Client
    node: Node
    issued: float
    limit: float
    streamed: bool = False
    ends: list[Reply] = attrs.field(factory=list)
    parts: list[bytes] = attrs.field(factory=list)
    gone: bool = False
    ended: float = 0.0


@attrs.define(eq=False)
class Execution:
    """A call that a client was asked to perform."""

    token: str
    client: Client
    node: Node
    when: float


@attrs.define(eq=False)
class Held:
    """An exclusive name that a client has got, and has neither lost nor given back, as far as it knows."""

    name: str
    client: Client
    node: Node
    since: float


@attrs.define(eq=False)
class Takeover:
    """An attempt to get a name from one who may not respond; *ended*: infinite while it has not."""

    name: str
    node: Node
    began: float
    ended: float = inf


class History:
    """What clients have seen, and what follows from it at once.

    Attributes:
        appended: the bodies by topic, epoch and id, from whomever they are known.
        acknowledged: topic, epoch, id, body and when it was asked for, of posts that were answered.
    """

    def __init__(self, world: World, server: Server, nodes: Mapping[str, Node]) -> None:
        self.world, self._server, self._nodes = world, server, nodes
        self.appended: dict[Place, bytes] = {}
        self._witnesses: defaultdict[Place, set[Node]] = defaultdict(set)
        self._lost: set[tuple[Place, bytes]] = set()
        self.acknowledged: list[tuple[str, str, int, bytes, float]] = []
        self.calls: dict[str, Issued] = {}
        self.executions: defaultdict[str, list[Execution]] = defaultdict(list)
        self.held: list[Held] = []
        self.takeovers: list[Takeover] = []
        self.jobs: dict[str, bool] = {}  # whether its enqueuing was answered, by body
        self.mailed: set[str] = set()  # bodies of messages to clients
        self.replaced: set[str] = set()  # clients that did not respond when another wanted what they held
        self.done: defaultdict[str, int] = defaultdict(int)  # deliveries, by body
        self.added: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)  # amounts and epochs, by key
        self.maybe_added: defaultdict[str, int] = defaultdict(int)
        self.workers: dict[str, tuple[Client, Peer | None, float]] = {}  # who has a job, and until when, by body
        self.shared_jobs: list[str] = []  # what went to another although its worker was there
        self.testaments: dict[str, tuple[Client, Peer]] = {}  # whose each is, by its body
        self.bequeathed: dict[str, None] = {}  # the bodies of those that were acknowledged
        self.numbers = 0

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def on_delivery(self, body: str, client: Client) -> None:
        """Note that *client* has got a job, and who has it at the same time although its lease has not ended."""
        before = self.workers.get(body)
        if before is not None:
            other, peer, end = before
            if other.peer is peer and other.node.alive and self.world.now < end and peer is not client.peer:
                self.shared_jobs.append(f"{body} of {other.name} went to {client.name}")
        self.workers[body] = client, client.peer, self.world.now + client.job_times[1]

    def append(self, event: Event, node: Node) -> None:
        """Note that *event* is stored, as a client of *node* has learnt."""
        place, body = (event.topic, event.epoch, event.id), event.body or b""
        if (place, body) in self._lost:
            return
        known = self.appended.setdefault(place, body)
        if known != body and self._noticeable(place):
            self.world.violate("an id was given twice", f"{place}: {known!r} and {body!r}")
        elif known != body:
            self._note_loss(place, known)
            self.appended[place] = body
            self._witnesses[place].clear()
        self._witnesses[place].add(node)

    def _note_loss(self, place: Place, known: bytes) -> None:
        """Note that *known*, and what was acknowledged behind it, is not there any more, which nobody can notice."""
        topic, epoch, first = place
        self._lost.add((place, known))
        for *theirs, id, body, began in self.acknowledged:
            if theirs == [topic, epoch] and id > first and began < self._server.lost_at:
                self._lost.add(((topic, epoch, id), body))

    def is_lost(self, place: Place, body: bytes) -> bool:
        """Return whether *body* was there, and was lost when nobody who knew it was left to notice."""
        return (place, body) in self._lost

    def _noticeable(self, place: Place) -> bool:
        """Return whether the loss of what was there had to be noticed: a node that knew it has come since."""
        if not self._server.has_lost:
            return True
        compared: Any = self._server.data.keys.get(b"sim:members", ())
        return any(node.store._timeline.member in compared for node in self._witnesses[place])

    def executed(self, client: Client, token: str, name: str) -> None:
        """Note that *client* was asked to perform a call; nobody else may hold the name meanwhile."""
        found = self.executions[token]
        found.append(Execution(token, client, client.node, self.world.now))
        if len(found) > 1 and found[0].client is not client:
            places = [f"{each.client.name} at {each.node.name}" for each in found]
            self.world.violate("a call was executed twice", f"{token} by {places}")
        elif len(found) > 1:
            self.world.violate("a call was executed twice", f"{token} by {client.name}")
        self.check_holders(name, client)

    def check_holders(self, name: str, client: Client) -> None:
        """Check that no other has got *name* since *client*, which serves it now, has."""
        mine = next((held for held in self.held if held.name == name and held.client is client), None)
        if mine is None:
            return
        for held in self.held:
            if held.name == name and held.since > mine.since and held.node.alive:
                self.world.violate(
                    "two holders of a name",
                    f"{name} is served by {client.name} at {mine.node.name}, and {held.client.name} at "
                    f"{held.node.name} has had it for {self.world.now - held.since:.3f} s",
                )

    def check_taken(self, name: str, client: Client) -> None:
        """Check that the node for which *client* has lost *name* is one that needs it, as far as it is there."""
        found: Any = self._server.data.keys.get(b"sim:names", {})
        entries = found.get((PROCEDURE + name).encode(), b"x ").decode()[2:].split(" ")
        addresses = {entry.rpartition(":")[0] for entry in entries}
        for node in self._nodes.values():
            if node.alive and node is not client.node and node.bus.address in addresses:
                claims: Any = node.broker.parts.cluster
                if PROCEDURE + name not in claims._claims:
                    self.world.violate(
                        "a name was taken for nobody", f"{name} of {client.name} at {client.node.name} for {node.name}"
                    )


class Reader:
    """Polls a topic from its beginning, one page after the other, and goes on at the cursor.

    Attributes:
        ids: of what was read in the present epoch.
    """

    def __init__(self, client: Client, topic: str) -> None:
        self.client, self.topic = client, topic
        self.epoch, self.after = "", 0
        self.bodies: list[bytes] = []
        self.stopped = False

    async def run(self, peer: Peer, node: Node) -> None:
        history = self.client.history
        while self.client.peer is peer and not self.stopped:
            try:
                if not self.epoch:
                    self.epoch = peer.epoch
                if peer.epoch != self.epoch:  # 410, in HTTP: all is new
                    self._begin_again(peer.epoch)
                events = await peer.poll(self.topic, self.after, 50, POLL)
                if self.client.peer is not peer:
                    return  # its client is elsewhere meanwhile
                for event in events:
                    if event.epoch != self.epoch:
                        self._begin_again("")
                        break
                    if event.id != self.after + 1:
                        history.world.violate(
                            "a reader missed events",
                            f"{self.client.name} has read {self.topic} up to {self.after}, then {event.id}",
                        )
                    history.append(event, node)
                    self.after = event.id
                    self.bodies.append(event.body or b"")
                if events and self.after:
                    await peer.move_cursor(self.client.name, self.topic, self.after)
            except BrokerError:
                await deferLater(node.clock, RETRY)  # type: ignore[arg-type]

    def is_astray(self) -> bool:
        """Return whether it has read what was lost when nobody who knew it was left: its cursor is of other events."""
        places = enumerate(self.bodies, self.after - len(self.bodies) + 1)
        return any(self.client.history.is_lost((self.topic, self.epoch, id), body) for id, body in places)

    def _begin_again(self, epoch: str) -> None:
        self.epoch, self.after = epoch, 0
        self.bodies.clear()


@attrs.define(eq=False)
class Session(BaseSession):
    """What one connection of a client brings it; what is on its way when the client has left is lost.

    A node that is frozen then learns of that only later, when the client may be elsewhere.
    """

    client: Client
    peer: Peer

    @property
    def over(self) -> bool:
        """Whether the client has left."""
        return self.client.peer is not self.peer

    def event(self, event: Event, pattern: str) -> None:
        if not self.over:
            self.client.event(event, pattern)

    def reply(self, reply: Reply) -> None:
        if not self.over:
            self.client.reply(reply)

    def request(self, request: Request) -> None:
        if not self.over:
            self.client.request(request)

    def mail(self, mail: Mail) -> bool:
        return not self.over and self.client.mail(mail)

    async def probe(self) -> bool:
        """See ``ISession.probe``."""
        if self.over or self.client.mute_until > self.client.world.now:
            await Deferred()
        return True

    def disconnect(self, code: int, reason: str) -> None:
        """The broker closes the connection."""
        if not self.over:
            self.client.disconnected(code, reason)


class Client:
    """One client.

    Args:
        history: what all have seen.
        name: of the client.
        place: returns a node to come to, or None.

    Attributes:
        peer: at the broker, None while it is not connected.
        wishes: what it asks for at each start, by a name.
        heard: what it was handed in this session, by pattern and topic.
    """

    def __init__(self, history: History, name: str, place: Callable[[Client], Node | None]) -> None:
        self.history, self.world, self.name, self._place = history, history.world, name, place
        self.chance = self.world.chance("client", name)
        self.peer: Peer | None = None
        self.node: Node
        self.wishes: dict[tuple[str, str], Callable[[], Coroutine[Any, Any, object]]] = {}
        self.readers: dict[str, Reader] = {}
        self.session = 0
        self.away = False  # for good
        self.takes_jobs = True
        self.toils = False  # whether jobs take long from its next start on
        self.job_times = JOB_SECONDS, JOB_LEASE
        self.mute_until = 0.0  # it does not respond to probes before
        self._forget()

    def _forget(self) -> None:
        self.heard: defaultdict[tuple[str, str], list[Event]] = defaultdict(list)
        self.parted: dict[str, bool] = {}  # rooms that it parted from in this life: whether it has joined again
        self.live: dict[tuple[str, bytes], int] = {}
        self.listening: dict[str, float] = {}  # since when it surely hears all of a topic
        self.watching: dict[str, float] = {}  # since when it surely hears all changes
        self.keys_heard: set[bytes] = set()
        self.present: dict[str, set[str]] = {}  # members by topic, as joins and leaves add up
        self.entered: set[str] = set()  # topics that it is present on
        self.limited: set[str] = set()  # what it performs of which it takes a few calls at once

    # Coming and going.

    def connect(self) -> None:
        """Come to a node, or try later."""
        if self.away or self.peer is not None:
            return
        node = self._place(self)
        if node is None:
            self.world.after(0.3, self.connect)
            return
        self.node = node
        self.session += 1
        self._forget()
        peer = self.peer = node.broker.attach("test", "127.0.0.1")
        session = Session(self, peer)
        peer.bind(session, session.disconnect)
        self.world.log(f"{self.name} comes to {node.name}")
        self._run(self._begin(peer), "begin")

    async def _begin(self, peer: Peer) -> None:
        while not peer.closed:
            try:
                await peer.take_name(self.name)
                break
            except BrokerError:
                await deferLater(self.node.clock, RETRY)  # type: ignore[arg-type]
        if peer.closed:
            return
        peer.appear()
        for what, wish in list(self.wishes.items()):
            self._run(self._get(what, wish, peer), " ".join(what))

    async def _get(self, what: tuple[str, str], wish: Callable[[], Coroutine[Any, Any, object]], peer: Peer) -> None:
        while self.peer is peer and self.wishes.get(what) is wish:
            try:
                await wish()
                return
            except Taken:
                self.wishes.pop(what, None)  # another has it
            except BrokerError:
                await deferLater(self.node.clock, RETRY)  # type: ignore[arg-type]

    def want(self, kind: str, name: str, wish: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Ask for something now, and whenever this client comes again; a no-op where it does already."""
        if (kind, name) in self.wishes:
            return
        self.wishes[kind, name] = wish
        if self.peer is not None:
            self._run(self._get((kind, name), wish, self.peer), f"{kind} {name}")

    def disconnected(self, code: int, reason: str) -> None:
        """The broker closes the connection."""
        self.world.log(f"{self.name} is disconnected: {code} {reason}")
        peer, self.peer = self.peer, None
        if reason == "replaced":
            self.history.replaced.add(self.name)
            self._check_replaced()
            for what in [what for what in self.wishes if what[0] == "name"]:
                del self.wishes[what]
        self._over()
        if peer is not None:
            self.node.clock.callLater(0, peer.close)
        self.world.after(0.2 + self.chance.random(), self.connect)

    def _check_replaced(self) -> None:
        """Check that no name is taken from one who responds, at a node that has had its lease all the while.

        Nor from any for a node where nobody asks for it.
        """
        held = [each for each in self.history.held if each.client is self]
        for each in held:
            self.history.check_taken(each.name, self)
        if held and not self.mute_until and self.node.lapsed < min(each.since for each in held):
            names = [each.name for each in held]
            self.world.violate("a name was taken away", f"{names} of {self.name} at {self.node.name}")

    def lose_process(self) -> None:
        """The node's process has ended."""
        if self.peer is not None:
            self.peer = None
            self._over()
            self.world.after(0.2 + self.chance.random(), self.connect)

    def disconnect(self, *, again: bool = True) -> None:
        """Close the connection; come again soon, or not."""
        self.away = self.away or not again
        peer, self.peer = self.peer, None
        if peer is not None:
            self.world.log(f"{self.name} leaves {self.node.name}")
            self._over()
            self.node.clock.receive(peer.close)
        if again:
            self.world.after(0.2 + self.chance.random(), self.connect)

    def _over(self) -> None:
        history = self.history
        history.held = [held for held in history.held if held.client is not self]
        for issued in history.calls.values():
            if issued.client is self and not issued.ends:
                issued.gone = True

    def _run(self, work: Coroutine[Any, Any, object], what: str) -> None:
        doing = ensureDeferred(work)  # type: ignore[arg-type]
        doing.addErrback(self._failed, what)

    def _failed(self, failure: Any, what: str) -> None:
        if failure.check(BrokerError) is None:
            self.world.violate("exception", f"{self.name}: {what}: {failure.type.__name__}: {failure.value}")
            self.world.log(failure.getTraceback())
        else:
            self.world.log(f"{self.name}: {what}: {type(failure.value).__name__}: {failure.value}")

    def do(self, what: str, *arguments: Any) -> None:
        """Do one thing, if it is connected."""
        if self.peer is not None and self.node.alive:
            self.node.clock.receive(self._do, what, self.peer, *arguments)

    def _do(self, what: str, peer: Peer, *arguments: Any) -> None:
        if self.peer is peer:
            self.world.log(f"{self.name}: {what} {' '.join(map(str, arguments))}")
            self._run(getattr(self, f"do_{what}")(peer, *arguments), what)

    # Topics.

    async def do_post(self, peer: Peer, topic: str) -> None:
        number, began, node = self.history.number(), self.world.now, self.node
        body = b"%s %d" % (topic.encode(), number)
        stored = await self._publish(peer, topic, body, f"key{number}" if number % 2 else "")
        self.world.log(f"{self.name}: {topic} {stored.id} is {body!r}{' again' * stored.duplicate}")
        self.history.append(stored, node)
        self.history.acknowledged.append((topic, stored.epoch, stored.id, body, began))

    async def _publish(self, peer: Peer, topic: str, body: bytes, key: str) -> Event:
        """Publish; with a key as one who has got no answer: until there is one, and then once more."""
        if not key:
            return await peer.publish(topic, "post", body)
        stored: Event | None = None
        while True:
            try:
                event = await peer.publish(topic, "post", body, key=key)
            except Unavailable:
                if self.peer is not peer:
                    raise
                await peer.pause(0.2)
                continue
            if stored is None:
                stored = event
                continue
            if event.epoch == stored.epoch and event.id != stored.id:
                self.world.violate("an event was stored twice", f"{body!r} as {stored.id} and {event.id} of {topic}")
            return stored

    async def do_publish(self, peer: Peer, topic: str) -> None:
        await peer.publish(topic, "live", b"%s %d" % (topic.encode(), self.history.number()))

    async def do_read(self, peer: Peer, topic: str) -> None:
        reader = self.readers.setdefault(topic, Reader(self, topic))

        async def read() -> None:
            assert self.peer is not None
            await reader.run(self.peer, self.node)

        self.want("read", topic, read)

    async def do_enter(self, peer: Peer, topic: str) -> None:
        async def enter() -> None:
            assert self.peer is not None
            self.peer.subscribe(topic)
            self.peer.enter(topic)
            self.entered.add(topic)

        self.want("enter", topic, enter)

    async def do_exit(self, peer: Peer, topic: str) -> None:
        self.wishes.pop(("enter", topic), None)
        peer.unsubscribe(topic)
        self.entered.discard(topic)

    async def do_attend(self, peer: Peer, topic: str) -> None:
        async def attend() -> None:
            assert self.peer is not None
            self.peer.subscribe(PRESENCE_PREFIX + topic)
            self.present[topic] = {member.id for member in self.peer.members(topic)}

        self.want("attend", topic, attend)

    def _on_presence(self, event: Event) -> None:
        topic, client = event.topic.removeprefix(PRESENCE_PREFIX), json.loads(event.body or b"")["id"]
        present = self.present.setdefault(topic, set())
        if (client in present) != (event.name == "leave"):
            self.world.violate("a join or a leave is wrong", f"{self.name}: {event.name} of {client}, of {present}")
        (present.add if event.name == "join" else present.discard)(client)

    async def do_observe(self, peer: Peer, topic: str) -> None:
        async def observe() -> None:
            peer = self.peer
            assert peer is not None
            peer.subscribe(topic, echo=True)
            await peer.listening()
            if self.peer is peer:
                self.listening[topic] = self.world.now

        self.want("observe", topic, observe)

    async def do_join(self, peer: Peer, room: str) -> None:
        async def join() -> None:
            peer = self.peer
            assert peer is not None
            await peer.become(self.name)
            await peer.join(room)
            if room in self.parted:
                self.parted[room] = True

        self.want("join", room, join)

    async def do_part(self, peer: Peer, room: str) -> None:
        self.wishes.pop(("join", room), None)
        self.parted[room] = False
        await peer.part(room)

    def event(self, event: Event, pattern: str) -> None:
        body = event.body or b""
        if event.topic.startswith("kv/"):
            if not pattern:
                self.keys_heard.add(body)
            return
        if event.topic.startswith(PRESENCE_PREFIX):
            self._on_presence(event)
            return
        if not event.id:
            times = self.live[pattern, body] = self.live.get((pattern, body), 0) + 1
            if times > 1 and not event.topic.startswith("$"):
                self.world.violate("a live event came twice", f"{body!r} to {self.name}, by {pattern}")
            return
        self.history.append(event, self.node)
        before = self.heard[pattern, event.topic]
        if pattern in self.parted:  # what came meanwhile was not for it
            if self.parted[pattern]:
                del self.parted[pattern]
        elif before and before[-1].epoch == event.epoch and event.id != before[-1].id + 1:
            self.world.violate(
                "an observer got events out of order",
                f"{self.name} at {self.node.name}, by {pattern}: {event.topic} {before[-1].id}, then {event.id}",
            )
        before.append(event)

    # Calls.

    async def do_perform(self, peer: Peer, name: str, takeover: bool) -> None:
        async def perform() -> None:
            peer = self.peer
            assert peer is not None
            history, attempt = self.history, Takeover(name, self.node, self.world.now)
            if takeover:
                history.takeovers.append(attempt)
            try:
                await peer.perform([name], takeover=takeover)
            finally:
                attempt.ended = self.world.now
            if self.peer is peer and not any(held.client is self and held.name == name for held in history.held):
                history.held.append(Held(name, self, self.node, self.world.now))

        self.want("name", name, perform)

    async def do_mute(self, _: Peer, seconds: float) -> None:
        self.mute_until = self.world.now + seconds

    async def do_share(self, peer: Peer, name: str) -> None:
        async def share() -> None:
            assert self.peer is not None
            await self.peer.perform([name], shared=True)

        self.want("share", name, share)

    async def do_balance(self, peer: Peer, name: str) -> None:
        async def balance() -> None:
            assert self.peer is not None
            await self.peer.perform([name], shared=True, least_busy=True)

        self.want("share", name, balance)

    async def do_limit(self, peer: Peer, name: str) -> None:
        async def limit() -> None:
            assert self.peer is not None
            await self.peer.perform([name], shared=True, max_in_flight=MAX_IN_FLIGHT, queue=2)
            self.limited.add(name)

        self.want("share", name, limit)

    async def do_cancel(self, peer: Peer, _: str) -> None:
        """Cancel the oldest call that it has open."""
        for call in peer.calling.values():
            peer.cancel(call.ref)
            if not self.history.calls[call.ref].ends:
                self.world.violate("a call that was cancelled goes on", f"{call.ref} of {self.name}")
            return

    async def do_release(self, peer: Peer, name: str) -> None:
        self.wishes.pop(("name", name), None)
        self.wishes.pop(("share", name), None)
        history = self.history
        history.held = [held for held in history.held if not (held.client is self and held.name == name)]
        peer.release(name)

    async def do_take(self, peer: Peer, topic: str) -> None:
        async def take() -> None:
            assert self.peer is not None
            self.peer.acknowledge(topic)

        self.want("take", topic, take)

    async def do_call(self, peer: Peer, name: str, timeout: float) -> None:
        token = f"call-{self.history.number()}"
        limit = self.world.now + timeout + GRACE if timeout else 0.0
        issued = self.history.calls[token] = Issued(token, self, self.node, self.world.now, limit)
        request = Request("", name, "", "", token.encode(), timeout=timeout)
        try:
            peer.call(token, request)
        except BrokerError as error:
            issued.ends.append(Reply(token, b"", error))
            issued.ended = self.world.now

    async def do_stream(self, peer: Peer, topic: str) -> None:
        token = f"stream-{self.history.number()}"
        issued = self.history.calls[token] = Issued(token, self, self.node, self.world.now, 0.0, streamed=True)
        try:
            peer.request(token, Request("", "", "", "", token.encode()), topic)
        except BrokerError as error:
            issued.ends.append(Reply(token, b"", error))

    def reply(self, reply: Reply) -> None:
        issued = self.history.calls[reply.ref]
        self.world.log(f"{self.name}: the reply to {reply.ref} is {reply.error or reply.body!r}")
        if reply.streamed and reply.error is None:
            if reply.body != b"%d" % (len(issued.parts) + 1):
                self.world.violate(
                    "a stream has a hole", f"{reply.ref}: {len(issued.parts)} parts, then {reply.body!r}"
                )
            issued.parts.append(reply.body)
            return
        issued.ends.append(reply)
        issued.ended = self.world.now
        if len(issued.ends) > 1:
            texts = [str(each.error or each.body) for each in issued.ends]
            self.world.violate("a call ended twice", f"{reply.ref} of {self.name}: {texts}")
        if issued.limit:
            late = self.world.now - max(issued.limit, issued.node.thawed + GRACE)
            if late > 0:
                self.world.violate("a call ended late", f"{reply.ref} of {self.name} by {late:.3f} s")

    def request(self, request: Request) -> None:
        token = request.body.decode()
        self.world.log(f"{self.name}: executes {token} for {request.caller}")
        self.history.executed(self, token, request.procedure)
        peer = self.peer
        assert peer is not None
        if request.streamed:
            self._run(self._answer_stream(peer, request.id), "stream")
            return
        if request.procedure in self.limited:
            self._check_limit(peer, request.procedure)
        what = self.chance.random()
        if what < 0.5:
            self.node.clock.callLater(0, self._answer, peer, request.id, request.body)
        elif what < 0.9:
            self.node.clock.callLater(0.5 * self.chance.random(), self._answer, peer, request.id, request.body)
        # Else never.

    def _check_limit(self, peer: Peer, name: str) -> None:
        """See that it has no more calls of *name* to answer than it takes at once."""
        under_way = [call.id for call in peer.serving.values() if call.name == name]
        if len(under_way) > MAX_IN_FLIGHT:
            self.world.violate("a performer has too many calls", f"{self.name} has {under_way} of {name}")

    def _answer(self, peer: Peer, id: str, body: bytes) -> None:
        if not peer.closed:
            peer.answer(id, body)

    async def _answer_stream(self, peer: Peer, id: str) -> None:
        for number in range(1, 2 + int(6 * self.chance.random())):
            await deferLater(self.node.clock, 0.3 * self.chance.random())  # type: ignore[arg-type]
            self._answer(peer, id, b"%d" % number)

    # Queues and keys.

    async def do_consume(self, peer: Peer, queue: str) -> None:
        async def consume() -> None:
            assert self.peer is not None
            self.job_times = (TOIL_SECONDS, TOIL_LEASE) if self.toils else (JOB_SECONDS, JOB_LEASE)
            self.peer.consume(queue, ack=True, prefetch=2, lease=self.job_times[1])

        self.want("consume", queue, consume)

    async def do_toil(self, peer: Peer, queue: str) -> None:
        """Take jobs that take long."""
        self.toils = True
        await self.do_consume(peer, queue)

    async def do_bequeath(self, peer: Peer, topic: str) -> None:
        """Leave something to be published when this session, or its node, is lost."""
        body = f"{self.name} {self.session}"
        self.history.testaments[body] = self, peer
        await peer.set_testament(topic, "left", body.encode())
        self.history.bequeathed[body] = None

    async def do_enqueue(self, peer: Peer, recipient: str) -> None:
        body = f"job {self.history.number()}"
        self.history.jobs[body] = False
        if not recipient.startswith(QUEUE):
            self.history.mailed.add(body)
        await peer.enqueue("", body.encode(), recipient=recipient)
        self.history.jobs[body] = True

    def mail(self, mail: Mail) -> bool:
        self.world.log(f"{self.name}: takes {mail.body!r}")
        if isinstance(mail, Delivery):
            self.history.on_delivery(mail.body.decode(), self)
            self._run(self._work(mail), "work")
        else:
            self.history.done[mail.body.decode()] += 1
        return True

    async def _work(self, job: Delivery) -> None:
        """Do *job*, and say so until it is known, here or at the node that the client comes to meanwhile."""
        await deferLater(self.node.clock, self.job_times[0])  # type: ignore[arg-type]
        self.history.done[job.body.decode()] += 1
        while self.peer is not None:
            try:
                await self.peer.finish_job(job.id)
                self.history.workers.pop(job.body.decode(), None)
                return
            except NotFound:
                return
            except BrokerError:
                await deferLater(self.node.clock, RETRY)  # type: ignore[arg-type]

    async def do_increment(self, peer: Peer, key: str) -> None:
        amount = int(1 + 9 * self.chance.random())
        epoch = peer.epoch
        self.history.maybe_added[key] += amount
        await peer.increment(key, b"%d" % amount)
        self.history.added[key].append((amount, epoch))

    async def do_watch(self, peer: Peer, key: str) -> None:
        async def watch() -> None:
            peer = self.peer
            assert peer is not None
            if key.endswith("*"):
                peer.watch_pattern(key)
            else:
                peer.watch(names=[key])
            await peer.listening()
            if self.peer is peer:
                self.watching[key] = self.world.now

        self.want("watch", key, watch)

    async def do_set(self, peer: Peer, key: str) -> None:
        await peer.set(key, b"%d" % self.history.number())
