"""What goes to very many is delivered in slices, and to each in the order in which it was published."""

from __future__ import annotations

import attrs
import pytest
from twisted.internet.task import Clock

from broker.core.fan_outs import AT_ONCE, FEW, MAX_WAITING, PER_LOOK
from broker.core.slices import SLICE, slices_of
from broker.core.topics import Topics
from broker.messages import Event
from broker.testing import make_broker
from tests.support.peers import attach, call, perform

MANY = FEW + 10


@attrs.define(eq=False)
class Listener:
    id: str
    heard: list[str] = attrs.field(factory=list)
    then: list = attrs.field(factory=list)

    def on_event(self, event, pattern):
        self.heard.append(event.name)
        while self.then:
            self.then.pop()()


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def topics(clock):
    return Topics(lambda topic: None, lambda topic: None, slices_of(clock))


@pytest.fixture
def crowd(topics):
    listeners = [Listener(str(number)) for number in range(MANY)]
    for listener in listeners:
        topics.subscribe(listener, "all")
    return listeners


def event(topic, name, **more):
    return Event(topic, name, b"1", **more)


def count(listeners, name="1"):
    return sum(name in listener.heard for listener in listeners)


def test_of_very_many_so_many_get_an_event_in_each_iteration_of_the_loop(topics, crowd, clock):
    seen = []
    crowd[2 * AT_ONCE - 1].then.append(lambda: seen.append(slices_of(clock).pauses))
    topics.deliver(event("all", "1"))
    assert (count(crowd), seen) == (AT_ONCE, [])
    clock.advance(0)
    assert (seen, slices_of(clock).pauses) == ([1], MANY // AT_ONCE)
    assert all(listener.heard == ["1"] for listener in crowd)


def test_fewer_get_it_in_an_iteration_where_each_takes_long(topics, crowd, clock):
    for listener in crowd:
        listener.then.append(lambda: setattr(clock, "rightNow", clock.rightNow + SLICE / PER_LOOK))
    topics.deliver(event("all", "1"))
    assert PER_LOOK <= count(crowd) <= 2 * PER_LOOK
    clock.pump([SLICE] * MANY)
    assert all(listener.heard == ["1"] for listener in crowd)


def test_all_of_not_so_many_get_it_at_once(topics, crowd):
    for listener in crowd[FEW:]:
        topics.unsubscribe(listener, "all")
    topics.deliver(event("all", "1"))
    assert count(crowd) == FEW


def test_who_subscribed_first_is_the_first_to_get_it(topics, crowd):
    topics.deliver(event("all", "1"))
    assert count(crowd[:AT_ONCE]) == AT_ONCE


def test_another_event_for_one_who_waits_comes_after_what_he_waits_for(topics, crowd):
    topics.subscribe(crowd[-1], "own")
    topics.deliver(event("all", "1"))
    topics.deliver(event("own", "2"))
    assert crowd[-1].heard == ["1", "2"]
    assert crowd[-2].heard == []


def test_others_do_not_wait(topics, crowd):
    other = Listener("other")
    topics.subscribe(other, "own")
    topics.deliver(event("all", "1"))
    topics.deliver(event("own", "2"))
    assert other.heard == ["2"]


def test_several_events_for_all_come_in_their_order(topics, crowd, clock):
    for name in "123":
        topics.deliver(event("all", name))
    topics.deliver(event("all", "4", exclude=("nobody",)))
    while clock.getDelayedCalls():
        clock.advance(0)
    assert all(listener.heard == ["1", "2", "3", "4"] for listener in crowd)


def test_what_a_listener_publishes_in_answer_comes_later_for_all(topics, crowd, clock):
    crowd[0].then.append(lambda: topics.deliver(event("all", "2")))
    topics.deliver(event("all", "1"))
    while clock.getDelayedCalls():
        clock.advance(0)
    assert all(listener.heard == ["1", "2"] for listener in crowd)


def test_who_has_left_gets_nothing_any_more_and_who_came_since_nothing_of_before(topics, crowd, clock):
    late = Listener("late")
    topics.deliver(event("all", "1"))
    topics.unsubscribe(crowd[-1], "all")
    topics.subscribe(crowd[-1], "all")
    topics.subscribe(late, "all")
    while clock.getDelayedCalls():
        clock.advance(0)
    assert (crowd[-1].heard, late.heard, count(crowd)) == ([], [], MANY - 1)


@pytest.mark.parametrize("pattern", ["a.*", ">"])
def test_a_pattern_of_very_many_is_no_other(topics, clock, pattern):
    crowd = [Listener(str(number)) for number in range(MANY)]
    for listener in crowd:
        topics.subscribe(listener, pattern, echo=True)
    topics.deliver_except(event("a.b", "1", origin="3"), {"7"})
    assert count(crowd) == AT_ONCE
    topics.unsubscribe(crowd[-1], pattern)
    while clock.getDelayedCalls():
        clock.advance(0)
    assert (count(crowd), crowd[3].heard, crowd[7].heard, crowd[-1].heard) == (MANY - 2, ["1"], [], [])


def test_too_much_does_not_wait(topics, crowd):
    for number in range(MAX_WAITING // MANY + 10):
        topics.deliver(event("all", str(number)))
    assert sum(len(each.left) for each in topics.late.waiting) <= MAX_WAITING
    assert count(crowd, "0") == MANY


def test_at_the_end_nothing_waits(topics, crowd):
    topics.deliver(event("all", "1"))
    topics.late.stop()
    assert count(crowd) == MANY


def test_a_call_or_its_answer_does_not_overtake_an_event(clock):
    broker = make_broker(clock)
    for _ in range(MANY):
        attach(broker).subscribe("all")
    service, caller, publisher = attach(broker), attach(broker), attach(broker)
    perform(service, "m")
    for peer in (service, caller):
        peer.subscribe("all")
        peer.session.request = lambda request, peer=peer: peer.session.heard.append("request")
        peer.session.reply = lambda reply, peer=peer: peer.session.heard.append("reply")
    publisher.publish("all", "event", b"1")
    assert (service.session.heard, caller.session.heard) == ([], [])
    asked = call(caller, "m")
    service.answer(asked.id, b"2")
    assert [each[0].name if isinstance(each, tuple) else each for each in service.session.heard] == ["event", "request"]
    assert [each[0].name if isinstance(each, tuple) else each for each in caller.session.heard] == ["event", "reply"]
