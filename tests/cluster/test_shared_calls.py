"""Calls over several nodes: to the least busy performer or to busy ones, cancelled ones, streams that nobody reads."""

from __future__ import annotations

import pytest

from broker.cluster.loads import TIMEOUT, distribute
from broker.cluster.messages import Called, LoadAsked, PlainCall
from broker.core.call_limits import Terms
from broker.errors import Busy, Unavailable
from broker.messages import Request
from tests.cluster.test_remote_calls import LOST, Node, Party, Wire

LEAST_BUSY = Terms(least_busy=True)


@pytest.fixture
def wire():
    wire = Wire()
    for name in ("near", "far", "other"):
        Node(wire, name)
    yield wire
    wire.fates, wire.fate = [], (True, True)
    wire.pass_time(3.0)
    for node in wire.nodes.values():
        node.calls.stop()
        assert node.messenger._links.kept == 0
        assert node.clock.getDelayedCalls() == []


@pytest.fixture
def near(wire):
    return wire.nodes["near"]


@pytest.fixture
def ann():
    return Party("ann")


def join(wire, where, terms=LEAST_BUSY, name="slow"):
    party = Party(f"at {where}")
    wire.nodes[where].calls.performers.add(party, name, shared=True, terms=terms)
    return party


def request():
    return Request("", "slow", "", "", b"[]")


def loads(*parties):
    return [len(party.serving) for party in parties]


# The least busy one


def test_calls_are_spread_over_the_nodes(wire, near, ann):
    parties = join(wire, "far"), join(wire, "other")
    for _ in range(6):
        near.call(ann)
    assert loads(*parties) == [3, 3]


def test_what_callers_of_other_nodes_have_open_counts(wire, near, ann):
    far, other = join(wire, "far"), join(wire, "other")
    for _ in range(4):
        wire.nodes["far"].calls.open(ann, far, "ref", request())
    for _ in range(3):
        near.call(ann)
    assert loads(far, other) == [4, 3]


def test_calls_at_once_are_spread_as_those_one_by_one(wire, near, ann):
    parties = [join(wire, where) for where in ("far", "far", "other")]
    for _ in range(6):
        near.calls.open(ann, near.calls.find("slow")[0], "ref", request())
    wire.settle()
    assert loads(*parties) == [2, 2, 2]


def test_a_busy_performer_here_is_not_preferred(wire, near, ann):
    here, far = join(wire, "near"), join(wire, "far")
    for _ in range(4):
        near.call(ann)
    assert loads(here, far) == [2, 2]


def test_an_idle_performer_here_is_called_without_a_question(wire, near, ann):
    here = join(wire, "near")
    join(wire, "far")
    near.call(ann)
    assert (loads(here), wire.sent) == ([1], [])


def test_a_performer_that_comes_later_is_found(wire, near, ann):
    far = join(wire, "far")
    near.call(ann)
    near.call(ann)
    other = join(wire, "other")
    near.call(ann)
    near.call(ann)
    assert loads(far, other) == [2, 2]


def test_a_node_that_does_not_answer_is_the_last(wire, near, ann):
    far, other = join(wire, "far"), join(wire, "other")
    wire.nodes["far"].messenger.on(LoadAsked, lambda address, message: None)
    for _ in range(2):
        near.call(ann)
    assert loads(far, other) == [0, 0]
    wire.pass_time(TIMEOUT + 0.1)
    assert loads(far, other) == [0, 2]


def test_a_node_that_departs_is_not_waited_for(wire, near, ann):
    far, other = join(wire, "far"), join(wire, "other")
    wire.nodes["far"].messenger.on(LoadAsked, lambda address, message: None)
    near.call(ann)
    wire.end_lease(wire.nodes["far"], 9)
    wire.settle()
    assert loads(far, other) == [0, 1]


def test_questions_that_are_lost_are_asked_again(wire, near, ann):
    parties = join(wire, "far"), join(wire, "other")
    wire.fates = [LOST]
    near.call(ann)
    wire.pass_time(3.0)
    assert sum(loads(*parties)) == 1


def test_round_robin_is_asked_for_once(wire, near, ann):
    parties = [join(wire, where, Terms()) for where in ("far", "other")]
    for _ in range(4):
        near.call(ann)
    assert loads(*parties) == [2, 2]
    assert len([message for message in wire.sent if isinstance(message, LoadAsked)]) == 2


def test_nodes_that_share_a_procedure_otherwise_count_as_idle(wire, near, ann):
    far, other = join(wire, "far"), join(wire, "other", Terms())
    for _ in range(4):
        near.call(ann)
    assert loads(far, other) == [1, 3]


@pytest.mark.parametrize("lapses", [False, True])
def test_a_busy_performer_here_is_called_while_others_can_not_be_found(wire, near, ann, lapses):
    here, far = join(wire, "near"), join(wire, "far")
    near.call(ann)
    near.bus.hangs = True
    near.call(ann)
    if lapses:
        wire.end_lease(near, 9)
    else:
        near.bus.slow[0][0].errback(Unavailable("redis"))
    wire.settle()
    near.bus.hangs = False
    assert loads(here) == [2]
    if lapses:  # and then they are found all the same
        near.bus.holders(near.bus.slow[0][1]).chainDeferred(near.bus.slow[0][0])
    wire.settle()
    assert len(here.requests) + len(far.requests) == 2


def test_without_a_lease_performers_here_are_called(wire, near, ann):
    here = join(wire, "near")
    join(wire, "far")
    wire.end_lease(near)
    for _ in range(3):
        near.call(ann)
    assert loads(here) == [3]
    wire.end_lease(near, 9)


def test_a_call_that_ends_while_nodes_are_asked_is_not_sent(wire, near, ann):
    far, other = join(wire, "far"), join(wire, "other")
    wire.nodes["far"].messenger.on(LoadAsked, lambda address, message: None)
    near.call(ann, timeout=0.1)
    wire.pass_time(1.0)
    assert [reply.error.code for reply in ann.replies] == ["TIMEOUT"]
    assert loads(far, other) == [0, 0]
    assert (far.requests, other.requests) == ([], [])


def test_calls_are_distributed_by_what_each_node_has():
    assert distribute({"a": [0, 5], "b": [1]}, ["a", "b"], 3) == [("a", "b"), ("a", "b"), ("b", "a")]
    assert distribute({"b": [7]}, ["a", "b"], 1) == [("b", "a")]
    assert distribute({}, ["a", "b"], 1) == [("a", "b")]


# Limits


def test_one_that_is_busy_is_told_to_the_caller(wire, near, ann):
    far = join(wire, "far", Terms(max_in_flight=1))
    near.call(ann)
    near.call(ann)
    assert isinstance(ann.replies[0].error, Busy)
    wire.nodes["far"].answer(far)
    near.call(ann)
    assert len(far.requests) == 2


@pytest.mark.parametrize("least_busy", [False, True])
def test_callers_are_told_so_only_when_all_nodes_are_busy(wire, near, ann, least_busy):
    terms = Terms(least_busy=least_busy, max_in_flight=1)
    parties = join(wire, "far", terms), join(wire, "other", terms)
    wire.nodes["far"].call(Party("eve"))
    near.call(ann)
    assert loads(*parties) == [1, 1]
    near.call(ann)
    assert [reply.error.code for reply in ann.replies] == ["BUSY"]


@pytest.mark.parametrize("least_busy", [False, True])
def test_a_node_that_this_one_has_not_heard_of_yet_is_called_when_all_here_are_busy(wire, near, ann, least_busy):
    terms = Terms(least_busy=least_busy, max_in_flight=1)
    parties = join(wire, "near", terms), join(wire, "far", terms)
    near.bus.unknown = {"far", "other"}  # they are newer than the last renewal of the lease
    near.call(ann)
    near.call(ann)
    near.bus.unknown.clear()
    assert (loads(*parties), ann.replies) == ([1, 1], [])


def test_one_who_has_come_since_the_others_were_looked_for_is_called_when_they_are_busy(wire, near, ann):
    terms = Terms(max_in_flight=1)
    far = join(wire, "far", terms)
    near.calls.open(ann, near.calls.find("slow")[0], "ref", request())  # it has found far, and not sent there yet
    other = join(wire, "other", terms)
    near.calls.open(ann, near.calls.find("slow")[0], "ref", request())
    wire.settle()
    assert (loads(far, other), ann.replies) == ([1, 1], [])


def test_one_that_is_busy_and_not_shared_is_asked_once(wire, near, ann):
    far = Party("at far")
    wire.nodes["far"].calls.performers.add(far, "slow", terms=Terms(max_in_flight=1))
    for _ in range(4):
        near.call(ann)
    assert [reply.error.code for reply in ann.replies] == ["BUSY"] * 3
    assert len([message for message in wire.sent if isinstance(message, Called | PlainCall)]) == 4


def test_what_waits_on_another_node_is_answered_when_its_time_comes(wire, near, ann):
    far = join(wire, "far", Terms(max_in_flight=1, queue=2))
    for _ in range(3):
        near.call(ann)
    for number in range(3):
        wire.nodes["far"].answer(far, b"%d" % number)
    assert [reply.body for reply in ann.replies] == [b"0", b"1", b"2"]
    assert near.left == wire.nodes["far"].left == (0, 0, 0, 0)


# Cancelling


def test_cancel_reaches_a_callee_on_another_node(wire, near, ann):
    far = join(wire, "far", Terms())
    near.call(ann)
    near.calls.cancel(ann, "ref")
    wire.settle()
    assert far.cancelled == [far.requests[0].id]
    assert [reply.error.code for reply in ann.replies] == ["CANCELLED"]
    assert not wire.nodes["far"].answer(far)
    assert near.left == wire.nodes["far"].left == (0, 0, 0, 0)


def test_a_call_that_is_cancelled_while_its_callee_is_looked_for_is_not_sent(wire, near, ann):
    far = join(wire, "far", Terms())
    near.bus.hangs = True
    near.call(ann)
    near.calls.cancel(ann, "ref")
    near.bus.hangs = False
    for waiting, names in near.bus.slow:
        near.bus.holders(names).chainDeferred(waiting)
    wire.settle()
    assert (far.requests, far.cancelled) == ([], [])
    assert len(ann.replies) == 1


def test_a_call_that_only_ends_is_not_cancelled(wire, near, ann):
    far = join(wire, "far", Terms())
    near.call(ann)
    near.leave(ann)
    assert far.cancelled == []


# Streams


def stream(wire, near, ann):
    """Return who takes the request of *ann* on another node."""
    far = Party("far")
    wire.nodes["far"].calls.takers.add(far, "slow", shared=True)
    near.call(ann, streamed=True)
    return far


def test_a_callee_on_another_node_waits_for_the_caller(wire, near, ann):
    far = stream(wire, near, ann)
    ann.flow.paused = True
    wire.nodes["far"].answer(far, b"0")
    assert not far.flow.receiving
    wire.nodes["far"].answer(far, b"1")
    ann.flow.paused = False
    wire.pass_time(0.1)
    assert far.flow.receiving
    assert [reply.body for reply in ann.replies] == [b"0", b"1"]


@pytest.mark.parametrize("end", ["caller leaves", "cancel", "node departs"])
def test_the_wait_ends_with_the_request(wire, near, ann, end):
    far = stream(wire, near, ann)
    ann.flow.paused = True
    wire.nodes["far"].answer(far)
    match end:
        case "caller leaves":
            near.leave(ann)
        case "cancel":
            near.calls.cancel(ann, "ref")
        case "node departs":
            wire.end_lease(near, 9)
    wire.pass_time(0.1)
    assert far.flow.receiving


def test_a_caller_on_another_node_that_reads_slowly_is_waited_for(wire, near, ann):
    far = stream(wire, near, ann)
    wire.nodes["far"].calls.open(Party("eve"), far, "ref", request())
    ann.flow.paused, ann.flow.unsent = True, 1000
    wire.nodes["far"].answer(far, index=0)
    for _ in range(15):
        ann.flow.unsent -= 1
        wire.pass_time(1.0)
    assert len(ann.replies) == 1
    assert not far.flow.receiving


def test_a_stream_that_is_not_read_at_all_fails_when_others_wait(wire, near, ann):
    far = stream(wire, near, ann)
    wire.nodes["far"].calls.open(Party("eve"), far, "ref", request())
    ann.flow.paused = True
    wire.nodes["far"].answer(far, index=0)
    wire.pass_time(6.0)
    assert [reply.error and reply.error.code for reply in ann.replies] == [None, "UNAVAILABLE"]
    assert far.flow.receiving
    assert len(far.serving) == 1


def test_a_callee_waits_while_much_waits_for_the_other_node(wire, near, ann, monkeypatch):
    far = stream(wire, near, ann)
    monkeypatch.setattr("broker.cluster.links.CROWDED_BYTES", 1000)
    wire.fate = LOST
    for _ in range(3):
        wire.nodes["far"].answer(far, b"x" * 500)
    assert not far.flow.receiving
    wire.fate = (True, True)
    wire.pass_time(3.0)
    assert far.flow.receiving
    assert len(ann.replies) == 3
