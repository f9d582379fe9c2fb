"""Calls between two nodes of one process: what ends a call on one side ends it on the other."""

from __future__ import annotations

from typing import Any, cast

import attrs
import pytest
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from broker.cluster.calls import RemoteCalls
from broker.cluster.messenger import NodeMessenger
from broker.errors import BrokerError, CalleeFailed, Gone, NotFound
from broker.messages import Request


class Wire:
    """Brings the messages of nodes to each other at once, in order."""

    def __init__(self):
        self.nodes = {}
        self.sent = []

    def send(self, sender, address, message):
        node = self.nodes.get(address)
        if node is None:
            return succeed(False)
        self.sent.append(message)
        node.bus.received(sender, message)
        return succeed(True)


class Bus:
    """What ``NodeMessenger`` needs of a shared bus."""

    def __init__(self, wire, address):
        self.wire, self.address = wire, address
        self.held = {}

    def send(self, address, message):
        return self.wire.send(self.address, address, message)

    def holders(self, names):
        for name in names:
            found = [address for address, node in self.wire.nodes.items() if name in node.names()]
            if found:
                return succeed((name, found))
        return succeed(("", []))


class Node:
    def __init__(self, wire, address):
        self.clock, self.bus, self.parties = Clock(), Bus(wire, address), {}
        self.calls = RemoteCalls(self.clock)
        messenger = NodeMessenger(cast(Any, self.bus), self.clock)
        self.calls.use(messenger, lambda name: self.parties.get(name, []), lambda name: name in self.names())
        wire.nodes[address] = self

    def names(self):
        kinds = {"procedure:": self.calls.performers, "service:": self.calls.services, "taker:": self.calls.takers}
        held = [kind + name for kind, registry in kinds.items() for name in registry.names()]
        return held + [f"client:{name}" for name in self.parties]

    def call(self, caller, procedure="slow", *, timeout=0.0, quiet=False, streamed=False):
        request = Request("", procedure, "", "", b"[]", timeout=timeout, streamed=streamed)
        callee = self.calls.find_taker(procedure) if streamed else self.calls.find(procedure)[0]
        self.calls.open(caller, callee, "ref", request, quiet=quiet)

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
    requests: list = attrs.field(factory=list)
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

    def on_reply(self, reply):
        self.replies.append(reply)


@attrs.define
class Pair:
    near: Node
    far: Node
    caller: Party
    callee: Party

    def answer(self, body=b"1", error=None):
        return self.far.calls.answer(self.callee, self.callee.requests[-1].id, body, error)

    @property
    def nothing_left(self):
        left = (0, 0, 0, 0)
        return (self.near.left, self.far.left) == (left, left) and not (self.caller.calling or self.callee.serving)


@pytest.fixture
def pair():
    wire = Wire()
    pair = Pair(Node(wire, "near"), Node(wire, "far"), Party("ann"), Party("bob"))
    pair.far.calls.performers.add(pair.callee, "slow")
    pair.far.calls.takers.add(pair.callee, "slow", shared=True)
    yield pair
    pair.near.calls.stop()
    pair.far.calls.stop()


def test_a_call_is_under_way_on_both_nodes(pair):
    pair.near.call(pair.caller)
    assert len(pair.callee.requests) == len(pair.callee.serving) == len(pair.caller.calling) == 1
    assert not pair.nothing_left


def test_an_answer_ends_it_on_both(pair):
    pair.near.call(pair.caller)
    assert pair.answer(b"[2]")
    assert [(reply.ref, reply.body, reply.source) for reply in pair.caller.replies] == [("ref", b"[2]", "bob")]
    assert pair.nothing_left


def test_an_error_ends_it_on_both(pair):
    pair.near.call(pair.caller)
    pair.answer(b"null", CalleeFailed("X", "no"))
    assert pair.caller.replies[0].error.code == "X"
    assert pair.nothing_left


def test_a_caller_that_leaves_ends_it_for_the_callee(pair):
    pair.near.call(pair.caller)
    pair.near.calls.leave(pair.caller)
    assert pair.nothing_left
    assert not pair.answer()


def test_a_callee_that_leaves_ends_it_for_the_caller(pair):
    pair.near.call(pair.caller)
    pair.far.calls.leave(pair.callee)
    (reply,) = pair.caller.replies
    assert isinstance(reply.error, Gone)
    assert pair.nothing_left


@pytest.mark.parametrize("quiet", [False, True])
def test_the_caller_s_deadline_ends_it_for_the_callee(pair, quiet):
    pair.near.call(pair.caller, timeout=1.0, quiet=quiet)
    pair.near.clock.pump([0.1] * 12)  # the clock of the other node stands still
    assert [reply.error.code for reply in pair.caller.replies] == ([] if quiet else ["TIMEOUT"])
    assert pair.nothing_left


def test_an_idle_stream_ends_for_the_callee(pair):
    pair.near.call(pair.caller, streamed=True)
    pair.answer()
    assert len(pair.caller.replies) == 1
    pair.near.clock.pump([0.1] * 610)
    assert pair.nothing_left


def test_a_call_that_was_refused_is_over(pair):
    pair.callee.refusal = NotFound("method", "slow")
    pair.near.call(pair.caller)
    assert isinstance(pair.caller.replies[0].error, NotFound)
    assert pair.nothing_left


@pytest.mark.parametrize(("node", "gone"), [("near", "far"), ("far", "near")])
def test_a_node_that_departs_ends_it_on_the_other(pair, node, gone):
    pair.near.call(pair.caller)
    getattr(pair, node).bus.departed(gone)
    assert getattr(pair, node).left == (0, 0, 0, 0)


def test_a_call_that_is_over_is_told_to_the_callee_s_node_once(pair):
    pair.near.call(pair.caller)
    wire = pair.near.bus.wire
    wire.sent.clear()
    pair.near.calls.leave(pair.caller)
    assert len(wire.sent) == 1


def test_an_answered_call_is_not_told_of_again(pair):
    pair.near.call(pair.caller)
    wire = pair.near.bus.wire
    wire.sent.clear()
    pair.answer()
    assert len(wire.sent) == 1  # the answer itself


def test_the_shortest_timeout_is_a_limit(pair):
    pair.near.call(pair.caller, timeout=0.0004)
    pair.near.clock.advance(0.1)
    assert pair.caller.replies[0].error.code == "TIMEOUT"
    assert pair.nothing_left
