"""Three nodes on one Redis, each client on another: calls, mail, names, rooms and keys between them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from itertools import count
from typing import Any, cast

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList, fail, gatherResults, maybeDeferred
from twisted.python.failure import Failure

from broker.buses import open_bus
from broker.cluster import names
from broker.config.settings import Settings
from broker.core import members
from broker.core.old_jobs import move_old_jobs
from broker.core.service import Broker
from broker.errors import BrokerError, CalleeFailed, Denied, Gone, Invalid, NotDone, NotFound, Taken, Unavailable
from broker.messages import Delivery, Event, Mail, Reply, Request, previous_value, revision_of
from broker.peer import Peer
from broker.sessions import BaseSession
from broker.stores import open_store
from broker.testing import value_of
from tests.support.eventually import eventually
from tests.support.redis_server import RedisServer

LEASE = 60.0  # seconds: on a busy machine all nodes live on; ``Node.outlive`` ends one
BEAT = 0.2  # seconds
_numbers = count()


class Session(BaseSession):
    """A client that keeps what it is handed, and answers calls as ``answers`` says."""

    def __init__(self) -> None:
        self.peer: Peer
        self.heard: list[tuple[Event, str]] = []
        self.requests: list[Request] = []
        self.replies: list[Reply] = []
        self.mails: list[Mail] = []
        self.answers: Callable[[Request], object] | None = None
        self.takes_mail = True
        self.alive = True
        self.hung_up: tuple[int, str] | None = None

    def event(self, event: Event, pattern: str) -> None:
        self.heard.append((event, pattern))

    def request(self, request: Request) -> None:
        self.requests.append(request)
        if self.answers is not None:
            self.answers(request)

    def reply(self, reply: Reply) -> None:
        self.replies.append(reply)

    def mail(self, mail: Mail) -> bool:
        if self.takes_mail:
            self.mails.append(mail)
        return self.takes_mail

    async def probe(self) -> bool:
        return True if self.alive else await Deferred()

    @property
    def bodies(self) -> list[bytes | None]:
        return [event.body for event, _ in self.heard]

    def echo(self, request: Request) -> None:
        self.peer.answer(request.id, request.body, time=2.5, attachments=request.attachments)


class Node:
    """A broker on Redis, and how clients connect to it."""

    def __init__(self, url: str, prefix: str, name: str, **settings: Any) -> None:
        options = Settings(takeover_probe_seconds=60.0, **settings)
        self.prefix = prefix
        self.store: Any = open_store(url, clock=reactor, prefix=prefix, announce=True)
        self.bus: Any = open_bus(url, name, reactor=reactor, prefix=prefix, lease=LEASE)
        self.broker = Broker(options, self.store, self.bus, reactor)

    async def start(self) -> None:
        self.broker.startService()
        self.beat()
        await eventually(lambda: not self.broker.ready() and self.bus.lives(self.bus.address))

    async def stop(self) -> None:
        if self.broker.running:
            await maybeDeferred(self.broker.stopService)

    async def settle(self) -> None:
        """Wait until all that was begun so far is known to Redis."""
        await self.broker.store.head("")
        await self.bus.holders([""])

    def beat(self) -> None:
        """Renew the lease, and look at those of the others, more often than LEASE alone asks for."""
        if self.bus._heartbeats.running:
            self.bus._heartbeats.stop()
        self.bus._heartbeats.start(BEAT)

    async def outlive(self, other: Node) -> None:
        """Let the lease of *other*, which is silent, end as time would end it."""
        execute = self.store._batcher.connection.protocol.execute_command
        await execute(b"SET", self.prefix + "grace", 0)  # the time that nodes are given after the first start
        await execute(b"ZADD", self.prefix + "nodes", 0, other.bus.address)

    def note_sent(self, other: Node) -> list[bool]:
        """Return what is appended to for each message to *other*: whether it was handed over."""
        sent: list[bool] = []
        send = self.bus.send

        def note(arrived: bool) -> bool:
            sent.append(arrived)
            return arrived

        def send_noting(address: str, message: bytes) -> Deferred[bool]:
            sending: Deferred[bool] = send(address, message)
            return sending.addCallback(note) if address == other.bus.address else sending

        self.bus.send = send_noting
        return sent

    async def die(self) -> None:
        """End as the process would by ``kill -9``: nothing is given back."""
        self.bus._heartbeats.stop()
        for connection in (
            self.bus._batcher.connection,
            self.bus._subscriber_connection,
            self.store._batcher.connection,
        ):
            await connection.stop()

    def client(self, name: str = "", dialect: str = "test") -> Session:
        session = Session()
        peer = session.peer = self.broker.attach(dialect, "127.0.0.1")

        def disconnect(code: int, reason: str) -> None:
            session.hung_up = (code, reason)

        peer.bind(session, disconnect)
        if name:
            value_of(peer.take_name(name))
        peer.appear()
        return session


MakeNodes = Callable[..., Awaitable[list[Node]]]


@pytest_twisted.async_yield_fixture
async def make_nodes(shared_redis_server: RedisServer) -> AsyncIterator[MakeNodes]:
    made: list[Node] = []
    prefix = f"nodes{next(_numbers)}:"

    async def make(number: int = 3, **settings: Any) -> list[Node]:
        nodes = [Node(shared_redis_server.url, prefix, f"node{each}", **settings) for each in range(number)]
        made.extend(nodes)
        await gatherResults([Deferred.fromCoroutine(node.start()) for node in nodes])
        await eventually(lambda: all(one.bus.lives(other.bus.address) for one in nodes for other in nodes))
        return nodes

    yield make
    for node in made:
        await node.stop()


def call(procedure: str, body: bytes = b"[1]", timeout: float = 60.0, **more: Any) -> Request:
    return Request("", procedure, "", "", body, timeout=timeout, **more)


async def reply_to(session: Session, number: int = 1) -> Reply:
    await eventually(lambda: len(session.replies) >= number)
    return session.replies[number - 1]


def nothing_is_left(*nodes: Node) -> bool:
    return all(
        not (node.broker.calls.pending or node.broker.calls._out or node.broker.calls._in)  # type: ignore[attr-defined]
        for node in nodes
    )


# Calls.


@pytest_twisted.ensureDeferred
async def test_a_call_reaches_a_procedure_on_another_node(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client("ann"), two.client("bob")
    bob.answers = bob.echo
    await bob.peer.perform(["math.add"])
    asked = call("math.add", b'[1, "\xc3\xa4"]', time=1.5, attachments=(b"\x00\xff",), original=b"raw")
    ann.peer.call("my ref", asked)
    reply = await reply_to(ann)
    assert (reply.ref, reply.body, reply.error, reply.source) == ("my ref", b'[1, "\xc3\xa4"]', None, "bob")
    assert (reply.time, reply.streamed, reply.attachments) == (2.5, False, (b"\x00\xff",))
    (request,) = bob.requests
    assert (request.procedure, request.service, request.method) == ("math.add", "math.add", "")
    assert (request.caller, request.time, request.timeout) == ("ann", 1.5, 60.0)
    assert (request.dialect, request.original) == ("test", b"raw")
    assert nothing_is_left(one, two)


@pytest_twisted.ensureDeferred
async def test_a_service_on_another_node_has_all_its_methods(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client(), two.client()
    bob.answers = bob.echo
    await bob.peer.perform(["shop.stock"], as_service=True)
    for ref, (procedure, service) in enumerate([("shop.stock.count", ""), ("shop.stock.x", "shop.stock")], 1):
        ann.peer.call(str(ref), call(procedure), service=service)
        assert (await reply_to(ann, ref)).error is None
    assert [(each.service, each.method) for each in bob.requests] == [("shop.stock", "count"), ("shop.stock", "x")]


@pytest_twisted.ensureDeferred
async def test_the_exact_procedure_goes_before_a_service_wherever_both_are(make_nodes: MakeNodes) -> None:
    one, _, three = await make_nodes()
    ann, as_service, exact = one.client(), one.client(), three.client()
    as_service.answers, exact.answers = as_service.echo, exact.echo
    await as_service.peer.perform(["shop"], as_service=True)
    await exact.peer.perform(["shop.buy"])
    ann.peer.call("1", call("shop.buy"))
    await reply_to(ann, 1)
    ann.peer.call("2", call("shop.sell"))
    await reply_to(ann, 2)
    assert [each.procedure for each in exact.requests] == ["shop.buy"]
    assert [each.procedure for each in as_service.requests] == ["shop.sell"]


@pytest_twisted.ensureDeferred
async def test_what_nobody_performs_is_not_found(make_nodes: MakeNodes) -> None:
    one, _, _ = await make_nodes()
    ann = one.client()
    ann.peer.call("1", call("missing.method"))
    ann.peer.call("2", call("missing.method"), service="missing")
    ann.peer.call("3", call("missing.method", recipient="nobody"))
    ann.peer.request("4", call(""), "topic")
    await eventually(lambda: len(ann.replies) == 4)
    errors = {reply.ref: reply.error for reply in ann.replies}
    assert [type(errors[ref]) for ref in "1234"] == [NotFound, NotFound, Gone, NotFound]
    assert [(errors[ref].what, errors[ref].name) for ref in "1234"] == [  # type: ignore[union-attr]
        ("method", "missing.method"),
        ("service", "missing"),
        ("recipient", "nobody"),
        ("request", "topic"),
    ]
    assert nothing_is_left(one)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize(
    "error",
    [
        Denied("call", "x"),
        Unavailable("store", message="It is away."),
        CalleeFailed("E_STOCK", "none left", b'{"left":0}'),
        CalleeFailed("NOT_FOUND", "", None),
    ],
)
async def test_an_error_comes_as_it_was_given(make_nodes: MakeNodes, error: BrokerError) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client(), two.client()
    await bob.peer.perform(["p"])
    bob.answers = lambda request: bob.peer.answer(request.id, b"null", error)
    ann.peer.call("ref", call("p"))
    found = (await reply_to(ann)).error
    assert found is not None
    for name in ("__class__", "code", "what", "name", "message", "data"):
        assert getattr(found, name) == getattr(error, name)


@pytest_twisted.ensureDeferred
async def test_a_callee_that_refuses_is_heard(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client(), two.client()
    await bob.peer.perform(["p"])

    def refuse(_: Request) -> None:
        raise Denied("request", "p")

    bob.answers = refuse
    ann.peer.call("ref", call("p"))
    reply = await reply_to(ann)
    assert isinstance(reply.error, Denied)
    assert reply.source == "broker"
    assert nothing_is_left(one, two)


@pytest_twisted.ensureDeferred
async def test_a_call_can_be_addressed_to_a_client_and_to_a_session(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    ann, bob, other = one.client("ann"), two.client("bob"), three.client("bob")
    bob.answers = bob.echo
    await bob.peer.perform(["p"], shared=True)
    await three.settle()
    for number, recipient in enumerate(["bob", bob.peer.id], 1):
        ann.peer.call(str(number), call("p", recipient=recipient))
        assert (await reply_to(ann, number)).source == "bob"
    ann.peer.call("3", call("p", recipient=other.peer.id))
    assert isinstance((await reply_to(ann, 3)).error, NotFound | Gone)


@pytest_twisted.ensureDeferred
async def test_a_streamed_request_is_answered_many_times(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    ann, bob, any_ = one.client("ann"), two.client("bob"), three.client("any")
    bob.peer.acknowledge("prices")
    any_.peer.acknowledge("*")
    await gatherResults([Deferred.fromCoroutine(node.settle()) for node in (two, three)])
    ann.peer.request("ref", call("", b"{}"), "prices")
    await eventually(lambda: bob.requests)
    for number in range(3):
        assert bob.peer.answer(bob.requests[0].id, b"%d" % number)
    await eventually(lambda: len(ann.replies) == 3)
    assert [(reply.body, reply.streamed, reply.source) for reply in ann.replies] == [
        (b"%d" % number, True, "bob") for number in range(3)
    ]
    ann.peer.request("any", call(""), "other")
    await eventually(lambda: any_.requests)
    ann.peer.request("direct", call("", recipient="bob"))
    await eventually(lambda: len(bob.requests) == 2)
    for client in (ann, bob, any_):
        client.peer.close()
    await eventually(lambda: nothing_is_left(one, two, three))


@pytest_twisted.ensureDeferred
async def test_the_deadline_is_the_caller_s_and_ends_the_call_on_both_nodes(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client(), two.client()
    await bob.peer.perform(["slow"])
    ann.peer.call("ref", call("slow", timeout=1.0))
    assert (await reply_to(ann)).error.code == "TIMEOUT"  # type: ignore[union-attr]
    await eventually(lambda: nothing_is_left(one, two))
    assert not bob.peer.answer(bob.requests[0].id, b"late")
    bob.answers = bob.echo
    ann.peer.call("next", call("slow"))  # what came late would come before its answer
    await reply_to(ann, 2)
    assert [reply.ref for reply in ann.replies] == ["ref", "next"]


@pytest_twisted.ensureDeferred
async def test_a_callee_or_a_caller_that_leaves_ends_the_call(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, bob, eve = one.client(), two.client(), one.client()
    await bob.peer.perform(["slow"])
    eve.peer.call("ref", call("slow", timeout=0.0))  # without a deadline, which would end it there, too
    await eventually(lambda: bob.requests)
    eve.peer.close()
    await eventually(lambda: nothing_is_left(one, two))
    ann.peer.call("ref", call("slow"))
    await eventually(lambda: len(bob.requests) == 2)
    bob.peer.close()
    error = (await reply_to(ann)).error
    assert isinstance(error, Gone)
    assert error.what == "lost"
    await eventually(lambda: nothing_is_left(one, two))


@pytest_twisted.ensureDeferred
async def test_a_call_reaches_its_callee_though_the_caller_leaves_at_once(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client(), two.client()
    await bob.peer.perform(["slow"])
    ann.peer.call("ref", call("slow"))
    ann.peer.call("nowhere", call("missing"))
    ann.peer.close()
    await eventually(lambda: bob.requests)
    await eventually(lambda: nothing_is_left(one, two))
    assert bob.requests[0].procedure == "slow"
    assert ann.replies == []


@pytest_twisted.ensureDeferred
async def test_a_callee_that_moves_is_found_again(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    ann = one.client()
    for number, node in enumerate((two, three, two, one), 1):
        bob = node.client()
        bob.answers = bob.echo
        await bob.peer.perform(["p"])
        ann.peer.call(str(number), call("p"))
        assert (await reply_to(ann, number)).error is None
        assert len(bob.requests) == 1
        bob.peer.close()
        await node.settle()


@pytest_twisted.ensureDeferred
async def test_a_thousand_calls_cross(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    ann, bob = one.client(), three.client()
    bob.answers = bob.echo
    await bob.peer.perform(["p"])
    for number in range(1000):
        ann.peer.call(str(number), call("p", b"[%d]" % number))
    await eventually(lambda: len(ann.replies) == 1000)
    assert {reply.ref: reply.body for reply in ann.replies} == {str(n): b"[%d]" % n for n in range(1000)}
    assert nothing_is_left(one, two, three)


@pytest_twisted.ensureDeferred
async def test_the_death_of_the_callee_s_node_ends_the_call_soon_after_its_lease(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client(), two.client()
    await bob.peer.perform(["slow"])
    ann.peer.call("ref", call("slow", timeout=0.0))
    await eventually(lambda: bob.requests)
    await two.die()
    assert not ann.replies
    await one.outlive(two)
    await eventually(lambda: ann.replies)
    assert isinstance(ann.replies[0].error, Gone)
    again = one.client()
    await again.peer.perform(["slow"])


@pytest_twisted.ensureDeferred
async def test_the_death_of_the_caller_s_node_ends_the_call_for_the_callee(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client(), two.client()
    await bob.peer.perform(["slow"])
    ann.peer.call("ref", call("slow", timeout=0.0))
    await eventually(lambda: bob.requests)
    await one.die()
    await two.outlive(one)
    await eventually(lambda: nothing_is_left(two))


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("which", ["subscriptions", "operations"])
async def test_calls_and_streams_go_on_when_a_node_has_lost_its_connection(make_nodes: MakeNodes, which: str) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client(), two.client()
    await bob.peer.perform(["slow"])
    bob.peer.acknowledge("prices")
    await two.settle()
    ann.peer.call("call", call("slow", timeout=0.0))
    ann.peer.request("stream", call(""), "prices")
    await eventually(lambda: len(bob.requests) == 2)
    asked, stream = sorted(bob.requests, key=lambda request: request.streamed)
    for number in range(20):
        if number % 5 == 0:
            for node in (one, two):
                bus: Any = node.bus
                (bus._subscriber_connection if which == "subscriptions" else bus._batcher.connection).drop(
                    "by the test"
                )
        assert bob.peer.answer(stream.id, b"%d" % number)
        await eventually(partial(has_replies, ann, number - 4))
    bob.peer.answer(asked.id, b'"end"')
    await eventually(lambda: len(ann.replies) == 21)
    assert [reply.error for reply in ann.replies] == [None] * 21
    assert [reply.body for reply in ann.replies if reply.streamed] == [b"%d" % number for number in range(20)]


@pytest_twisted.ensureDeferred
async def test_a_lost_answer_of_redis_makes_no_call_be_executed_twice(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client(), two.client()
    await bob.peer.perform(["p"])
    bob.answers = bob.echo
    ann.peer.call("first", call("p"))
    await reply_to(ann)
    for node in (one, two):
        lose_answers(node, 2)
    ann.peer.call("ref", call("p", timeout=0.0))
    assert (await reply_to(ann, 2)).error is None
    await eventually(lambda: nothing_is_left(one, two))
    assert [len(bob.requests), len(ann.replies)] == [2, 2]


def has_replies(session: Session, number: int) -> bool:
    return len(session.replies) >= number


def lose_answers(node: Node, number: int) -> None:
    """Let Redis do what *node* sends to others the next *number* times, but lose its answer."""
    bus: Any = node.bus
    send = bus.send

    def lossy(address: str, message: bytes) -> Deferred[bool]:
        nonlocal number
        sent: Deferred[bool] = send(address, message)
        if number:
            number -= 1
            sent.addCallback(lambda _: Failure(Unavailable("redis", message="Redis has not answered")))
        return sent

    bus.send = lossy


# Names.


@pytest_twisted.ensureDeferred
async def test_a_name_is_taken_on_every_node(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    ann, bob = one.client(), two.client()
    await ann.peer.perform(["a", "b"])
    with pytest.raises(Taken):
        await bob.peer.perform(["c", "b"])
    eve = three.client()
    await eve.peer.perform(["c"])
    assert ann.peer.release("b")
    await one.settle()
    await bob.peer.perform(["b"])


@pytest_twisted.ensureDeferred
async def test_a_shared_name_is_performed_on_several_nodes(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    clients = [node.client() for node in (one, two)]
    for client in clients:
        client.answers = client.echo
        await client.peer.perform(["p"], shared=True)
    ann = three.client()
    ann.peer.call("1", call("p"))
    await reply_to(ann, 1)
    for client in clients[:1]:
        client.peer.close()
    await one.settle()
    ann.peer.call("2", call("p"))
    assert (await reply_to(ann, 2)).error is None


@pytest_twisted.ensureDeferred
async def test_a_silent_holder_on_another_node_is_replaced(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    old, new = one.client(), two.client()
    await old.peer.perform(["s"], as_service=True, takeover=True)
    with pytest.raises(Taken):
        await new.peer.perform(["s"], as_service=True, takeover=True)
    old.alive = False
    for node in (one, two):
        node.broker.parts.cluster._probe = 0.1  # type: ignore[attr-defined]  # seconds
    await new.peer.perform(["s"], as_service=True, takeover=True)
    assert old.hung_up == (1001, "replaced")
    assert await one.bus.holders(["service:s"]) == ("service:s", [two.bus.address])


@pytest_twisted.ensureDeferred
async def test_of_many_that_take_over_from_a_silent_holder_one_gets_the_name_and_keeps_it(
    make_nodes: MakeNodes,
) -> None:
    nodes = await make_nodes()
    old = nodes[0].client()
    await old.peer.perform(["s"], as_service=True)
    old.alive = False
    for node in nodes:
        node.broker.parts.cluster._probe = 0.1  # type: ignore[attr-defined]  # seconds
        node.broker.parts.settings = attrs.evolve(node.broker.settings, takeover_probe_seconds=0.1)
    takers = [node.client() for node in nodes for _ in range(2)]
    tried = [Deferred.fromCoroutine(taker.peer.perform(["s"], as_service=True, takeover=True)) for taker in takers]
    results: list[tuple[bool, Any]] = await DeferredList(tried, consumeErrors=True)
    assert [type(result.value) for _, result in results if isinstance(result, Failure)] == [Taken] * 5
    await nodes[0].settle()
    assert [taker.hung_up for taker in takers] == [None] * 6
    assert sorted(node.broker.calls.services.names() for node in nodes) == [[], [], ["s"]]


@pytest_twisted.ensureDeferred
async def test_members_of_a_topic_are_known_on_all_nodes_until_theirs_is_lost(
    make_nodes: MakeNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(members, "GRACE", 0.1)
    one, two, three = await make_nodes()
    ann, bob, carol = one.client("ann"), two.client("bob"), three.client("carol")
    carol.peer.subscribe("broker.presence.chat")
    for session in (ann, bob):
        session.peer.subscribe("chat")
        session.peer.enter("chat")
    for node in (one, two, three):
        await eventually(lambda node=node: len(node.broker.parts.members.of("chat")) == 2)  # type: ignore[misc]
    await one.die()
    await two.outlive(one)
    await eventually(lambda: [event.name for event, _ in carol.heard] == ["join", "join", "leave"])
    assert {event.body for event, _ in carol.heard[:2]} == {b'{"id": "ann"}', b'{"id": "bob"}'}
    assert carol.heard[2][0].body == b'{"id": "ann"}'
    await eventually(lambda: len(two.broker.parts.members.of("chat")) == 1)
    assert [member.id for member in two.broker.parts.members.of("chat")] == ["bob"]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("durable", [False, True])
async def test_an_event_excludes_receivers_on_other_nodes(make_nodes: MakeNodes, durable: bool) -> None:
    one, two = await make_nodes(2)
    ann, bob, carol = one.client("ann"), two.client("bob"), two.client("carol")
    for session in (bob, carol):
        session.peer.subscribe("t")
        await session.peer.listening()
    for body, exclude in ((b"1", ["bob", "nobody"]), (b"2", [carol.peer.id]), (b"3", [])):
        await ann.peer.publish("t", "n", body, durable=durable, exclude=exclude)
    await eventually(lambda: bob.bodies[-1:] == carol.bodies[-1:] == [b"3"])
    assert (bob.bodies, carol.bodies) == ([b"2", b"3"], [b"1", b"3"])


@pytest_twisted.ensureDeferred
async def test_the_last_value_and_what_a_client_leaves_are_had_on_other_nodes(make_nodes: MakeNodes) -> None:
    one, two = await make_nodes(2, retained_topics=("state.>",))
    ann, bob = one.client("ann"), two.client("bob")
    bob.peer.subscribe("state.ann")
    await bob.peer.listening()
    await ann.peer.publish("state.ann", "n", b'"here"')
    assert [event.body for event in await bob.peer.last("state.ann")] == [b'"here"']
    await ann.peer.set_testament("state.ann", "n", b'"gone"')
    ann.peer.close()
    await eventually(lambda: bob.bodies == [b'"here"', b'"gone"'])
    (event,) = await bob.peer.last("state.ann")
    assert (event.body, event.source, event.id) == (b'"gone"', "ann", 0)
    await bob.peer.publish("state.ann", "n", None)
    assert await bob.peer.last("state.ann") == []


@pytest_twisted.ensureDeferred
async def test_what_the_clients_of_a_lost_node_leave_is_published_by_another(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    ann, bob = one.client("ann"), three.client("bob")
    bob.peer.subscribe("t")
    await bob.peer.listening()
    await ann.peer.set_testament("t", "n", b'"gone"')
    await one.die()
    await two.outlive(one)
    await eventually(lambda: bob.bodies == [b'"gone"'])
    for node in (two, three):
        await node.broker.parts.testaments.recover()
        await node.settle()
    assert bob.bodies == [b'"gone"']


@pytest_twisted.ensureDeferred
async def test_the_holder_on_a_dead_node_is_replaced_when_the_lease_ends(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    old, new = one.client(), two.client()
    await old.peer.perform(["s"], as_service=True)
    await one.die()
    arrived = two.note_sent(one)
    taking = Deferred.fromCoroutine(new.peer.perform(["s"], as_service=True, takeover=True))
    await eventually(lambda: len(arrived) > 2)
    assert not any(arrived)  # nobody listens there, as at one that has lost its subscriptions and goes on
    assert not taking.called
    await two.outlive(one)
    await taking
    assert await two.bus.holders(["service:s"]) == ("service:s", [two.bus.address])


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("alive", [True, False])
async def test_a_takeover_from_a_node_that_subscribes_again_waits_for_its_answer(
    make_nodes: MakeNodes, alive: bool
) -> None:
    one, two, _ = await make_nodes()
    old, new = one.client(), two.client()
    await old.peer.perform(["s"], as_service=True)
    old.alive = alive
    one.broker.parts.cluster._probe = 0.1  # type: ignore[attr-defined]  # seconds
    await one.bus._subscriber_connection.stop()
    arrived = two.note_sent(one)
    taking = Deferred.fromCoroutine(new.peer.perform(["s"], as_service=True, takeover=True))
    taking.addErrback(lambda failure: failure.trap(Taken))
    await eventually(lambda: len(arrived) > 2)
    assert not any(arrived)
    assert not taking.called
    assert not old.hung_up
    one.bus._subscriber_connection.start()
    assert await taking == (Taken if alive else None)
    assert bool(old.hung_up) is not alive
    holder = one if alive else two
    assert await two.bus.holders(["service:s"]) == ("service:s", [holder.bus.address])


@pytest_twisted.ensureDeferred
async def test_a_takeover_from_a_node_that_does_not_answer_ends_soon_after_a_lease(
    make_nodes: MakeNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "LEARNING", 0.2 - LEASE)  # seconds
    one, two, _ = await make_nodes()
    old, new = one.client(), two.client()
    await old.peer.perform(["s"], as_service=True)
    one.bus.received = lambda *_: None
    with pytest.raises(Taken):  # that node goes on to renew its lease
        await new.peer.perform(["s"], as_service=True, takeover=True)
    assert await two.bus.holders(["service:s"]) == ("service:s", [one.bus.address])


@pytest_twisted.ensureDeferred
async def test_a_name_that_was_not_given_back_is_given_back_when_somebody_takes_it_over(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    await one.bus.claim("service:s")  # as if its release had been forgotten
    await two.client().peer.perform(["s"], as_service=True, takeover=True)
    assert await two.bus.holders(["service:s"]) == ("service:s", [two.bus.address])


@pytest_twisted.ensureDeferred
async def test_a_name_is_not_taken_from_a_node_that_listens_and_does_not_answer(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    old, new = one.client(), two.client()
    await old.peer.perform(["s"], as_service=True)
    asked: list[str] = []
    one.bus.received = lambda sender, _: asked.append(sender)  # as a node that is frozen
    taking = Deferred.fromCoroutine(new.peer.perform(["s"], as_service=True, takeover=True))
    await eventually(lambda: asked)
    assert not taking.called
    one.bus._heartbeats.stop()
    await two.outlive(one)
    await taking
    assert await two.bus.holders(["service:s"]) == ("service:s", [two.bus.address])


@pytest_twisted.ensureDeferred
async def test_a_name_is_not_taken_from_a_node_that_has_come_back(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    old, new = one.client(), two.client()
    await old.peer.perform(["s"], as_service=True)
    asked: list[str] = []
    received = one.bus.received
    one.bus.received = lambda sender, _: asked.append(sender)  # as a node that is frozen
    taking = Deferred.fromCoroutine(new.peer.perform(["s"], as_service=True, takeover=True))
    await eventually(lambda: asked)
    for node in (one, two):  # else two sees that the lease has ended, and may have the name
        node.bus._heartbeats.stop()
        await node.settle()
    await two.outlive(one)
    one.bus._lease.end()
    one.beat()
    claims: Any = one.broker.parts.cluster._claims  # type: ignore[attr-defined]
    await eventually(lambda: claims.holds("service:s"))
    one.bus.received = received
    two.beat()
    with pytest.raises(Taken):
        await taking
    assert not old.hung_up


@pytest_twisted.ensureDeferred
async def test_a_name_that_was_lost_while_away_parts_with_its_holder(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    old, new = one.client(), two.client()
    await old.peer.perform(["p"])
    one.bus._heartbeats.stop()
    await one.settle()
    await two.outlive(one)
    await eventually(lambda: not two.bus.lives(one.bus.address))
    await new.peer.perform(["p"])
    one.beat()
    await eventually(lambda: old.hung_up)
    assert old.hung_up == (1001, "replaced")


@pytest_twisted.ensureDeferred
async def test_a_performer_is_reachable_when_another_of_its_name_leaves_at_the_same_moment(
    make_nodes: MakeNodes,
) -> None:
    one, two, _ = await make_nodes()
    first, second, ann = one.client(), one.client(), two.client()
    second.answers = second.echo
    await first.peer.perform(["work"], shared=True)
    performing = Deferred.fromCoroutine(second.peer.perform(["work"], shared=True))
    first.peer.close()
    await performing
    await one.settle()
    ann.peer.call("1", call("work"))
    assert (await reply_to(ann)).error is None


@pytest_twisted.ensureDeferred
async def test_one_who_fails_to_get_all_its_names_gives_back_its_own_only(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    await two.client().peer.perform(["taken"])
    failing, other = one.client(), one.client()
    failed = Deferred.fromCoroutine(failing.peer.perform(["n1", "taken"], shared=True))
    got = Deferred.fromCoroutine(other.peer.perform(["n1", "n2"], shared=True))
    with pytest.raises(Taken):
        await failed
    await got
    await one.settle()
    for name in ("procedure:n1", "procedure:n2"):
        assert await two.bus.holders([name]) == (name, [one.bus.address])


@pytest_twisted.ensureDeferred
async def test_a_claim_that_was_cancelled_blocks_nobody(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    performing = Deferred.fromCoroutine(one.client().peer.perform(["p"]))
    performing.addErrback(lambda _: None)
    performing.cancel()
    await eventually(lambda: "procedure:p" not in one.broker.parts.cluster._claims)  # type: ignore[attr-defined]
    await two.client().peer.perform(["p"])


@pytest_twisted.ensureDeferred
async def test_a_claim_whose_answer_was_lost_blocks_nobody(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    performing = Deferred.fromCoroutine(one.client().peer.perform(["p"]))
    one.bus._batcher._begin()  # it is sent
    one.bus._batcher.connection.drop("cut by the test")
    with pytest.raises(Unavailable):
        await performing
    await eventually(lambda: "procedure:p" not in one.broker.parts.cluster._claims)  # type: ignore[attr-defined]
    await two.client().peer.perform(["p"])


@pytest_twisted.ensureDeferred
async def test_a_node_without_a_lease_serves_no_name_that_another_may_hold(make_nodes: MakeNodes) -> None:
    one, _, _ = await make_nodes()
    ann, bob = one.client(), one.client()
    bob.answers = bob.echo
    await bob.peer.perform(["alone"])
    await bob.peer.perform(["pool"], shared=True)
    one.bus._heartbeats.stop()
    await one.settle()
    one.bus._lease.end()
    with pytest.raises(Unavailable):
        ann.peer.call("1", call("alone"))
    with pytest.raises(Unavailable):
        await bob.peer.perform(["more"])
    ann.peer.call("2", call("pool"))
    assert (await reply_to(ann)).error is None
    one.beat()
    claims: Any = one.broker.parts.cluster._claims  # type: ignore[attr-defined]
    await eventually(lambda: claims.holds("procedure:alone"))
    ann.peer.call("3", call("alone"))
    assert (await reply_to(ann, 2)).error is None


@pytest_twisted.ensureDeferred
async def test_a_lease_that_has_ended_is_not_taken_up_again_with_its_names(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    old, new = one.client(), two.client()
    await old.peer.perform(["job"])
    one.bus._heartbeats.stop()
    await one.settle()
    number = one.bus.lease
    await two.outlive(one)  # and nobody has removed it
    await new.peer.perform(["job"])
    one.bus._renew()
    await eventually(lambda: old.hung_up)
    assert one.bus.lease > number
    assert await one.bus.holders(["procedure:job"]) == ("procedure:job", [two.bus.address])


# Mail.


@pytest_twisted.ensureDeferred
async def test_mail_reaches_a_client_on_another_node(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client("ann"), two.client("bob")
    await two.settle()
    for number in range(20):
        assert not await ann.peer.enqueue(str(number), b"%d" % number, recipient="bob", time=1.5)
    await eventually(lambda: len(bob.mails) == 20)
    assert [(mail.ref, mail.body, mail.source, mail.time) for mail in bob.mails] == [
        (str(number), b"%d" % number, "ann", 1.5) for number in range(20)
    ]


@pytest_twisted.ensureDeferred
async def test_mail_reaches_a_session_on_another_node(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, nameless = one.client("ann"), two.client()
    await two.settle()
    assert not await ann.peer.enqueue("ref", b"1", recipient=nameless.peer.id)
    assert [mail.body for mail in nameless.mails] == [b"1"]
    nameless.takes_mail = False
    with pytest.raises(Gone):
        await ann.peer.enqueue("ref", b"2", recipient=nameless.peer.id)
    with pytest.raises(Gone):
        await ann.peer.enqueue("ref", b"2", recipient="nobody")


@pytest_twisted.ensureDeferred
async def test_mail_waits_for_a_client_whatever_node_it_comes_to(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    bob = two.client("bob")
    await two.settle()
    bob.peer.close()
    await one.client("ann").peer.enqueue("ref", b"1", recipient="bob")
    bob = three.client("bob")
    await eventually(lambda: bob.mails)
    assert [mail.body for mail in bob.mails] == [b"1"]


@pytest_twisted.ensureDeferred
async def test_each_message_of_a_work_queue_is_taken_once(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    senders = [node.client() for node in (one, two, three)]
    takers = [one.client(), two.client()]
    for taker in takers:
        taker.peer.consume("work")
    await gatherResults([Deferred.fromCoroutine(node.settle()) for node in (one, two)])
    sent = [
        sender.peer.enqueue("", b"%d" % (number * 3 + index), recipient="queue:work")
        for number in range(100)
        for index, sender in enumerate(senders)
    ]
    await gatherResults(sent)
    await eventually(lambda: sum(len(taker.mails) for taker in takers) >= 300)
    await one.client().peer.enqueue("", b"300", recipient="queue:work")  # the last to be taken
    await eventually(lambda: any(mail.body == b"300" for taker in takers for mail in taker.mails))
    bodies = sorted(int(mail.body) for taker in takers for mail in taker.mails)
    assert bodies == list(range(301))


@pytest_twisted.ensureDeferred
async def test_what_one_node_s_taker_declines_another_s_may_take(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    busy, free = one.client(), two.client()
    busy.takes_mail = False
    for taker in (busy, free):
        taker.peer.consume("work")
    await gatherResults([Deferred.fromCoroutine(node.settle()) for node in (one, two)])
    await gatherResults([three.client().peer.enqueue("", b"%d" % n, recipient="queue:work") for n in range(20)])
    await eventually(lambda: len(free.mails) == 20)


@pytest_twisted.ensureDeferred
async def test_the_mail_that_a_dead_node_had_in_hand_is_delivered(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    queues: Any = one.broker.queues
    assert await queues._lock("client:bob", one.bus.lease)
    await one.die()
    await two.outlive(one)
    taker = two.client("bob")
    await two.settle()
    await three.client().peer.enqueue("", b"1", recipient="bob")
    await eventually(lambda: taker.mails)


@pytest_twisted.ensureDeferred
async def test_a_lock_that_its_node_could_not_give_back_stops_no_queue(make_nodes: MakeNodes) -> None:
    one, two = await make_nodes(2)
    bob, sender = two.client("bob"), two.client()
    await two.settle()
    bob.peer.close()
    await sender.peer.enqueue("", b"1", recipient="bob")
    set_, refused = one.store.set, []

    def refuse_unlock(space: str, key: str, value: bytes, **options: Any) -> Any:
        if space == "mail-at" and b" " not in value and not refused:
            refused.append(value)
            return fail(Unavailable("redis"))
        return set_(space, key, value, **options)

    one.store.set = refuse_unlock
    first = one.client("bob")
    await eventually(lambda: refused)
    first.peer.close()
    second = two.client("bob")
    await sender.peer.enqueue("", b"2", recipient="bob")
    await eventually(lambda: len(second.mails) == 1)
    assert [mail.body for mail in first.mails + second.mails] == [b"1", b"2"]


@pytest_twisted.ensureDeferred
async def test_a_job_is_done_on_another_node_than_it_was_added_to(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    worker, sender = one.client("bob"), two.client()
    worker.peer.consume("work", ack=True, prefetch=3)
    await one.settle()
    ids = [await sender.peer.add_job("work", b"%d" % number, key=f"k{number // 2}") for number in range(10)]
    assert [again for _, again in ids] == [False, True] * 5
    for _ in range(5):
        await eventually(lambda: worker.mails)
        await worker.peer.finish_job(cast(Delivery, worker.mails.pop(0)).id)
    assert (await three.client().peer.queue_state("work")).in_flight == 0


@pytest_twisted.ensureDeferred
async def test_what_an_older_version_keeps_in_a_work_queue_becomes_jobs_once(make_nodes: MakeNodes) -> None:
    one, two = await make_nodes(2)
    for number in range(3):
        await one.broker.queues.put(Mail("queue:work", "ref", b"%d" % number))
    moves = [Deferred.fromCoroutine(move_old_jobs(n.store, n.broker.queues, n.broker.jobs)) for n in (one, two)]
    await gatherResults(moves)
    worker = two.client()
    worker.peer.consume("work", ack=True, prefetch=9)
    await eventually(lambda: len(worker.mails) == 3)
    assert [mail.body for mail in worker.mails] == [b"0", b"1", b"2"]
    assert (await one.client().peer.queue_state("work")).in_flight == 3


@pytest_twisted.ensureDeferred
async def test_the_jobs_of_a_node_that_is_lost_go_to_workers_of_others(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    lost = one.client()
    lost.peer.consume("work", ack=True, prefetch=2)
    for number in range(3):
        await three.client().peer.add_job("work", b"%d" % number)
    await eventually(lambda: len(lost.mails) == 2)
    heir = two.client()
    heir.peer.consume("work", ack=True, prefetch=9)
    await eventually(lambda: len(heir.mails) == 1)
    await one.die()
    await two.outlive(one)
    await eventually(lambda: len(heir.mails) == 3)
    found = [(mail.body, cast(Delivery, mail).delivery) for mail in heir.mails]
    assert found == [(b"2", 1), (b"0", 2), (b"1", 2)]


@pytest_twisted.ensureDeferred
async def test_a_worker_comes_back_to_another_node_and_finishes(make_nodes: MakeNodes) -> None:
    one, two, three = await make_nodes()
    bob, other = one.client("bob"), three.client()
    bob.peer.consume("work", ack=True)
    await other.peer.add_job("work", b"1")
    await eventually(lambda: bob.mails)
    other.peer.consume("work", ack=True)
    bob.peer.close()
    again = two.client("bob")
    await two.settle()
    id = cast(Delivery, bob.mails[0]).id
    await again.peer.extend_job(id, 60.0)
    assert (await two.store.jobs.nodes()) == [two.bus.address]
    await again.peer.finish_job(id)
    assert other.mails == []


# Events, rooms and keys.


@pytest_twisted.ensureDeferred
async def test_events_reach_listeners_on_every_node(make_nodes: MakeNodes) -> None:
    nodes = await make_nodes(durable_topics=("kept.>",))
    clients = [node.client() for node in nodes]
    for client in clients:
        client.peer.subscribe("live", echo=True)
        client.peer.subscribe("kept.*", echo=True)
    await eventually(lambda: all(i.confirmed for node in nodes for i in node.bus._subscriber._subscriptions))
    for client in clients:
        await client.peer.publish("live", "x", b'"live"')
        await client.peer.publish("kept.a", "x", b'"kept"')
    await eventually(lambda: all(len(client.heard) == 6 for client in clients))
    for client in clients:
        assert [event.id for event, _ in client.heard if event.id] == [1, 2, 3]


async def listening(session: Session) -> None:
    await session.peer.listening()
    subscriber = session.peer._parts.bus._subscriber  # type: ignore[attr-defined]
    await eventually(lambda: all(each.confirmed and each.mark is None for each in subscriber._subscriptions))


@pytest_twisted.ensureDeferred
async def test_patterns_that_are_one_glob_for_redis_miss_nothing_each(make_nodes: MakeNodes) -> None:
    one, two = await make_nodes(2, durable_topics=("a.>",))
    narrow, wide, sender = one.client(), one.client(), two.client()
    narrow.peer.subscribe("a.*")
    wide.peer.subscribe("a.>")
    await listening(wide)
    one.bus._subscriber_connection.drop("cut")
    await eventually(lambda: one.bus._subscriber_connection.protocol is None)
    for number in range(3):
        await sender.peer.publish("a.b.c", "x", b"%d" % number)
        await sender.peer.publish("a.b", "x", b"%d" % number)
    await eventually(lambda: (len(wide.heard), len(narrow.heard)) == (6, 3))


@pytest_twisted.ensureDeferred
async def test_a_topic_that_is_a_glob_for_redis_blinds_no_watcher(make_nodes: MakeNodes) -> None:
    one, two = await make_nodes(2)
    reader, watcher, writer = one.client(), one.client(), two.client()
    reader.peer.subscribe("kv/*")
    watcher.peer.watch(lambda key: key.startswith("user"))
    await listening(watcher)
    await writer.peer.set("user1", b"1")
    await eventually(lambda: len(watcher.heard) == 1)


@pytest_twisted.ensureDeferred
async def test_who_publishes_as_soon_as_it_is_answered_lets_others_be_heard(make_nodes: MakeNodes) -> None:
    (one,) = await make_nodes(1, durable_topics=("kept",))
    busy, other, reader = one.client(), one.client(), one.client()
    reader.peer.subscribe("other")
    for topic in ("live", "kept"):
        busy.peer.subscribe(topic, echo=True)
    await listening(busy)
    sent = 0

    def again(_: object, topic: str) -> None:
        nonlocal sent
        sent += 1
        if not busy.peer.closed:
            busy.peer.publish(topic, "x", None).addCallback(again, topic).addErrback(lambda _: None)

    for topic in ("live", "kept"):
        again(None, topic)
    for number in range(5):
        await other.peer.publish("other", "x", b"%d" % number)
    await eventually(lambda: len(reader.heard) == 5)
    assert busy.heard
    busy.peer.close()
    assert sent > 2


@pytest_twisted.ensureDeferred
async def test_a_poll_on_another_node_wakes(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client(), two.client()
    for number in range(1, 6):
        waiting = Deferred.fromCoroutine(bob.peer.poll("news", number - 1, 10, 5.0))
        await ann.peer.post("news", "x", b"%d" % number)
        assert [event.id for event in await waiting] == [number]


@pytest_twisted.ensureDeferred
async def test_key_changes_are_heard_on_every_node_once(make_nodes: MakeNodes) -> None:
    nodes = await make_nodes()
    clients = [node.client() for node in nodes]
    clients[0].peer.watch(lambda key: key.startswith("a"))
    clients[1].peer.watch(names=("a.1",))
    clients[2].peer.watch(lambda key: True, ("a.1",))
    await eventually(lambda: all(i.confirmed for node in nodes for i in node.bus._subscriber._subscriptions))
    await clients[0].peer.set("a.1", b"1")
    await clients[1].peer.delete("a.1")
    await eventually(lambda: all(len(client.heard) == 2 for client in clients))
    for client in clients:
        client.peer.close()


def _has_heard(watcher: Session, number: int) -> bool:
    return len(watcher.heard) == number


@pytest_twisted.ensureDeferred
async def test_key_changes_are_heard_of_a_node_that_can_publish_nothing_else(
    make_nodes: MakeNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, other = await make_nodes(2)
    writer, watcher = writing.client(), other.client()
    watcher.peer.watch(lambda key: True)
    await watcher.peer.listening()
    monkeypatch.setattr(writing.bus, "publish", lambda _: fail(Unavailable("bus")))
    changes: list[Callable[[], Any]] = [
        lambda: writer.peer.set("k", b"1", expires=1.0),  # which is long ago
        lambda: writing.broker.keys.expire(),
        lambda: writer.peer.set("k", b"2"),
        lambda: writer.peer.patch("k", b"3"),
        lambda: writer.peer.increment("k", b"4"),
        lambda: writer.peer.increment("k", b"0.5"),
        lambda: writer.peer.delete("k"),
    ]
    for number, change in enumerate(changes, 1):
        await change()
        await eventually(partial(_has_heard, watcher, number))
    assert [event.name for event, _ in watcher.heard] == ["set", "expired", "set", "set", "set", "set", "delete"]
    assert [json.loads(body or b"")["value"] for body in watcher.bodies] == ["1", None, "2", "23", "27", "27.5", None]


@pytest_twisted.ensureDeferred
async def test_key_changes_are_heard_in_the_order_of_their_revisions(make_nodes: MakeNodes) -> None:
    nodes = await make_nodes()
    watchers, values = [node.client() for node in nodes], {}
    for watcher in watchers:
        watcher.peer.watch(names=["k"])
        await watcher.peer.listening()

    async def write(writer: int) -> None:
        peer = nodes[writer % 3].client().peer
        for number in range(20):
            change = peer.patch if number % 3 else peer.set
            entry = await change("k", b"%d.%d" % (writer, number))
            values[entry.revision] = entry.value.decode()

    await gatherResults([Deferred.fromCoroutine(write(writer)) for writer in range(8)])
    await eventually(lambda: all(len(watcher.heard) == 160 for watcher in watchers))
    for watcher in watchers:
        heard = [json.loads(body or b"")["value"] for body in watcher.bodies]
        assert heard == [values[revision] for revision in range(1, 161)]


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("durable", [(), ("kv/>",)])
async def test_a_change_says_its_revision_and_the_value_before_on_every_node(
    make_nodes: MakeNodes, durable: tuple[str, ...]
) -> None:
    one, two, _ = await make_nodes(durable_topics=durable)
    watcher, writer = one.client(), two.client()
    watcher.peer.watch_pattern("k*")
    await watcher.peer.listening()
    await watcher.peer.keep_changes(previous=True)
    await gatherResults([writer.peer.patch("k", b"%d" % number) for number in range(3)])
    await writer.peer.set("k", b"5", expires=1.0)
    for change in (
        lambda: one.broker.keys.expire(),
        lambda: writer.peer.increment("k", b"4"),
        lambda: writer.peer.increment("k", b"0.5"),
        lambda: writer.peer.set("k", b"x" * 300),
        lambda: writer.peer.delete("k"),
        lambda: writer.peer.set("k", b""),
        lambda: writer.peer.set("k", b"y"),
    ):
        await change()
    await eventually(lambda: len(watcher.heard) == 11)
    changes = [event for event, _ in watcher.heard]
    assert [revision_of(change) for change in changes] == list(range(1, 12))
    before = [None, b"0", b"01", b"012", b"5", None, b"4", b"4.5", b"x" * 300, None, b""]
    assert [previous_value(change) for change in changes] == [(True, value) for value in before]


@pytest_twisted.ensureDeferred
async def test_a_watch_goes_on_at_another_node(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    writer, epoch = one.client().peer, one.broker.store.epoch
    writer.watch_pattern("a.*")
    await writer.keep_changes()
    writer.unwatch_pattern("a.*")
    changes = [writer.set(f"a.{number % 3}" if number % 2 else "b", b"%d" % number) for number in range(1200)]
    await gatherResults(changes)
    peer = two.client().peer
    missed = await peer.changes("a.*", epoch, 100)
    assert missed is not None
    assert [revision_of(change) for change in missed] == list(range(102, 1201, 2))
    assert await peer.changes("b", epoch, 1199) == await peer.changes(">", epoch, 1200) == []
    assert await peer.changes(">", "another", 1200) is None
    with pytest.raises(Invalid):
        await peer.changes(">", epoch, 1201)


async def drop_subscriptions(node: Node) -> None:
    """Let *node* lose its connection for what is published, and find out how far it has come before that."""
    node.broker.keys.missed._next_mark = 0.0  # type: ignore[union-attr]
    node.broker.keys.beat()
    await node.bus.received_all()
    node.bus._subscriber_connection.drop("a test")
    await eventually(lambda: node.bus._subscriber_connection.protocol is None)


@pytest_twisted.ensureDeferred
@pytest.mark.parametrize("durable", [(), ("kv/a",)])
async def test_changes_that_a_node_misses_are_brought_when_it_is_connected_again(
    make_nodes: MakeNodes, durable: tuple[str, ...]
) -> None:
    one, two = await make_nodes(2, durable_topics=durable)
    by_name, by_pattern, subscriber, writer = one.client(), one.client(), one.client(), two.client().peer
    by_name.peer.watch(names=["a"])
    by_pattern.peer.watch_pattern(">")
    subscriber.peer.subscribe("kv/a")
    await subscriber.peer.listening()
    await by_pattern.peer.keep_changes()
    await writer.set("a", b"1")
    await eventually(lambda: len(by_pattern.heard) == 1)
    await drop_subscriptions(one)
    for number in range(2, 6):
        await writer.set("ab"[number % 2], b"%d" % number)
    await eventually(lambda: len(by_pattern.heard) == 5)
    await writer.set("a", b"6")
    await eventually(lambda: len(by_pattern.heard) == 6)
    values = [[json.loads(body or b"")["value"] for body in each.bodies] for each in (by_name, by_pattern, subscriber)]
    assert (values[0], values[2]) == (["1", "2", "4", "6"], ["1", "2", "4", "6"])
    # What is stored comes by its log, not in one order with the others.
    assert (sorted(values[1]) if durable else values[1]) == ["1", "2", "3", "4", "5", "6"]


@pytest_twisted.ensureDeferred
async def test_who_watches_is_told_of_changes_that_can_not_be_had_any_more(
    make_nodes: MakeNodes, shared_redis_server: RedisServer
) -> None:
    one, two = await make_nodes(2)
    watcher, subscriber, writer = one.client(), one.client(), two.client().peer
    watcher.peer.watch(names=["a"])
    subscriber.peer.subscribe("kv/*")
    await subscriber.peer.listening()
    await writer.set("a", b"1")
    await eventually(lambda: len(subscriber.heard) == 1)
    await drop_subscriptions(one)
    await writer.set("a", b"2")
    await shared_redis_server.command("DEL", one.broker.store._prefix.decode() + "changed")  # type: ignore[attr-defined]
    await eventually(lambda: [each.hung_up and each.hung_up[0] for each in (watcher, subscriber)] == [1013] * 2)


@pytest_twisted.ensureDeferred
async def test_nobody_is_told_so_when_nothing_was_missed(make_nodes: MakeNodes) -> None:
    (one,) = await make_nodes(1)
    watcher = one.client()
    watcher.peer.watch(names=["a"])
    await watcher.peer.listening()
    await eventually(lambda: one.broker.keys.missed.known >= 0)  # type: ignore[union-attr]
    await drop_subscriptions(one)
    await eventually(lambda: one.bus._subscriber_connection.protocol is not None)
    await watcher.peer.set("a", b"1")
    await eventually(lambda: len(watcher.heard) == 1)
    assert watcher.hung_up is None


@pytest_twisted.ensureDeferred
async def test_changes_that_were_not_kept_are_not_left_out(
    make_nodes: MakeNodes, shared_redis_server: RedisServer
) -> None:
    (one,) = await make_nodes(1)
    kept = one.broker.store._prefix.decode() + "changed"  # type: ignore[attr-defined]
    peer, epoch = one.client().peer, one.broker.store.epoch
    await peer.set("k", b"before anybody watches")
    peer.watch_pattern("k")
    await peer.keep_changes()
    assert await peer.changes("k", epoch, 0) is None
    for number in range(3):
        await peer.set("k", b"%d" % number)
    await shared_redis_server.command("XTRIM", kept, "MAXLEN", "2")
    assert await peer.changes("k", epoch, 1) is None
    assert len(await peer.changes("k", epoch, 2) or []) == 2
    await shared_redis_server.command("DEL", kept)
    assert await peer.changes("k", epoch, 3) is None
    await peer.set("k", b"x" * (1 << 20))
    assert await peer.changes("k", epoch, 3) is None
    assert len(await peer.changes("k", epoch, 4) or []) == 1


@pytest_twisted.ensureDeferred
async def test_changes_of_a_durable_key_are_stored_and_heard_once_on_every_node(make_nodes: MakeNodes) -> None:
    nodes = await make_nodes(durable_topics=("kv/k",))
    clients = [node.client() for node in nodes]
    for client in clients:
        client.peer.watch(names=["k"])
        await client.peer.listening()
    await gatherResults([clients[number % 3].peer.increment("k", b"1") for number in range(30)])
    await eventually(lambda: all(len(client.heard) == 30 for client in clients))
    events = await clients[0].peer.read("kv/k", 0, 99)
    assert [json.loads(event.body or b"")["value"] for event in events] == [str(number) for number in range(1, 31)]
    for client in clients:
        assert [event.id for event, _ in client.heard] == list(range(1, 31))


@pytest_twisted.ensureDeferred
async def test_each_expired_key_is_announced_by_one_node(make_nodes: MakeNodes) -> None:
    nodes = await make_nodes()
    watcher = nodes[0].client()
    watcher.peer.watch(names=[f"k{number}" for number in range(500)])
    await watcher.peer.listening()
    await gatherResults([watcher.peer.set(f"k{number}", b"", expires=1.0) for number in range(500)])
    counts = await gatherResults([Deferred.fromCoroutine(node.broker.keys.expire()) for node in nodes])
    assert sum(counts) <= 500  # the timers of the nodes look, too
    await eventually(lambda: len(watcher.heard) == 1000)
    ended = [event.topic for event, _ in watcher.heard if event.name == "expired"]
    assert sorted(ended) == sorted(f"kv/k{number}" for number in range(500))


@pytest_twisted.ensureDeferred
async def test_increments_from_three_nodes_add_up(make_nodes: MakeNodes) -> None:
    nodes = await make_nodes()
    clients = [node.client() for node in nodes]
    amounts = [b"1", b"0.5", b"1", b"9007199254740993"]
    for amount in amounts:
        await gatherResults([clients[n % 3].peer.increment("n", amount) for n in range(100)])
    entry = await clients[0].peer.get("n")
    assert entry is not None
    assert entry.revision == 400
    assert entry.value == b"%d" % (100 + 50 + 100 + 100 * 9007199254740993)


@pytest_twisted.ensureDeferred
async def test_patches_from_three_nodes_are_all_kept(make_nodes: MakeNodes) -> None:
    nodes = await make_nodes()
    clients = [node.client() for node in nodes]
    await gatherResults([clients[n % 3].peer.patch("k", b'{"m%d":%d}' % (n, n)) for n in range(90)])
    entry = await clients[0].peer.get("k")
    assert entry is not None
    assert entry.revision == 90
    assert sorted(entry.value[1:-1].split(b",")) == sorted(b'"m%d":%d' % (n, n) for n in range(90))


@pytest_twisted.ensureDeferred
async def test_leaving_a_room_reaches_the_member_s_other_nodes(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, again = one.client(), two.client()
    await ann.peer.become("ann")
    await ann.peer.join("room")
    assert await again.peer.become("ann") == ["room"]
    await ann.peer.part("room")
    await eventually(lambda: again.peer.subscriptions == [])
    with pytest.raises(Denied):
        await again.peer.read("broker.control.left", 0, 10)


@pytest_twisted.ensureDeferred
async def test_nodes_notify_each_other_in_the_step_that_changes_the_store(
    make_nodes: MakeNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    changing, other = await make_nodes(2)
    ended: list[str] = []
    monkeypatch.setattr(changing.broker.channels, "post", lambda *_: fail(NotDone("redis")))
    monkeypatch.setattr(other.broker.tokens, "_end", ended.append)
    member = other.client()
    await member.peer.become("ann")
    await member.peer.join("room")
    leaving = changing.client()
    await leaving.peer.become("ann")
    await leaving.peer.part("room")
    await eventually(lambda: not member.peer.subscriptions)
    token = await changing.broker.tokens.mint({}, {}, 60.0)
    await changing.broker.tokens.revoke(token)
    await eventually(lambda: ended)


@pytest_twisted.ensureDeferred
async def test_presence_is_told_on_every_node(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    watcher = one.client()
    watcher.peer.subscribe("broker.client.*")
    await eventually(lambda: all(i.confirmed for i in one.bus._subscriber._subscriptions))
    bob = two.client("bob")
    bob.peer.close()
    await eventually(lambda: len(watcher.heard) >= 2)
    assert [event.topic for event, _ in watcher.heard] == ["broker.client.online", "broker.client.offline"]


# The nodes themselves.


@pytest_twisted.ensureDeferred
async def test_nobody_takes_the_name_of_a_session_of_another_node(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    ann, bob = one.client(), two.client()
    with pytest.raises(Denied):
        value_of(bob.peer.take_name(ann.peer.id))


@pytest_twisted.ensureDeferred
async def test_one_node_sweeps_for_all(make_nodes: MakeNodes) -> None:
    nodes = await make_nodes()
    swept: list[Node] = []

    async def sweep(*some: Node) -> None:
        for node in some:
            store: Any = node.broker.store
            store.sweep = lambda *_, node=node: swept.append(node) or maybeDeferred(int)
            await node.broker._sweep()

    await sweep(*nodes)
    (sweeper,) = set(swept)
    others = [node for node in nodes if node is not sweeper]
    await sweeper.stop()
    await eventually(lambda: not any(node.bus.lives(sweeper.bus.address) for node in others))
    swept.clear()
    await sweep(*others)
    assert len(set(swept)) == 1


@pytest_twisted.ensureDeferred
async def test_what_is_not_understood_is_let_pass(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    assert await one.bus.send(two.bus.address, b"\xc1 of a later version")
    ann, bob = one.client(), two.client()
    bob.answers = bob.echo
    await bob.peer.perform(["p"])
    ann.peer.call("1", call("p"))
    assert (await reply_to(ann)).error is None


@pytest_twisted.ensureDeferred
async def test_what_was_known_is_stored_again_after_a_wipe(make_nodes: MakeNodes) -> None:
    one, two, _ = await make_nodes()
    bob = one.client("bob")
    await bob.peer.become("member")
    await bob.peer.join("room")
    token = await bob.peer.mint({}, 60.0)
    await one.settle()
    protocol = one.broker.store._batcher.connection.protocol  # type: ignore[attr-defined]
    keys = await protocol.execute_command(b"KEYS", one.broker.store._prefix + b"*")  # type: ignore[attr-defined]
    await protocol.execute_command(b"DEL", *keys)
    await one.broker.store.append("log", Event("t", "kind", None))
    for _ in range(100):  # it is stored again some time after the wipe was noticed
        await one.store.head("")
        if await two.client().peer.become("member") == ["room"]:
            break
    else:
        raise AssertionError("the membership did not come back")
    assert await two.broker.parts.mailboxes.has("bob")
    with pytest.raises(BrokerError):
        await two.client().peer.present(token)
