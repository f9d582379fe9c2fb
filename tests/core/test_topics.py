"""Who hears what."""

from __future__ import annotations

import attrs
import pytest
from twisted.internet.task import Clock

from broker.core.slices import slices_of
from broker.core.topics import Topics
from broker.messages import Event
from broker.patterns import matches


@attrs.define(eq=False)
class Listener:
    id: str
    heard: list[tuple[str, str]] = attrs.field(factory=list)
    then: list = attrs.field(factory=list)

    def on_event(self, event, pattern):
        self.heard.append((event.topic, pattern))
        for act in self.then:
            act()


@pytest.fixture
def told():
    """What the bus was told."""
    return []


@pytest.fixture
def topics(told):
    return Topics(
        lambda topic: told.append(("listen", topic)), lambda topic: told.append(("forget", topic)), slices_of(Clock())
    )


def event(topic, origin=""):
    return Event(topic, "e", b"1", origin=origin)


@pytest.mark.parametrize(
    "pattern", ["a", "a.b", "*", "a.*", "*.b", ">", "a.>", "*.*", "a.*.c", "*.>", "a*", "a.b*", "*.b*"]
)
@pytest.mark.parametrize("topic", ["a", "a.b", "b.b", "a.b.c", "a.x.c", "a.", "a*", "x", "ab", "a.bc.d"])
def test_tree_agrees_with_the_rule(topics, pattern, topic):
    ann = Listener("ann")
    topics.subscribe(ann, pattern)
    topics.deliver(event(topic))
    assert bool(ann.heard) == matches(pattern, topic)
    assert topics.has_listeners(topic) == matches(pattern, topic)


def test_event_comes_once_by_each_subscription(topics):
    ann = Listener("ann")
    for topic in ("a.b", "a.*", "a.>", ">", "a.b"):
        topics.subscribe(ann, topic)
    topics.deliver(event("a.b"))
    assert sorted(pattern for _, pattern in ann.heard) == [">", "a.*", "a.>", "a.b"]
    assert len(topics) == 4


def test_wildcards_of_an_exact_subscription_are_plain(topics):
    ann = Listener("ann")
    topics.subscribe(ann, "a.*", exact=True)
    topics.deliver(event("a.b"))
    topics.deliver(event("a.*"))
    assert ann.heard == [("a.*", "a.*")]
    topics.unsubscribe(ann, "a.*")
    topics.deliver(event("a.*"))
    assert len(ann.heard) == 2
    topics.unsubscribe(ann, "a.*", exact=True)
    assert len(topics) == 0


@pytest.mark.parametrize("topic", ["a.b", "a.*"])
def test_publisher_hears_itself_only_with_echo(topics, topic):
    ann, bob = Listener("ann"), Listener("bob")
    topics.subscribe(ann, topic)
    topics.subscribe(bob, topic)
    topics.deliver(event("a.b", origin="ann"))
    assert (len(ann.heard), len(bob.heard)) == (0, 1)
    topics.subscribe(ann, topic, echo=True)
    topics.deliver(event("a.b", origin="ann"))
    assert len(ann.heard) == 1


@pytest.mark.parametrize("topic", ["a.b", "a.*", "a.>"])
def test_bus_hears_of_first_and_last_listener(topics, told, topic):
    ann, bob = Listener("ann"), Listener("bob")
    topics.subscribe(ann, topic)
    assert told == [("listen", topic)]
    topics.subscribe(bob, topic)
    topics.unsubscribe(ann, topic)
    topics.unsubscribe(ann, topic)
    assert told == [("listen", topic)]
    topics.unsubscribe(bob, topic)
    assert told == [("listen", topic), ("forget", topic)]
    assert len(topics) == 0
    assert not topics.has_listeners("a.b")


def test_patterns_leave_the_tree_one_by_one(topics):
    ann = Listener("ann")
    for pattern in ("a.*", "a.*.c", "a.>"):
        topics.subscribe(ann, pattern)
    topics.unsubscribe(ann, "a.*")
    topics.unsubscribe(ann, "b.*")
    topics.deliver(event("a.b"))
    topics.deliver(event("a.b.c"))
    assert sorted(ann.heard) == [("a.b", "a.>"), ("a.b.c", "a.*.c"), ("a.b.c", "a.>")]
    for pattern in ("a.*.c", "a.>"):
        topics.unsubscribe(ann, pattern)
    assert topics._patterns._root.children == {}


def test_listeners_may_come_and_go_while_an_event_is_delivered(topics):
    ann, bob = Listener("ann"), Listener("bob")
    for topic in ("a", "*"):
        topics.subscribe(ann, topic)
    ann.then.append(lambda: topics.subscribe(bob, "a"))
    ann.then.append(lambda: topics.unsubscribe(ann, "a"))
    topics.deliver(event("a"))
    topics.deliver(event("a"))
    assert [pattern for _, pattern in ann.heard] == ["a", "*", "*"]
    assert bob.heard == [("a", "a")]


def test_listeners_are_counted_once_each_and_as_they_are_delivered_to(topics):
    ann, bob, cid = Listener("ann"), Listener("bob"), Listener("cid")
    for topic in ("a.b", "a.*", ">"):
        topics.subscribe(ann, topic)
    topics.subscribe(bob, "a.b")
    topics.subscribe(cid, "a.*", echo=True)
    assert [topics.count(event(topic)) for topic in ("a.b", "a.c", "b")] == [3, 2, 1]
    assert [topics.count(event("a.b", origin)) for origin in ("ann", "bob", "cid")] == [2, 2, 3]
