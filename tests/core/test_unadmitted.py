"""Clients that are not admitted yet: a few, the oldest of which make room."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock

from broker.core.unadmitted import PER_ADDRESS, UnadmittedClients


@attrs.define(eq=False)
class Client:
    admitted: bool = False
    evictable: bool = True
    stays: bool = False
    evicted: bool = False
    overdue_after: list[float] = attrs.field(factory=list)

    def evict(self) -> None:
        self.evicted = True

    def overdue(self, seconds: float) -> bool:
        self.overdue_after.append(seconds)
        return self.stays


@pytest.fixture
def clock():
    clock = Clock()
    yield clock
    clock.advance(1.0)
    assert clock.getDelayedCalls() == []


def enter(clients: UnadmittedClients, address: str, **options: Any) -> Client:
    assert clients.objection(address) == ""
    client = Client(**options)
    clients.enter(client, address)
    return client


def test_without_limits_nobody_is_dropped(clock):
    clients = UnadmittedClients(clock)
    entered = [enter(clients, "a") for _ in range(1000)]
    assert (len(clients), any(client.evicted for client in entered)) == (1000, False)


def test_the_oldest_of_an_address_makes_room_for_its_next(clock):
    clients = UnadmittedClients(clock, 10, 2)
    other = enter(clients, "b")
    first, second, third = (enter(clients, "a") for _ in range(3))
    assert [client.evicted for client in (other, first, second, third)] == [False, True, False, False]
    assert (len(clients), clients.evicted) == (3, 1)


def test_the_address_that_has_most_makes_room_for_others(clock):
    clients = UnadmittedClients(clock, 4)
    early = enter(clients, "b")
    first, *others = (enter(clients, "a") for _ in range(3))
    enter(clients, "c")
    assert (first.evicted, early.evicted, any(client.evicted for client in others)) == (True, False, False)


def test_those_without_an_address_are_limited_in_all_only(clock):
    clients = UnadmittedClients(clock, 3, 1)
    first, *others = (enter(clients, "") for _ in range(4))
    assert (first.evicted, any(client.evicted for client in others), len(clients)) == (True, False, 3)


def test_the_next_of_an_address_is_refused_when_none_of_it_may_be_dropped(clock):
    clients = UnadmittedClients(clock, 0, 2)
    first = enter(clients, "a", evictable=False)
    enter(clients, "a", evictable=False)
    assert (clients.objection("a"), clients.evict("a")) == (PER_ADDRESS, False)
    first.evictable = True
    assert (clients.objection("a"), first.evicted) == ("", True)


def test_those_that_wait_for_a_refusal_keep_no_other_address_out(clock):
    clients = UnadmittedClients(clock, 3, 2)
    early = enter(clients, "b", evictable=False)
    first, second = (enter(clients, "a", evictable=False) for _ in range(2))
    enter(clients, "c", evictable=False)
    assert [client.evicted for client in (early, first, second)] == [False, True, False]
    assert clients.evict()
    assert early.evicted


def test_who_may_be_dropped_is_dropped_before_those_that_wait(clock):
    clients = UnadmittedClients(clock, 3)
    first, second = (enter(clients, "a", evictable=False) for _ in range(2))
    idle = enter(clients, "b")
    enter(clients, "c")
    assert [client.evicted for client in (first, second, idle)] == [False, False, True]


def test_there_is_no_room_when_all_are_gone(clock):
    assert not UnadmittedClients(clock, 1).evict()


@pytest.mark.parametrize("limits", [(2, 0), (0, 2)])
def test_who_was_admitted_meanwhile_makes_room_and_stays(clock, limits):
    clients = UnadmittedClients(clock, *limits)
    first, second = enter(clients, "a"), enter(clients, "a")
    second.admitted = True
    first.evictable = False
    enter(clients, "a")
    assert (first.evicted, second.evicted, len(clients)) == (False, False, 2)


def test_one_can_be_dropped_at_any_time(clock):
    clients = UnadmittedClients(clock)
    admitted, few = enter(clients, "a", admitted=True), enter(clients, "b")
    old, new = enter(clients, "a"), enter(clients, "a")
    assert clients.evict("a")
    assert [client.evicted for client in (admitted, few, old, new)] == [False, False, True, False]
    assert clients.evict()
    assert clients.evict()
    assert not clients.evict()
    assert len(clients) == 0


def test_leaving_is_idempotent_and_leaves_nothing(clock):
    clients = UnadmittedClients(clock, deadline=30.0)
    client = enter(clients, "a")
    clients.leave(client)
    clients.leave(client)
    clock.advance(31.0)
    assert (len(clients), clients._clients, client.overdue_after) == (0, {}, [])


def test_who_is_not_admitted_in_time_is_ended(clock):
    clients = UnadmittedClients(clock, deadline=30.0)
    late, admitted, gone = (enter(clients, "a") for _ in range(3))
    clock.advance(29.0)
    assert late.overdue_after == []
    admitted.admitted = True
    clients.leave(gone)
    clock.advance(1.1)
    assert [client.overdue_after for client in (late, admitted, gone)] == [[30.0], [], []]
    assert len(clients) == 0


def test_who_may_stay_is_asked_again(clock):
    clients = UnadmittedClients(clock, deadline=30.0)
    client = enter(clients, "a", stays=True)
    clock.pump([1.0] * 65)
    assert (client.overdue_after, len(clients)) == ([30.0, 30.0], 1)
    client.stays = False
    clock.pump([1.0] * 30)
    assert len(clients) == 0


def test_one_that_ends_another_when_both_are_late_does_no_harm(clock):
    clients = UnadmittedClients(clock, deadline=30.0)
    second = Client()

    class Other(Client):
        def overdue(self, seconds: float) -> bool:
            clients.leave(second)
            return False

    clients.enter(Other(), "a")
    clients.enter(second, "a")
    clock.advance(31.0)
    assert (len(clients), second.overdue_after) == (0, [])


def test_nothing_is_due_after_the_end(clock):
    clients = UnadmittedClients(clock, deadline=30.0)
    enter(clients, "a")
    clients.stop()
    assert clock.getDelayedCalls() == []
