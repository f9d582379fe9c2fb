"""Calls between two nodes of one process: what ends a call on one side ends it on the other."""

from __future__ import annotations

import gc
from typing import Any, cast

import attrs
import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from broker.cluster import links
from broker.cluster.calls import RemoteCalls
from broker.cluster.links import _decode as decode_frame
from broker.cluster.messages import Called, PlainCall, decode_all
from broker.cluster.messenger import NodeMessenger
from broker.errors import BrokerError, CalleeFailed, Denied, Gone, NotDone, NotFound, Unavailable
from broker.messages import Reply, Request
from broker.observe.metrics import CallTimes
from broker.versions import address_of
from tests.core.parties import FakeFlow

NEAR, FAR = address_of("near", "1"), address_of("far", "1")


class Wire:
    """Brings the frames of nodes to each other in order, as long as it is whole.

    Attributes:
        fates: what becomes of the next frames: whether each arrives, and what its sender is told; None: nobody knows.
        fate: what becomes of all others.
        sent: the messages that were sent.
    """

    def __init__(self):
        self.nodes = {}
        self.sent = []
        self.fates = []
        self.fate = (True, True)

    def send(self, sender, address, data):
        frame = decode_frame(data)
        node = self.nodes.get(address)
        if node is None or node.bus.lease == 0:
            return succeed(False)
        self.sent += decode_all(frame.messages)
        arrives, told = self.fates.pop(0) if self.fates else self.fate
        if arrives:
            node.bus.received(sender, data)
        return fail(Unavailable("redis")) if told is None else succeed(told)

    def settle(self):
        """Let the nodes do what they do at once."""
        for _ in range(20):
            for node in self.nodes.values():
                node.clock.advance(0)

    def pass_time(self, seconds):
        for _ in range(round(seconds * 20)):
            for node in self.nodes.values():
                node.clock.advance(0.05)
            self.settle()

    def end_lease(self, node, number=0):
        """End the lease of *node*, which notices it when it gets the next one."""
        node.bus.lease = 0
        for other in self.nodes.values():
            if other is not node:
                other.bus.departed(node.bus.address)
        if number:
            node.bus.lapsed()
            node.bus.lease = number


LOST, REFUSED, LOST_UNKNOWN, ARRIVED_UNKNOWN = (False, True), (False, False), (False, None), (True, None)


class Bus:
    """What ``NodeMessenger`` needs of a shared bus.

    Attributes:
        unknown: addresses of nodes of which this one has not been told yet.
    """

    def __init__(self, wire, address):
        self.wire, self.address = wire, address
        self.lease = 1 + len(wire.nodes)
        self.slow = []  # the answers of ``holders`` that wait
        self.hangs = False
        self.unknown = set()

    @property
    def nodes(self):
        return [address for address, node in self.wire.nodes.items() if node.bus.lease and address not in self.unknown]

    def send(self, address, message):
        return self.wire.send(self.address, address, message)

    def lease_of(self, address):
        node = self.wire.nodes.get(address)
        return node.bus.lease if node is not None and address not in self.unknown else 0

    def holders(self, names):
        if self.hangs:
            waiting = Deferred()
            self.slow.append((waiting, names))
            return waiting
        if not self.lease:
            return fail(NotDone("lease"))
        for name in names:
            found = [address for address, node in self.wire.nodes.items() if name in node.names() and node.bus.lease]
            if found:
                return succeed((name, found))
        return succeed(("", []))


class Node:
    def __init__(self, wire, address):
        self.clock, self.bus, self.parties, self.wire = Clock(), Bus(wire, address), {}, wire
        self.calls = RemoteCalls(self.clock)
        self.messenger = NodeMessenger(cast(Any, self.bus), self.clock)
        self.calls.use(self.messenger, lambda name: self.parties.get(name, []), lambda name: name in self.names())
        wire.nodes[address] = self

    def names(self):
        kinds = {"procedure:": self.calls.performers, "service:": self.calls.services, "taker:": self.calls.takers}
        held = [kind + name for kind, registry in kinds.items() for name in registry.names()]
        return held + [f"client:{name}" for name in self.parties]

    def call(self, caller, procedure="slow", *, timeout=0.0, quiet=False, streamed=False, ref="ref"):
        request = Request("", procedure, "", "", b"[]", timeout=timeout, streamed=streamed)
        callee = self.calls.find_taker(procedure) if streamed else self.calls.find(procedure)[0]
        self.calls.open(caller, callee, ref, request, quiet=quiet)
        self.wire.settle()

    def answer(self, callee, body=b"1", error=None, index=-1):
        awaited = self.calls.answer(callee, callee.requests[index].id, body, error)
        self.wire.settle()
        return awaited

    def leave(self, party):
        self.calls.leave(party)
        self.wire.settle()

    @property
    def left(self):
        return (self.calls.pending, len(self.calls._out), len(self.calls._in), len(self.calls._deadlines))


@attrs.define(eq=False)
class Party:
    id: str
    refusal: BrokerError | None = None
    calling: dict = attrs.field(factory=dict)
    serving: dict = attrs.field(factory=dict)
    held: int = 0
    flow: FakeFlow = attrs.field(factory=FakeFlow)
    requests: list = attrs.field(factory=list)
    cancelled: list = attrs.field(factory=list)
    replies: list = attrs.field(factory=list)

    @property
    def client(self):
        return self.id

    def hold(self, change):
        self.held += change

    def on_request(self, request):
        if self.refusal is not None:
            raise self.refusal
        self.requests.append(request)

    def on_cancel(self, id):
        self.cancelled.append(id)

    def on_reply(self, reply):
        self.replies.append(reply)


NOTHING = (0, 0, 0, 0)


@attrs.define
class Pair:
    wire: Wire
    near: Node
    far: Node
    caller: Party
    callee: Party

    def answer(self, body=b"1", error=None):
        return self.far.answer(self.callee, body, error)

    @property
    def errors(self):
        return [reply.error and reply.error.code for reply in self.caller.replies]

    @property
    def nothing_left(self):
        nodes = self.wire.nodes.values()
        return {node.left for node in nodes} == {NOTHING} and not (self.caller.calling or self.callee.serving)


@pytest.fixture
def pair():
    wire = Wire()
    pair = Pair(wire, Node(wire, NEAR), Node(wire, FAR), Party("ann"), Party("bob"))
    pair.far.calls.performers.add(pair.callee, "slow")
    pair.far.calls.takers.add(pair.callee, "slow", shared=True)
    yield pair
    wire.fate, wire.fates = (True, True), []
    for node in wire.nodes.values():
        if not node.bus.lease:
            wire.end_lease(node, 99)
    wire.pass_time(3.0)
    for node in wire.nodes.values():
        node.calls.stop()
        assert node.messenger._links.kept == 0
        assert node.clock.getDelayedCalls() == []


def test_a_call_is_under_way_on_both_nodes(pair):
    pair.near.call(pair.caller)
    assert len(pair.callee.requests) == len(pair.callee.serving) == len(pair.caller.calling) == 1
    assert not pair.nothing_left


def test_an_answer_ends_it_on_both(pair):
    pair.near.call(pair.caller)
    assert pair.answer(b"[2]")
    assert [(reply.ref, reply.body, reply.source) for reply in pair.caller.replies] == [("ref", b"[2]", "bob")]
    assert pair.nothing_left


def test_it_leaves_nothing_for_the_garbage_collector(pair):
    pair.near.call(pair.caller)  # the first is looked for
    pair.answer()
    gc.collect()
    gc.disable()
    try:
        for _ in range(10):
            pair.near.call(pair.caller)
            pair.answer()
        pair.callee.requests.clear()
        found = gc.collect()
    finally:
        gc.enable()
    assert found < 10


def test_a_call_has_one_id_and_one_deadline(pair):
    for _ in range(2):  # the first is looked for
        pair.near.call(pair.caller, timeout=30.0)
        (id,) = pair.caller.calling
        assert pair.callee.requests[-1].id == id
        assert (len(pair.near.calls._deadlines), len(pair.far.calls._deadlines)) == (1, 0)
        pair.answer()
    assert pair.nothing_left


def test_a_call_goes_in_short_when_its_callee_is_known_and_arrives_as_the_one_before(pair):
    for body in (b"[1]", b"[2]"):
        request = Request("", "slow", "", "", body, caller="ann", timeout=30.0, time=5.0, dialect="owlmeans")
        pair.near.calls.open(pair.caller, pair.near.calls.find("slow")[0], "ref", request)
        pair.wire.settle()
        pair.answer(body)
    first, second = pair.callee.requests
    fields = {name for name in Request.__struct_fields__ if getattr(first, name) != getattr(second, name)}
    assert fields == {"id", "body"}
    assert [type(message) for message in pair.wire.sent if not isinstance(message, Reply)] == [Called, PlainCall]
    assert [reply.body for reply in pair.caller.replies] == [b"[1]", b"[2]"]


@pytest.mark.parametrize("start", ["1", "1.1"])
def test_a_node_of_the_first_version_gets_no_call_in_short(start):
    wire = Wire()
    near, far = Node(wire, NEAR), Node(wire, f"far/{start}")
    ann, bob = Party("ann"), Party("bob")
    far.calls.performers.add(bob, "slow")
    for _ in range(2):
        near.call(ann)
        assert far.answer(bob)
    assert [type(message) for message in wire.sent if not isinstance(message, Reply)] == [Called, Called]
    for node in (near, far):
        node.calls.stop()


@pytest.mark.parametrize("caller", ["\N{SNOWMAN}", "a"])
@pytest.mark.parametrize("more", [{}, {"original": b"{}"}, {"attachments": (b"\x00",)}])
def test_what_a_call_has_besides_arrives(pair, caller, more):
    pair.callee.id = caller  # who answers is called so, too
    for _ in range(2):
        request = Request("", "slow", "", "", b"[]", caller=caller, dialect="d", **more)
        pair.near.calls.open(pair.caller, pair.near.calls.find("slow")[0], "ref", request)
        pair.wire.settle()
        pair.answer(b"[2]")
    for request in pair.callee.requests:
        found = request.caller, request.original, request.attachments
        assert found == (caller, more.get("original", b""), more.get("attachments", ()))
    assert [(reply.body, reply.source) for reply in pair.caller.replies] == [(b"[2]", caller)] * 2


def test_a_call_that_is_cancelled_is_told_to_the_callee(pair):
    for _ in range(2):
        pair.near.call(pair.caller)
        pair.near.calls.cancel(pair.caller, "ref")
        pair.wire.settle()
    assert pair.callee.cancelled == [request.id for request in pair.callee.requests]
    assert pair.errors == ["CANCELLED"] * 2
    assert pair.nothing_left


def test_a_procedure_that_is_not_here_any_more_is_not_found(pair):
    pair.near.call(pair.caller)
    pair.answer()
    pair.far.calls.performers.remove(pair.callee, "slow")
    pair.near.call(pair.caller)
    assert pair.errors == [None, "NOT_FOUND"]
    assert pair.nothing_left


def test_an_error_ends_it_on_both(pair):
    pair.near.call(pair.caller)
    pair.answer(b"null", CalleeFailed("X", "no"))
    assert pair.caller.replies[0].error.code == "X"
    assert pair.nothing_left


def test_a_caller_that_leaves_ends_it_for_the_callee(pair):
    pair.near.call(pair.caller)
    pair.near.leave(pair.caller)
    assert pair.nothing_left
    assert not pair.answer()


def test_a_callee_that_leaves_ends_it_for_the_caller(pair):
    pair.near.call(pair.caller)
    pair.far.leave(pair.callee)
    (reply,) = pair.caller.replies
    assert isinstance(reply.error, Gone)
    assert pair.nothing_left


def test_a_call_is_counted_by_how_it_ends_on_the_node_of_the_caller(pair):
    near, times = pair.near, CallTimes(pair.near.clock.seconds, lambda: 1)

    def call(timeout=0.0):
        request = Request("", "slow", "", "", b"[]", timeout=timeout)
        near.calls.open(pair.caller, near.calls.find("slow")[0], "ref", request, times=times)
        pair.wire.settle()

    call()
    pair.answer(b"[2]")
    call()
    pair.answer(b"null", CalleeFailed("X", "no"))
    call(timeout=1.0)
    near.clock.pump([0.1] * 12)
    call()
    near.leave(pair.caller)
    call()
    pair.far.leave(pair.callee)
    counted = {result: sum(each.counts) for result, each in times.histograms.items()}
    assert counted == {"ok": 1, "error": 1, "timeout": 1, "lost": 1, "cancelled": 0, "abandoned": 1}


@pytest.mark.parametrize("quiet", [False, True])
def test_the_caller_s_deadline_ends_it_for_the_callee(pair, quiet):
    pair.near.call(pair.caller, timeout=1.0, quiet=quiet)
    pair.near.clock.pump([0.1] * 12)  # the clock of the other node stands still
    pair.wire.settle()
    assert [reply.error.code for reply in pair.caller.replies] == ([] if quiet else ["TIMEOUT"])
    assert pair.nothing_left


def test_an_idle_stream_ends_for_the_callee(pair):
    pair.near.call(pair.caller, streamed=True)
    pair.answer()
    assert len(pair.caller.replies) == 1
    pair.near.clock.pump([0.1] * 610)
    pair.wire.settle()
    assert pair.nothing_left


def test_a_call_that_was_refused_is_over(pair):
    pair.callee.refusal = NotFound("method", "slow")
    pair.near.call(pair.caller)
    assert isinstance(pair.caller.replies[0].error, NotFound)
    assert pair.nothing_left


@pytest.mark.parametrize(("node", "gone"), [("near", "far"), ("far", "near")])
def test_a_node_that_departs_ends_it_on_the_other(pair, node, gone):
    pair.near.call(pair.caller)
    pair.wire.end_lease(getattr(pair, gone))
    assert getattr(pair, node).left == NOTHING


def test_a_call_that_is_over_is_told_to_the_callee_s_node_once(pair):
    pair.near.call(pair.caller)
    pair.wire.sent.clear()
    pair.near.leave(pair.caller)
    assert len(pair.wire.sent) == 1


def test_an_answered_call_is_not_told_of_again(pair):
    pair.near.call(pair.caller)
    pair.wire.sent.clear()
    pair.answer()
    assert len(pair.wire.sent) == 1  # the answer itself


def test_the_shortest_timeout_is_a_limit(pair):
    pair.near.call(pair.caller, timeout=0.0004)
    pair.near.clock.advance(0.1)
    pair.wire.settle()
    assert pair.caller.replies[0].error.code == "TIMEOUT"
    assert pair.nothing_left


# Each message arrives once, or the call ends.


@pytest.mark.parametrize("fate", [LOST, REFUSED, LOST_UNKNOWN, ARRIVED_UNKNOWN])
@pytest.mark.parametrize("which", [0, 1])  # the request, the answer
def test_a_call_is_executed_once_and_answered_once_whatever_the_bus_says(pair, fate, which):
    pair.wire.fates = [(True, True)] * which + [fate]
    pair.near.call(pair.caller)
    pair.wire.pass_time(3.0)
    assert len(pair.callee.requests) == 1
    assert pair.answer(b"[2]")
    pair.wire.pass_time(3.0)
    assert [reply.body for reply in pair.caller.replies] == [b"[2]"]
    assert pair.nothing_left


@pytest.mark.parametrize("fate", [LOST, REFUSED, LOST_UNKNOWN, ARRIVED_UNKNOWN])
def test_an_end_that_was_lost_is_told_again(pair, fate):
    pair.near.call(pair.caller)
    pair.wire.fates = [fate]
    pair.near.leave(pair.caller)
    pair.wire.pass_time(3.0)
    assert pair.nothing_left


@pytest.mark.parametrize("fate", [LOST, REFUSED, LOST_UNKNOWN, ARRIVED_UNKNOWN])
def test_a_refusal_that_was_lost_is_told_again(pair, fate):
    pair.callee.refusal = Denied("call", "slow")
    pair.wire.fates = [(True, True), fate]
    pair.near.call(pair.caller)
    pair.wire.pass_time(3.0)
    assert pair.errors == ["DENIED"]
    assert pair.nothing_left


def test_a_stream_has_no_hole(pair):
    pair.near.call(pair.caller, streamed=True)
    for number, fate in enumerate([LOST, ARRIVED_UNKNOWN, REFUSED, LOST_UNKNOWN, LOST]):
        pair.wire.fates = [fate]
        pair.answer(b"%d" % number)
        pair.wire.pass_time(0.1)
    pair.wire.pass_time(5.0)
    assert [reply.body for reply in pair.caller.replies] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_lost_connection_of_this_node_ends_nothing(pair):
    pair.near.call(pair.caller)
    pair.wire.fates = [LOST]
    pair.answer()
    pair.near.bus.departed(NEAR)  # it has connected again
    pair.wire.settle()
    assert pair.errors == [None]
    assert pair.nothing_left


def test_a_stream_whose_node_has_gone_ends_with_an_error_though_it_had_answers(pair):
    pair.near.call(pair.caller, streamed=True)
    pair.answer()
    pair.wire.end_lease(pair.far)
    assert pair.errors == [None, "GONE"]
    assert pair.near.left == NOTHING


def test_an_idle_stream_of_a_node_that_has_gone_ends_for_the_callee(pair):
    pair.near.call(pair.caller, streamed=True)
    pair.answer()
    pair.wire.end_lease(pair.near)
    assert pair.far.left == NOTHING
    assert not pair.answer()


def test_a_callee_that_leaves_a_stream_ends_it_for_the_caller_s_node(pair):
    pair.near.call(pair.caller, streamed=True)
    pair.answer()
    pair.far.leave(pair.callee)
    assert pair.errors == [None]
    assert pair.nothing_left


def test_a_stream_that_the_link_can_not_keep_ends_with_an_error(pair, monkeypatch):
    pair.near.call(pair.caller, streamed=True)
    monkeypatch.setattr(links, "MAX_MESSAGES", 2)
    pair.wire.fate = REFUSED
    awaited = [pair.answer(b"%d" % number) for number in range(5)]
    assert awaited == [True, True, True, False, False]
    pair.wire.fate = (True, True)
    pair.wire.pass_time(1.0)
    assert [reply.body for reply in pair.caller.replies] == [b"0", b"1", b"null"]
    assert pair.errors == [None, None, "UNAVAILABLE"]
    assert pair.nothing_left


def test_a_call_that_the_link_can_not_keep_is_refused(pair, monkeypatch):
    pair.near.call(pair.caller)
    monkeypatch.setattr(links, "MAX_MESSAGES", 0)
    pair.near.call(pair.caller, ref="more")
    assert pair.errors == ["UNAVAILABLE"]


def test_a_refused_call_leaves_nothing_at_the_callee_s_node(pair):
    pair.far.calls._total_limit = 0
    pair.near.call(pair.caller)
    assert pair.errors == ["RATE_LIMITED"]
    assert pair.nothing_left


# Looking for the callee.


def test_a_call_that_times_out_while_its_callee_is_looked_for_has_one_end(pair):
    pair.near.bus.hangs = True
    pair.near.call(pair.caller, timeout=1.0)
    pair.wire.pass_time(1.1)
    for waiting, _ in pair.near.bus.slow:
        waiting.errback(Unavailable("redis"))
    assert pair.errors == ["TIMEOUT"]
    assert pair.nothing_left


def test_a_callee_that_is_found_too_late_is_not_called(pair):
    pair.near.bus.hangs = True
    pair.near.call(pair.caller, timeout=1.0)
    pair.wire.pass_time(1.1)
    for waiting, _ in pair.near.bus.slow:
        waiting.callback(("procedure:slow", [FAR]))
    pair.wire.settle()
    assert (pair.errors, pair.callee.requests) == (["TIMEOUT"], [])


def test_what_is_looked_for_ends_with_this_node_s_lease(pair):
    pair.near.bus.hangs = True
    pair.near.call(pair.caller)
    pair.wire.end_lease(pair.near, 9)
    assert pair.errors == ["UNAVAILABLE"]
    pair.near.bus.slow[0][0].callback(("procedure:slow", [FAR]))
    pair.wire.settle()
    assert (len(pair.errors), pair.callee.requests) == (1, [])


@pytest.mark.parametrize("known", [False, True])
def test_calls_to_elsewhere_are_unavailable_while_this_node_has_no_lease(pair, known):
    if known:
        pair.near.call(pair.caller)
        pair.answer()
        pair.caller.replies.clear()
    pair.near.bus.lease = 0
    pair.near.call(pair.caller)
    assert pair.errors == ["UNAVAILABLE"]
    assert pair.near.left == NOTHING


@pytest.mark.parametrize("fate", [LOST, LOST_UNKNOWN, ARRIVED_UNKNOWN])
def test_a_request_that_may_have_arrived_is_sent_nowhere_else(pair, fate):
    third = Node(pair.wire, "third")
    other = Party("eve")
    pair.near.call(pair.caller)
    pair.answer()
    pair.wire.fate = fate
    pair.near.call(pair.caller)
    third.calls.performers.add(other, "slow")
    pair.far.calls.performers.remove(pair.callee, "slow")
    pair.wire.end_lease(pair.far)
    pair.wire.fate = (True, True)
    pair.wire.pass_time(1.0)
    assert pair.errors == [None, "GONE"]
    assert other.requests == []


def test_a_request_that_has_surely_not_arrived_is_sent_to_the_node_that_has_the_name_now(pair):
    third = Node(pair.wire, "third")
    other = Party("eve")
    pair.near.call(pair.caller)
    pair.answer()
    pair.wire.fate = REFUSED
    pair.near.call(pair.caller)
    third.calls.performers.add(other, "slow")
    pair.wire.end_lease(pair.far)
    pair.wire.fate = (True, True)
    pair.wire.pass_time(1.0)
    assert third.answer(other)
    assert pair.errors == [None, None]
    assert len(pair.callee.requests) == 1


def test_of_nodes_that_share_a_name_one_that_listens_is_used(pair):
    third = Node(pair.wire, "third")
    parties = [Party("one"), Party("two")]
    for node, party in zip((pair.far, third), parties, strict=True):
        node.calls.performers.add(party, "work", shared=True)
    pair.near.call(pair.caller, "work")  # the first is looked for
    first = [len(party.requests) for party in parties]
    for number in range(4):
        pair.wire.fates = [REFUSED]
        pair.near.call(pair.caller, "work", ref=str(number))
        pair.wire.pass_time(0.5)
    assert [len(party.requests) - before for party, before in zip(parties, first, strict=True)] == [2, 2]


def test_a_caller_that_leaves_while_its_callee_is_looked_for_is_served_once(pair):
    pair.near.bus.hangs = True
    pair.near.call(pair.caller)
    pair.near.leave(pair.caller)
    pair.wire.fates = [ARRIVED_UNKNOWN, ARRIVED_UNKNOWN]
    pair.near.bus.slow[0][0].callback(("procedure:slow", [FAR]))
    pair.wire.pass_time(3.0)
    assert len(pair.callee.requests) == 1
    assert pair.nothing_left


# Leases.


def test_a_route_is_forgotten_with_the_lease_of_its_node(pair):
    pair.near.call(pair.caller)
    assert pair.near.calls._known
    pair.wire.end_lease(pair.far)
    assert not pair.near.calls._known
    pair.wire.sent.clear()
    pair.near.call(pair.caller, ref="next")
    assert pair.errors == ["GONE", "NOT_FOUND"]
    assert pair.wire.sent == []


def test_a_route_is_not_used_under_the_next_lease_of_its_node(pair):
    third = Node(pair.wire, "third")
    other = Party("eve")
    pair.near.call(pair.caller)
    pair.answer()
    pair.far.bus.lease = 9  # nobody has noticed yet
    pair.far.calls.performers.remove(pair.callee, "slow")
    third.calls.performers.add(other, "slow")
    pair.near.call(pair.caller)
    assert (len(pair.callee.requests), len(other.requests)) == (1, 1)


@pytest.mark.parametrize("which", ["near", "far"])
def test_the_end_of_a_lease_ends_every_call_once_on_both_nodes(pair, which):
    pair.near.call(pair.caller, timeout=30.0)
    pair.wire.end_lease(getattr(pair, which), 9)
    pair.wire.pass_time(3.0)
    assert pair.errors == ["GONE"]
    assert pair.nothing_left
    assert not pair.answer()


def test_calls_go_on_under_the_next_lease(pair):
    pair.near.call(pair.caller)
    pair.wire.end_lease(pair.far, 9)
    pair.near.call(pair.caller)
    assert pair.answer()
    assert pair.errors == ["GONE", None]


def test_a_node_that_was_frozen_does_not_execute_what_was_told_to_have_ended(pair):
    pair.near.call(pair.caller)
    pair.answer()
    late = []
    pair.wire.nodes[FAR].bus.received, take = lambda *frame: late.append(frame), pair.far.bus.received
    pair.near.call(pair.caller)
    pair.wire.end_lease(pair.far, 9)
    pair.far.bus.received = take
    for frame in late:
        take(*frame)
    pair.wire.pass_time(3.0)
    assert pair.errors == [None, "GONE"]
    assert len(pair.callee.requests) == 1


def test_a_call_to_this_node_itself_takes_no_way_over_the_bus(pair):
    pair.near.calls.services.add(Party("shop"), "shop")
    pair.near.call(pair.caller, "shop.buy")
    assert pair.wire.sent == []
    assert pair.near.calls.pending == 2


@pytest.fixture
def trio(pair):
    """Return a pair whose caller knows one performer, and another one on a third node."""
    third, other = Node(pair.wire, "third"), Party("carol")
    pair.far.calls.performers.add(pair.callee, "work", shared=True)
    pair.near.call(pair.caller, "work")
    third.calls.performers.add(other, "work", shared=True)
    return pair, third, other


def call_and_answer(pair, *callees):
    pair.near.call(pair.caller, "work")
    for node, callee in callees:
        for request in list(callee.serving):
            node.calls.answer(callee, request, b"1", None)
    pair.wire.settle()


def test_one_who_shares_a_name_later_is_found_by_those_who_know_another(trio):
    pair, third, other = trio
    callees = (pair.far, pair.callee), (third, other)
    for _ in range(3):
        call_and_answer(pair, *callees)
    assert (len(pair.callee.requests), len(other.requests)) == (4, 0)
    pair.near.calls.review_routes()
    for _ in range(5):
        call_and_answer(pair, *callees)
    assert (len(pair.callee.requests), len(other.requests)) == (7, 2)


def test_what_is_known_is_looked_for_once_in_a_while_only(trio, monkeypatch):
    pair, third, other = trio
    asked, holders = [], pair.near.bus.holders
    monkeypatch.setattr(pair.near.bus, "holders", lambda names: asked.append(names) or holders(names))
    third.calls.leave(other)
    for _ in range(2):
        pair.near.calls.review_routes()
        for _ in range(3):
            call_and_answer(pair, (pair.far, pair.callee))
    assert len(asked) == 2


def test_a_callee_that_can_not_be_looked_for_again_is_called_where_it_was(trio):
    pair, _, _ = trio
    pair.near.calls.review_routes()
    pair.near.bus.hangs = True
    call_and_answer(pair, (pair.far, pair.callee))
    (search, _), *_ = pair.near.bus.slow
    search.errback(Unavailable("redis"))
    call_and_answer(pair, (pair.far, pair.callee))
    assert len(pair.callee.requests) == 3


def test_several_calls_at_once_by_what_is_not_so_any_more_find_who_performs_it_now(trio):
    pair, _, other = trio
    pair.far.calls.performers.remove(pair.callee, "work")
    for ref in "abc":
        callee, _ = pair.near.calls.find("work")
        pair.near.calls.open(pair.caller, callee, ref, Request("", "work", "", "", b"[]"))
    pair.wire.settle()
    assert len(other.requests) == 3
    assert pair.errors == []


def test_a_call_by_what_is_found_to_be_otherwise_meanwhile_goes_where_it_is_performed(trio):
    pair, _, other = trio
    pair.far.calls.performers.remove(pair.callee, "work")
    pair.near.calls.review_routes()
    pair.near.call(pair.caller, "work")
    assert len(other.requests) == 1
    assert pair.errors == []
