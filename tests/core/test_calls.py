"""Calls: who takes them, and that each ends exactly once."""

from __future__ import annotations

from functools import partial
from itertools import count

import pytest
from twisted.internet.task import Clock

from broker.core.calls import MAX_KEPT_BYTES, Calls
from broker.core.slices import SLICE, slices_of
from broker.errors import CalleeFailed, Denied, Gone, Invalid, NotFound, RateLimited, Timeout
from tests.core.parties import Party, nothing_is_left, request


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def calls(clock):
    return Calls(clock, pending_limit=3, idle=10.0)


@pytest.fixture
def ann():
    return Party("ann")


@pytest.fixture
def bob():
    return Party("bob")


# Who takes a call


def test_exact_procedure_goes_before_a_service(calls, ann, bob):
    calls.performers.add(ann, "s.a.b")
    calls.services.add(bob, "s.a")
    calls.services.add(ann, "s")
    assert calls.find("s.a.b") == (ann, "s.a.b")
    assert calls.find("s.a.c") == (bob, "s.a")
    assert calls.find("s.a") == (ann, "s")
    assert calls.find("s.x.y") == (ann, "s")


@pytest.mark.parametrize("procedure", ["t", "sa.b", "", "."])
def test_procedure_that_nobody_performs_is_not_found(calls, ann, procedure):
    calls.services.add(ann, "s")
    with pytest.raises(NotFound) as caught:
        calls.find(procedure)
    assert (caught.value.what, caught.value.name) == ("method", procedure)


def test_service_that_was_asked_for_goes_before_a_procedure(calls, ann, bob):
    calls.performers.add(ann, "s.e")
    assert calls.find("s.e", "s") == (ann, "s.e")
    calls.services.add(bob, "s")
    assert calls.find("s.e", "s") == (bob, "s")
    with pytest.raises(NotFound, match="service"):
        calls.find("t.e", "t")


def test_recipient_must_perform_it_itself(calls, ann, bob):
    calls.performers.add(ann, "m")
    calls.services.add(bob, "s.t")
    assert calls.find_at("m", [bob, ann]) == (ann, "m")
    assert calls.find_at("s.t.x", [ann, bob]) == (bob, "s.t")
    with pytest.raises(NotFound):
        calls.find_at("m", [bob])


# How it ends


def test_answer_ends_the_call(calls, ann, bob, clock):
    asked = request()
    calls.open(ann, bob, "ref", asked)
    assert bob.served == [asked]
    assert calls.answer(bob, asked.id, b"5", time=3.0, attachments=(b"x",))
    (reply,) = ann.heard
    assert (reply.ref, reply.body, reply.error, reply.source, reply.time) == ("ref", b"5", None, "bob", 3.0)
    assert reply.attachments == (b"x",)
    assert not calls.answer(bob, asked.id, b"6")
    clock.advance(100)
    assert len(ann.heard) == 1
    assert nothing_is_left(calls, ann, bob)


def test_answer_without_a_time_of_its_own_has_none(calls, ann, bob):
    asked = request()
    calls.open(ann, bob, "ref", asked)
    calls.answer(bob, asked.id, b"5")
    assert (ann.heard[0].time, ann.heard[0].attachments, ann.heard[0].streamed) == (0.0, (), False)


def test_each_call_has_an_id_of_its_own(calls, ann, bob):
    asked = [request() for _ in range(3)]
    for each in asked:
        calls.open(ann, bob, "same", each)
    assert len({each.id for each in asked}) == 3


def test_answer_counts_from_the_callee_only(calls, ann, bob):
    asked = request()
    calls.open(ann, bob, "ref", asked)
    for party in (ann, Party("eve")):
        assert not calls.answer(party, asked.id, b"forged")
    assert ann.heard == []
    assert calls.pending == 1


def test_failure_of_the_callee_passes(calls, ann, bob):
    asked = request()
    calls.open(ann, bob, "ref", asked)
    error = CalleeFailed("E1", "no")
    calls.answer(bob, asked.id, b"null", error)
    assert ann.heard[0].error is error


@pytest.mark.parametrize("timeout", [5e-324, 0.0004, 0.01, 0.9999])
def test_the_shortest_timeout_is_a_limit(calls, ann, bob, clock, timeout):
    calls.open(ann, bob, "ref", request(timeout=timeout))
    clock.pump([0.1] * 11)
    assert ann.heard[0].error.code == "TIMEOUT"
    assert nothing_is_left(calls, ann, bob)


def test_deadline_ends_the_call(calls, ann, bob, clock):
    asked = request(timeout=1.0)
    calls.open(ann, bob, "ref", asked)
    clock.advance(0.9)
    assert ann.heard == []
    clock.advance(0.2)
    assert isinstance(ann.heard[0].error, Timeout)
    assert ann.heard[0].source == "broker"
    assert not calls.answer(bob, asked.id, b"late")
    assert nothing_is_left(calls, ann, bob)


def test_quiet_call_ends_without_a_word(calls, ann, bob, clock):
    calls.open(ann, bob, "ref", request(timeout=1.0), quiet=True)
    clock.advance(1.1)
    assert ann.heard == []
    assert nothing_is_left(calls, ann, bob)


def test_call_without_limit_has_no_timer(calls, ann, bob, clock):
    asked = request(timeout=0.0)
    calls.open(ann, bob, "ref", asked)
    assert clock.getDelayedCalls() == []
    assert calls.answer(bob, asked.id, b"1")


def test_callee_that_leaves_ends_its_calls(calls, ann, bob):
    calls.performers.add(bob, "m")
    calls.services.add(bob, "s")
    calls.takers.add(bob, "*")
    calls.open(ann, bob, "ref", request())
    calls.leave(bob)
    error = ann.heard[0].error
    assert isinstance(error, Gone)
    assert (error.what, error.name) == ("lost", "m")
    assert nothing_is_left(calls, ann, bob)
    assert (len(calls.performers), len(calls.services), len(calls.takers)) == (0, 0, 0)


def test_the_calls_of_a_callee_that_leaves_end_in_slices(calls, ann, bob, clock):
    for ref in "abc":
        calls.open(ann, bob, ref, request())
    answered = list(bob.serving)[2]
    ann.on_reply = lambda reply: ann.heard.append(reply.ref) or setattr(clock, "rightNow", clock.rightNow + SLICE)
    calls.leave(bob)
    assert ann.heard == ["a"]
    calls.answer(bob, answered, b"1")
    clock.pump([0] * 3)
    assert ann.heard == ["a", "c", "b"]
    assert nothing_is_left(calls, ann, bob)


def test_caller_that_leaves_hears_nothing(calls, ann, bob, clock):
    asked = request()
    calls.open(ann, bob, "ref", asked)
    calls.leave(ann)
    assert not calls.answer(bob, asked.id, b"1")
    clock.advance(100)
    assert ann.heard == []
    assert nothing_is_left(calls, ann, bob)


def test_the_calls_of_a_caller_that_leaves_end_in_slices(calls, ann, bob, clock):
    for ref in "abc":
        calls.open(ann, bob, ref, request())
    _, second, third = bob.serving
    slices_of(clock).now = partial(next, count(0.0, SLICE))  # each call takes a slice
    calls.leave(ann)
    assert list(bob.serving) == [second, third]
    assert calls.answer(bob, third, b"1")
    clock.pump([0] * 3)
    assert nothing_is_left(calls, ann, bob)


def test_callee_that_refuses_leaves_nothing_behind(calls, ann, bob):
    bob.refuses = Denied("call", "m")
    with pytest.raises(Denied):
        calls.open(ann, bob, "ref", request())
    assert nothing_is_left(calls, ann, bob)


def test_calls_that_wait_are_limited_for_each_caller(calls, ann, bob):
    for _ in range(3):
        calls.open(ann, bob, "ref", request())
    with pytest.raises(RateLimited):
        calls.open(ann, bob, "ref", request())
    calls.open(bob, ann, "ref", request())


@pytest.mark.parametrize(
    ("ref", "procedure", "what"),
    [("r" * 1025, "m", "id"), ("r", "m" * 1025, "method"), ("r" * 1024, "m" * 1025, "method")],
)
def test_what_a_call_keeps_has_a_limit(calls, ann, bob, ref, procedure, what):
    with pytest.raises(Invalid) as refused:
        calls.open(ann, bob, ref, request(procedure))
    assert refused.value.what == what
    assert nothing_is_left(calls, ann, bob)
    calls.open(ann, bob, ref[:1024], request(procedure[:1024]))
    assert len(ann.calling) == 1


def test_stopping_forgets_the_deadlines(calls, ann, bob, clock):
    calls.open(ann, bob, "ref", request())
    calls.stop()
    assert clock.getDelayedCalls() == []


# What the caller takes back


def test_cancelled_call_ends_on_both_sides(calls, ann, bob, clock):
    asked = request()
    calls.open(ann, bob, "ref", asked)
    calls.cancel(ann, "ref")
    assert bob.cancelled == [asked.id]
    assert ann.errors == ["CANCELLED"]
    assert not calls.answer(bob, asked.id, b"late")
    clock.advance(100)
    assert len(ann.heard) == 1
    assert nothing_is_left(calls, ann, bob)


def test_all_calls_of_one_reference_are_cancelled(calls, ann, bob):
    for ref in ("a", "b", "a"):
        calls.open(ann, bob, ref, request())
    calls.cancel(ann, "a")
    assert [reply.ref for reply in ann.heard] == ["a", "a"]
    assert [call.ref for call in bob.serving.values()] == ["b"]


@pytest.mark.parametrize("ref", ["", "other", "ref"])
def test_only_a_call_of_ones_own_can_be_cancelled(calls, ann, bob, ref):
    calls.open(ann, bob, "ref", request())
    caller = ann if ref != "ref" else Party("eve")
    with pytest.raises(NotFound) as caught:
        calls.cancel(caller, ref)
    assert (caught.value.what, caught.value.name) == ("call", ref)
    assert (bob.cancelled, calls.pending) == ([], 1)


def test_a_call_that_has_ended_can_not_be_cancelled(calls, ann, bob):
    asked = request()
    calls.open(ann, bob, "ref", asked)
    calls.answer(bob, asked.id, b"1")
    with pytest.raises(NotFound):
        calls.cancel(ann, "ref")
    assert bob.cancelled == []


def test_a_callee_that_answers_when_it_is_told_ends_the_call_itself(calls, ann, bob):
    asked = request()
    calls.open(ann, bob, "ref", asked)
    bob.on_cancel = lambda id: calls.answer(bob, id, b"partly")
    calls.cancel(ann, "ref")
    assert [(reply.body, reply.error) for reply in ann.heard] == [(b"partly", None)]
    assert nothing_is_left(calls, ann, bob)


@pytest.mark.parametrize("answers", [0, 2])
def test_cancelled_stream_ends_with_a_word(calls, ann, bob, answers):
    asked = request("", streamed=True)
    calls.open(ann, bob, "ref", asked)
    for _ in range(answers):
        calls.answer(bob, asked.id, b"1")
    calls.cancel(ann, "ref")
    assert ann.errors == [None] * answers + ["CANCELLED"]
    assert ann.heard[-1].streamed
    assert not calls.answer(bob, asked.id, b"late")


# Streamed requests


def test_stream_is_answered_many_times(calls, ann, bob, clock):
    asked = request("", streamed=True)
    calls.open(ann, bob, "ref", asked)
    for number in range(3):
        clock.advance(9)
        assert calls.answer(bob, asked.id, b"%d" % number)
    assert [(reply.body, reply.streamed) for reply in ann.heard] == [(b"0", True), (b"1", True), (b"2", True)]
    clock.advance(10.1)
    assert not calls.answer(bob, asked.id, b"late")
    assert len(ann.heard) == 3
    assert nothing_is_left(calls, ann, bob)


def test_stream_that_was_never_answered_fails(calls, ann, bob, clock):
    calls.open(ann, bob, "ref", request("", streamed=True))
    clock.advance(10.1)
    assert (ann.heard[0].error.code, ann.heard[0].error.what) == ("TIMEOUT", "request")
    assert ann.heard[0].streamed


@pytest.mark.parametrize("answers", [0, 1])
def test_stream_whose_taker_leaves_fails_only_unanswered(calls, ann, bob, answers):
    asked = request("", streamed=True)
    calls.open(ann, bob, "ref", asked)
    for _ in range(answers):
        calls.answer(bob, asked.id, b"1")
    calls.leave(bob)
    assert len(ann.heard) == 1
    assert (ann.heard[0].error is None) == (answers == 1)


def test_stream_without_idle_limit_lives_on(clock, ann, bob):
    calls = Calls(clock, idle=0.0)
    asked = request("", streamed=True)
    calls.open(ann, bob, "ref", asked)
    assert calls.answer(bob, asked.id, b"1")
    assert clock.getDelayedCalls() == []
    assert calls.answer(bob, asked.id, b"2")


def test_the_bytes_of_long_ids_and_procedures_of_one_caller_are_bounded(clock, ann, bob):
    calls = Calls(clock)
    name = "\U0001f600" * 250
    calls.performers.add(bob, name, shared=False)
    for _ in range(MAX_KEPT_BYTES // 10_000):
        calls.open(ann, bob, "\U0001f600" * 1000, request(name))
    with pytest.raises(RateLimited, match="limit pending"):
        calls.open(ann, bob, "\U0001f600" * 1000, request(name))
    assert ann.held == MAX_KEPT_BYTES // 10_000 * 10_000
    calls.answer(bob, bob.served[0].id, b"1")
    clock.advance(6.0)
    assert (ann.held, calls.pending, calls._kept) == (0, 0, {})


def test_ids_of_an_ordinary_length_are_not_counted(calls, ann, bob):
    calls.open(ann, bob, "x" * 36, request())
    assert ann.held == 0
    calls.leave(ann)
