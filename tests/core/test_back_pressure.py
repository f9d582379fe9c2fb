"""Who answers streamed requests waits for who does not read the answers."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from broker.core.calls import Calls
from tests.core.parties import Party, nothing_is_left, request


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def calls(clock):
    return Calls(clock, idle=10.0, grace=5.0)


@pytest.fixture
def ann():
    return Party("ann")


@pytest.fixture
def bob():
    return Party("bob")


def stream(calls, caller, callee):
    asked = request("", streamed=True)
    calls.open(caller, callee, "ref", asked)
    return lambda body=b"1": calls.answer(callee, asked.id, body)


def test_a_callee_waits_while_its_caller_does_not_keep_up(calls, ann, bob, clock):
    answer = stream(calls, ann, bob)
    answer()
    assert bob.flow.receiving
    ann.flow.paused = True
    answer()
    assert not bob.flow.receiving
    clock.advance(1.0)
    assert not bob.flow.receiving
    ann.flow.paused = False
    clock.advance(0.1)
    assert bob.flow.receiving
    assert len(ann.heard) == 2


def test_answers_that_were_received_before_are_brought_in_order(calls, ann, bob):
    answer = stream(calls, ann, bob)
    ann.flow.paused = True
    for number in range(5):
        answer(b"%d" % number)
    assert [reply.body for reply in ann.heard] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_callee_waits_for_the_slowest_of_its_callers(calls, ann, bob, clock):
    eve = Party("eve")
    for caller in (ann, eve):
        answer = stream(calls, caller, bob)
        caller.flow.paused = True
        answer()
    ann.flow.paused = False
    clock.advance(0.1)
    assert not bob.flow.receiving
    eve.flow.paused = False
    clock.advance(0.1)
    assert bob.flow.receiving


def test_results_of_calls_do_not_wait(calls, ann, bob):
    asked = request()
    calls.open(ann, bob, "ref", asked)
    ann.flow.paused = True
    calls.answer(bob, asked.id, b"1")
    assert bob.flow.receiving


@pytest.mark.parametrize("end", ["caller leaves", "caller is closed", "cancel"])
def test_what_ends_the_request_ends_the_wait(calls, ann, bob, clock, end):
    answer = stream(calls, ann, bob)
    ann.flow.paused = True
    answer()
    match end:
        case "caller leaves":
            calls.leave(ann)
        case "caller is closed":
            ann.flow.open = False
        case "cancel":
            calls.cancel(ann, "ref")
    clock.advance(0.1)
    assert bob.flow.receiving


def test_a_callee_that_leaves_is_forgotten(calls, ann, bob, clock):
    answer = stream(calls, ann, bob)
    ann.flow.paused = True
    answer()
    calls.leave(bob)
    clock.advance(0.1)
    assert clock.getDelayedCalls() == []
    assert nothing_is_left(calls, ann, bob)


def test_a_request_is_not_idle_while_its_callee_has_to_wait(calls, ann, bob, clock):
    answer = stream(calls, ann, bob)
    ann.flow.paused = True
    answer()
    clock.pump([1.0] * 30)
    assert calls.pending == 1
    ann.flow.paused = False
    clock.pump([0.1, 10.1, 0.1])
    assert calls.pending == 0


def test_who_reads_nothing_is_closed_when_others_wait(calls, ann, bob, clock):
    eve = Party("eve")
    answer = stream(calls, ann, bob)
    ann.flow.paused, ann.flow.unsent = True, 1000
    answer()
    clock.pump([1.0] * 8)
    assert ann.flow.closed is None  # it is in nobody's way
    stream(calls, eve, bob)
    clock.pump([0.1] * 2)
    assert ann.flow.closed == (1013, "reading too slowly")
    assert bob.flow.receiving


def test_who_reads_slowly_is_waited_for(calls, ann, bob, clock):
    stream(calls, Party("eve"), bob)
    answer = stream(calls, ann, bob)
    ann.flow.paused, ann.flow.unsent = True, 1000
    answer()
    for _ in range(30):
        ann.flow.unsent -= 1
        clock.advance(1.0)
    assert ann.flow.closed is None
    assert not bob.flow.receiving


def test_who_is_sent_much_by_others_does_not_stop_its_callee(calls, ann, bob, clock):
    answer = stream(calls, ann, bob)
    ann.flow.paused = True
    answer()
    ann.flow.drains += 1  # and is paused again
    clock.advance(0.1)
    assert bob.flow.receiving
    answer()
    assert not bob.flow.receiving


def test_two_that_wait_for_each_other_do_not_for_ever(calls, ann, bob, clock):
    for caller, callee in ((ann, bob), (bob, ann)):
        answer = stream(calls, caller, callee)
        caller.flow.paused = True
        answer()
    clock.pump([1.0] * 6)
    assert ann.flow.closed or bob.flow.closed


def test_a_client_may_take_its_own_request(calls, ann, clock):
    answer = stream(calls, ann, ann)
    ann.flow.paused = True
    answer()
    ann.flow.paused = False
    clock.advance(0.1)
    assert ann.flow.receiving


def test_a_party_without_a_connection_is_not_waited_for(calls, ann, bob, clock):
    answer = stream(calls, ann, bob)
    ann.flow.paused = True
    bob.flow = None
    answer()
    ann.flow = None
    answer()
    clock.advance(0.1)
    assert clock.getDelayedCalls()  # of the deadline alone
    calls.stop()
    assert clock.getDelayedCalls() == []
