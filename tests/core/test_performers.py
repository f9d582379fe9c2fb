"""Who of several performers gets a call, and what becomes of those that none may have yet."""

from __future__ import annotations

import gc
import weakref

import pytest
from twisted.internet.task import Clock

from broker.core.call_limits import MAX_WAITING, Terms
from broker.core.calls import Calls
from broker.core.performers import FULL, MAX_COMPARED, Performance, loads_of
from broker.errors import Busy, Denied, Taken
from broker.testing import make_broker
from tests.core.parties import Party, nothing_is_left, request

LEAST_BUSY = Terms(least_busy=True)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def calls(clock):
    return Calls(clock)


@pytest.fixture
def caller():
    return Party("caller")


def join(calls, count, terms, name="m"):
    """Return *count* who share *name* on *terms*."""
    parties = [Party(f"worker {number}") for number in range(count)]
    for party in parties:
        calls.performers.add(party, name, shared=True, terms=terms)
    return parties


def alone(calls, terms):
    party = Party("worker")
    calls.performers.add(party, "m", terms=terms)
    return party


def call(calls, caller, name="m", timeout=5.0):
    asked = request(name, timeout)
    calls.open(caller, calls.find(name)[0], "ref", asked)
    return asked


def answer(calls, party, index=0):
    assert calls.answer(party, list(party.serving)[index], b"1")


def loads(parties):
    return [len(party.serving) for party in parties]


# The least busy one


def test_a_call_goes_to_the_performer_with_the_fewest(calls, caller):
    parties = join(calls, 3, LEAST_BUSY)
    for _ in range(7):
        call(calls, caller)
    assert sorted(loads(parties)) == [2, 2, 3]
    idle = parties[1]
    for _ in range(len(idle.serving)):
        answer(calls, idle)
    call(calls, caller)
    assert len(idle.serving) == 1


def test_calls_of_other_procedures_count_too(calls, caller):
    ann, bob = join(calls, 2, LEAST_BUSY)
    calls.performers.add(ann, "other")
    call(calls, caller, "other")
    call(calls, caller, "other")
    for _ in range(2):
        call(calls, caller)
    assert loads([ann, bob]) == [2, 2]


def test_performers_that_are_as_busy_are_called_in_turn(calls, caller):
    parties = join(calls, 3, LEAST_BUSY)
    for _ in range(6):
        call(calls, caller)
        (busy,) = [party for party in parties if party.serving]
        answer(calls, busy)
    assert [len(party.served) for party in parties] == [2, 2, 2]


def test_of_very_many_performers_some_are_compared(calls, caller):
    parties = join(calls, MAX_COMPARED + 5, LEAST_BUSY)
    for party in parties[10:]:
        party.serving.update(dict.fromkeys("abcde"))
    for _ in range(20):
        call(calls, caller)
    assert all(len(party.served) == 2 for party in parties[:10])


def test_those_who_share_a_procedure_agree_on_the_mode(calls):
    join(calls, 1, LEAST_BUSY)
    with pytest.raises(Taken):
        calls.performers.add(Party("x"), "m", shared=True)
    with pytest.raises(Taken):
        calls.performers.add(Party("x"), "m")
    join(calls, 1, Terms(), "n")
    with pytest.raises(Taken):
        calls.performers.add(Party("x"), "n", shared=True, terms=LEAST_BUSY)


def test_who_is_alone_may_change_the_mode(calls, caller):
    (ann,) = join(calls, 1, Terms())
    calls.performers.add(ann, "m", shared=True, terms=LEAST_BUSY)
    assert calls.performers.by_load == {"m"}
    calls.performers.add(ann, "m", shared=True)
    assert calls.performers.by_load == set()
    call(calls, caller)
    assert len(ann.serving) == 1


def test_loads_are_those_of_the_least_busy(calls, caller):
    join(calls, 3, LEAST_BUSY)
    for _ in range(4):
        call(calls, caller)
    assert loads_of(calls.performers["m"], 2) == [1, 1]
    join(calls, 3, Terms(), "n")
    assert loads_of(calls.performers["n"], 2) == [0, 0]


def test_what_nobody_performs_any_more_is_forgotten(calls):
    (ann,) = join(calls, 1, LEAST_BUSY)
    calls.leave(ann)
    assert (dict(calls.performers), calls.performers.by_load) == ({}, set())


# Limits


def test_a_performer_has_no_more_calls_than_it_takes(calls, caller):
    ann = alone(calls, Terms(max_in_flight=2, queue=1))
    asked = [call(calls, caller) for _ in range(3)]
    assert list(ann.serving) == [asked[0].id, asked[1].id]
    with pytest.raises(Busy):
        call(calls, caller)
    assert calls.pending == 3
    answer(calls, ann)
    assert list(ann.serving) == [asked[1].id, asked[2].id]
    answer(calls, ann)
    answer(calls, ann)
    assert [reply.ref for reply in caller.heard] == ["ref"] * 3
    assert nothing_is_left(calls, ann, caller)


def test_without_a_queue_it_is_busy_at_once(calls, caller):
    ann = alone(calls, Terms(max_in_flight=1))
    call(calls, caller)
    with pytest.raises(Busy) as caught:
        call(calls, caller)
    assert (caught.value.code, caught.value.name) == ("BUSY", "m")
    answer(calls, ann)
    call(calls, caller)
    assert len(ann.served) == 2


def test_what_waits_is_handed_on_in_order(calls, caller):
    ann = alone(calls, Terms(max_in_flight=1, queue=100))
    asked = [call(calls, caller) for _ in range(20)]
    for _ in asked:
        answer(calls, ann)
    assert ann.served == asked
    assert nothing_is_left(calls, ann, caller)


def test_what_waits_goes_to_whoever_is_free_first(calls, caller):
    ann, bob = join(calls, 2, Terms(max_in_flight=1, queue=1))
    for _ in range(4):
        call(calls, caller)
    with pytest.raises(Busy):
        call(calls, caller)
    answer(calls, bob)
    answer(calls, bob)
    assert [len(party.served) for party in (ann, bob)] == [1, 3]


def test_one_who_has_no_limit_gets_what_others_may_not_have(calls, caller):
    (ann,) = join(calls, 1, Terms(max_in_flight=1))
    (bob,) = join(calls, 1, Terms())
    for _ in range(6):
        call(calls, caller)
    assert loads([ann, bob]) == [1, 5]


def test_the_least_busy_one_that_may_have_more_is_called(calls, caller):
    (ann,) = join(calls, 1, Terms(least_busy=True, max_in_flight=1, queue=1))
    (bob,) = join(calls, 1, Terms(least_busy=True, max_in_flight=3))
    for _ in range(4):
        call(calls, caller)
    assert loads([ann, bob]) == [1, 3]
    call(calls, caller)
    assert loads_of(calls.performers["m"], 1) == [FULL + 1]


@pytest.mark.parametrize("end", ["answer", "deadline", "caller", "cancel", "refusal"])
def test_whatever_ends_a_call_makes_room_for_the_next(calls, caller, clock, end):
    ann = alone(calls, Terms(max_in_flight=1, queue=1))
    other = Party("other")
    if end == "refusal":
        ann.refuses = Denied("call", "m")
        with pytest.raises(Denied):
            call(calls, caller, timeout=1.0)
        ann.refuses = None
    else:
        call(calls, caller, timeout=1.0)
    waits = call(calls, other, timeout=50.0)
    match end:
        case "answer":
            answer(calls, ann)
        case "deadline":
            clock.advance(1.1)
        case "caller":
            calls.leave(caller)
        case "cancel":
            calls.cancel(caller, "ref")
    assert list(ann.serving) == [waits.id]


@pytest.mark.parametrize("end", ["deadline", "caller", "cancel"])
def test_a_call_that_waits_may_end_before_anybody_has_it(calls, caller, clock, end):
    ann, other = alone(calls, Terms(max_in_flight=1, queue=1)), Party("other")
    call(calls, other, timeout=0)
    call(calls, caller, timeout=1.0)
    match end:
        case "deadline":
            clock.advance(1.1)
        case "caller":
            calls.leave(caller)
        case "cancel":
            calls.cancel(caller, "ref")
    assert caller.errors == {"deadline": ["TIMEOUT"], "caller": [], "cancel": ["CANCELLED"]}[end]
    assert ann.cancelled == []
    answer(calls, ann)
    assert len(ann.served) == 1
    assert nothing_is_left(calls, ann, caller, other)


def test_a_call_that_has_waited_is_handed_on_with_the_time_that_is_left(calls, caller, clock):
    ann = alone(calls, Terms(max_in_flight=1, queue=1))
    call(calls, caller, timeout=10.0)
    waits = call(calls, caller, timeout=5.0)
    clock.advance(3.0)
    answer(calls, ann)
    assert waits.timeout == 2.0


def test_what_waits_for_one_that_leaves_fails(calls, caller):
    ann, other = alone(calls, Terms(max_in_flight=1, queue=3)), Party("other")
    call(calls, other)
    call(calls, caller)
    call(calls, caller)
    calls.leave(ann)
    assert caller.errors == ["GONE", "GONE"]
    assert other.errors == ["GONE"]
    assert nothing_is_left(calls, ann, caller, other)


def test_what_waits_goes_to_those_that_stay(calls, caller):
    ann, bob = join(calls, 2, Terms(max_in_flight=1, queue=1))
    for _ in range(4):
        call(calls, caller)
    calls.leave(ann)
    assert caller.errors == ["GONE"]
    for _ in range(3):
        answer(calls, bob)
    assert len(bob.served) == 3
    assert nothing_is_left(calls, ann, bob, caller)


def test_who_comes_gets_what_waits(calls, caller):
    join(calls, 1, Terms(max_in_flight=1, queue=5))
    for _ in range(4):
        call(calls, caller)
    (bob,) = join(calls, 1, Terms(max_in_flight=2))
    assert len(bob.served) == 2


def test_new_terms_hold_for_what_is_under_way(calls, caller):
    ann = alone(calls, Terms())
    call(calls, caller)
    calls.performers.add(ann, "m", terms=Terms(max_in_flight=1, queue=2))
    call(calls, caller)
    call(calls, caller)
    assert len(ann.serving) == 1
    calls.performers.add(ann, "m")
    assert len(ann.serving) == 3
    for _ in range(3):
        answer(calls, ann)
    assert nothing_is_left(calls, ann, caller)


def test_limits_that_nobody_needs_any_more_leave_nothing_to_the_garbage_collector(calls, caller):
    ann = alone(calls, Terms(max_in_flight=1, queue=1))
    performance = calls.performers["m"]
    gone = [weakref.ref(performance), weakref.ref(performance.limits)]
    call(calls, caller)
    gc.disable()
    try:
        calls.leave(ann)
        del performance
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


def test_limits_of_one_procedure_are_not_those_of_another(calls, caller):
    ann = alone(calls, Terms(max_in_flight=1))
    calls.performers.add(ann, "n")
    call(calls, caller)
    call(calls, caller, "n")
    assert len(ann.serving) == 2


def test_a_performer_that_answers_at_once_gets_all_that_waits(calls, caller):
    ann = alone(calls, Terms(max_in_flight=1, queue=2000))
    for _ in range(2000):
        call(calls, caller)
    ann.on_request = lambda request: calls.answer(ann, request.id, b"1")
    answer(calls, ann)
    assert len(caller.heard) == 2000
    assert nothing_is_left(calls, ann, caller)


def test_what_is_refused_when_its_time_comes_fails(calls, caller):
    ann = alone(calls, Terms(max_in_flight=1, queue=3))
    for _ in range(3):
        call(calls, caller)
    ann.refuses = Denied("call", "m")
    answer(calls, ann)
    assert caller.errors == ["DENIED", "DENIED", None]
    assert nothing_is_left(calls, ann, caller)


def test_an_addressed_call_goes_to_that_performer_alone(calls, caller):
    ann, bob = join(calls, 2, Terms(max_in_flight=1, queue=1))
    for _ in range(2):
        calls.open(caller, calls.find_at("m", [ann])[0], "ref", request())
    with pytest.raises(Busy):
        calls.open(caller, calls.find_at("m", [ann])[0], "ref", request())
    call(calls, caller)
    answer(calls, bob)
    assert [len(party.served) for party in (ann, bob)] == [1, 1]
    answer(calls, ann)
    assert len(ann.served) == 2


def test_however_long_the_queues_are_together_a_bounded_number_waits(calls):
    caller = Party("caller")
    join(calls, 2, Terms(max_in_flight=1, queue=MAX_WAITING))
    calls._limit = MAX_WAITING * 3
    for _ in range(MAX_WAITING + 2):
        call(calls, caller, timeout=0)
    with pytest.raises(Busy):
        call(calls, caller, timeout=0)


def test_bytes_that_wait_count_and_fail_where_memory_is_short(clock, caller):
    memory = make_broker(clock).memory
    calls = Calls(clock, account=memory.held)
    ann = alone(calls, Terms(max_in_flight=1, queue=5))
    call(calls, caller)
    waits = request()
    waits.body = b"[%b]" % (b"1" * 998)
    calls.open(caller, calls.find("m")[0], "ref", waits)
    assert memory.held.used == 1000
    performance = calls.performers["m"]
    assert isinstance(performance, Performance)
    assert performance.limits is not None
    performance.limits.shed()
    assert memory.held.used == 0
    assert caller.errors == ["BUSY"]
    answer(calls, ann)
    assert nothing_is_left(calls, ann, caller)
