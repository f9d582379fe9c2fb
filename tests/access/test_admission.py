"""Counting by address, and holding refusals."""

import pytest
from twisted.internet.defer import CancelledError, Deferred

from broker.access.admission import ConnectionCounter, HeldRefusals


def test_a_counter_without_limits_objects_to_nobody():
    counter = ConnectionCounter()
    for _ in range(1000):
        counter.enter("a")
    assert (len(counter), counter.objection("a")) == (1000, "")


def test_the_total_is_limited():
    counter = ConnectionCounter(2)
    counter.enter("a")
    assert counter.objection("b") == ""
    counter.enter("b")
    assert counter.objection("c") == "TXBROKER_MAX_CONNECTIONS"
    counter.leave("a")
    assert counter.objection("c") == ""


def test_each_address_is_limited_for_itself():
    counter = ConnectionCounter(10, 1)
    counter.enter("a")
    assert counter.objection("a") == "TXBROKER_MAX_CONNECTIONS_PER_ADDRESS"
    assert counter.objection("b") == ""
    counter.leave("a")
    assert counter.objection("a") == ""


def test_who_has_no_address_is_not_limited_by_it():
    counter = ConnectionCounter(10, 1)
    counter.enter("")
    assert counter.objection("") == ""


def test_the_last_one_to_leave_is_told_of():
    emptied = []
    counter = ConnectionCounter(emptied=lambda: emptied.append(True))
    counter.enter("a")
    counter.enter("b")
    counter.leave("a")
    assert emptied == []
    counter.leave("b")
    assert emptied == [True]


def hold(held: HeldRefusals, address: str) -> tuple[Deferred[bool], Deferred[None]]:
    wait: Deferred[None] = Deferred()
    return Deferred.fromCoroutine(held.hold(address, lambda: wait)), wait


def test_a_refusal_is_held_until_its_time():
    held = HeldRefusals(1)
    done, wait = hold(held, "a")
    assert (done.called, len(held)) == (False, 1)
    wait.callback(None)
    assert (done.result, len(held)) == (True, 0)


@pytest.mark.parametrize(("limits", "address"), [((1,), "b"), ((5, 1), "a")])
def test_beyond_the_bound_nothing_is_held(limits, address):
    held = HeldRefusals(*limits)
    first, wait = hold(held, "a")
    done, never = hold(held, address)
    assert (done.result, never.called, first.called) == (False, False, False)
    wait.callback(None)
    assert not hold(held, address)[0].called


def test_one_that_is_cancelled_makes_room():
    held = HeldRefusals(1)
    done, _ = hold(held, "a")
    done.addErrback(lambda failure: failure.trap(CancelledError))
    done.cancel()
    assert len(held) == 0
