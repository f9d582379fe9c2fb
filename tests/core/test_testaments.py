"""Testaments of sessions: published once, by their node or, when that is gone, by another."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, ensureDeferred, fail

from broker.core import testaments as module
from broker.errors import Invalid, RateLimited, Unavailable
from broker.messages import Event
from broker.testing import make_broker, value_of
from tests.support.logs import lines_of, logging


@pytest.fixture
def store():
    return make_broker().store


@pytest.fixture
def published():
    return []


@pytest.fixture
def living():
    return set()


@pytest.fixture
def failures():
    return []


@pytest.fixture
def works():
    """What could not be done while the store was away."""
    return []


@pytest.fixture
def make(store, published, living, failures, works):
    def make(node):
        living.add(node)

        async def lives(other):
            return other in living

        async def publish(event, retain, key):
            if failures:
                raise failures.pop(0)
            published.append((node, event.topic, event.body, event.source, retain))

        return module.Testaments(
            store, lambda: node, lambda: node in living, lives, lambda work: value_of(_done(work, works)), publish
        )

    return make


async def _done(work, works):
    try:
        await work()
    except Unavailable:
        works.append(work)


def left(topic):
    return module.Testament(topic, "n", b"1", "ann", retain=True)


def test_those_of_a_node_that_is_gone_are_published_by_another_once(make, published, living):
    one, two, three = make("one/1"), make("two/1"), make("three/1")
    for number in range(250):
        value_of(one.keep(f"s{number}", left(f"t{number}")))
    value_of(two.keep("s", left("t")))
    living.discard("one/1")
    for node in (two, three, two):
        node.recover_soon()
    assert sorted(published) == sorted(("two/1", f"t{number}", b"1", "ann", True) for number in range(250))
    one.execute("s1")  # it was only thought to be gone
    assert len(published) == 250


def test_a_node_that_does_not_know_the_others_publishes_nothing_of_theirs(make, published, living):
    one, two = make("one/1"), make("two/1")
    value_of(one.keep("s", left("t")))
    living.clear()
    two.recover_soon()
    assert published == []


def test_one_that_was_dropped_is_published_by_nobody(make, published, living):
    one, two = make("one/1"), make("two/1")
    value_of(one.keep("s", left("t")))
    one.drop("s")
    living.discard("one/1")
    two.recover_soon()
    assert published == []


def test_a_broker_publishes_those_of_its_last_run_when_it_starts():
    broker = make_broker()
    unused: Any = None
    old = module.Testaments(broker.store, lambda: "last run", unused, unused, unused, unused)
    value_of(old.keep("s", left("t")))
    broker.parts.testaments.recover_soon()
    assert value_of(broker.parts.retained.last("t")).body == b"1"


class Silent:
    def event(self, event, pattern):
        """Nothing is done with it."""

    def mail(self, mail):
        return True


def attach(broker):
    peer = broker.attach("test", "127.0.0.1")
    peer.bind(Silent())
    return peer


def fail_once(monkeypatch, store, verb):
    """Let the next call of *verb* fail without being done."""
    do = getattr(store, verb)

    def act(*arguments, **options):
        monkeypatch.setattr(store, verb, do)
        return fail(Unavailable("store"))

    monkeypatch.setattr(store, verb, act)


def test_one_that_can_not_be_published_yet_is_published_later(make, published, failures, works):
    one = make("one/1")
    value_of(one.keep("s", left("t")))
    failures.append(Unavailable("redis"))
    one.execute("s")
    assert (published, len(works)) == ([], 1)
    value_of(_done(works.pop(), works))
    one.execute("s")
    assert (len(published), works) == (1, [])


@pytest.mark.parametrize("verb", ["get", "set", "delete"])
def test_none_is_lost_when_the_store_is_away(make, published, works, store, monkeypatch, verb):
    one = make("one/1")
    value_of(one.keep("s", left("t")))
    fail_once(monkeypatch, store, verb)
    one.execute("s")
    value_of(_done(works.pop(), works))
    assert len(published) == (2 if verb == "delete" else 1)  # nobody knows whether it was removed
    one.execute("s")
    assert (len(published) <= 2, works) == (True, [])


def test_one_whose_publisher_is_lost_meanwhile_is_published_by_another(make, published, living, failures):
    one, two, three = make("one/1"), make("two/1"), make("three/1")
    value_of(one.keep("s", left("t")))
    living.discard("one/1")
    failures.append(Unavailable("redis"))
    two.recover_soon()
    three.recover_soon()
    assert published == []  # it is the other's, who lives
    living.discard("two/1")
    three.recover_soon()
    assert [each[0] for each in published] == ["three/1"]


def test_one_that_is_refused_is_logged_and_forgotten(make, published, failures, store):
    one = make("one/1")
    value_of(one.keep("s", left("t")))
    failures.append(RateLimited("limit", "channels"))
    with logging() as logged:
        one.execute("s")
    assert any("t was lost" in line for line in lines_of(logged))
    assert (published, value_of(store.range(module.SPACE, "", "~", 9))) == ([], [])


def test_one_on_a_stored_topic_is_stored_once_however_often_it_is_published(monkeypatch):
    broker = make_broker(durable_topics=("log",))
    value_of(broker.parts.testaments.keep("s", left("log")))
    fail_once(monkeypatch, broker.store, "delete")
    broker.parts.testaments.execute("s")
    cast(Any, broker.clock).advance(1)
    assert value_of(broker.store.range(module.SPACE, "", "~", 9)) == []
    assert [event.body for event in value_of(broker.channels.read("log", 0, 9))] == [b"1"]


def test_no_client_can_take_the_place_of_one_by_publishing_with_its_key():
    broker = make_broker(durable_topics=("log",))
    value_of(broker.parts.testaments.keep("s", left("log")))
    [(key, _)] = value_of(broker.store.range(module.SPACE, "", "~", 9))
    value_of(attach(broker).publish("log", "forged", b"2", key=f"testament {key}"))
    with pytest.raises(Invalid):
        attach(broker).publish("log", "forged", b"2", key=f"testament\0{key}")
    broker.parts.testaments.execute("s")
    assert [event.body for event in value_of(broker.channels.read("log", 0, 9))] == [b"2", b"1"]


@pytest.fixture
def slow(monkeypatch):
    """Return a broker whose store sets nothing before the list of what waits is fired."""
    broker, waiting = make_broker(), []
    do = broker.store.set

    def act(*arguments, **options):
        waiting.append(Deferred())
        return waiting[-1].addCallback(lambda _: do(*arguments, **options))

    monkeypatch.setattr(broker.store, "set", act)
    heard: list[Event] = []
    monkeypatch.setattr(broker.bus, "publish", heard.append)
    return broker, waiting, heard


@pytest.mark.parametrize("goodbye", [False, True])
def test_one_that_is_still_being_stored_when_its_session_ends(slow, goodbye):
    broker, waiting, heard = slow
    ann = attach(broker)
    ensureDeferred(ann.set_testament("t", "n", b"1")).addErrback(lambda failure: None)
    if goodbye:
        ann.drop_testament()
    ann.close()
    while waiting:
        waiting.pop(0).callback(None)
    assert [event.body for event in heard] == ([] if goodbye else [b"1"])


def test_one_that_is_taken_back_while_it_is_stored_and_left_again(slow):
    broker, waiting, heard = slow
    ann = attach(broker)
    for body in (b"1", b"2"):
        ensureDeferred(ann.set_testament("t", "n", body))
        ann.drop_testament()
    ensureDeferred(ann.set_testament("t", "n", b"3"))
    while waiting:
        waiting.pop(0).callback(None)
    ann.close()
    while waiting:
        waiting.pop(0).callback(None)
    assert [event.body for event in heard] == [b"3"]


def test_one_is_stored_again_when_the_store_has_lost_it():
    broker = make_broker()
    ann = attach(broker)
    ann.appear()
    value_of(ann.set_testament("t", "n", b"1", retain=True))
    value_of(broker.store.delete(module.SPACE, value_of(broker.store.range(module.SPACE, "", "~", 9))[0][0]))
    broker.store.wiped()
    cast(Any, broker.clock).advance(1)
    ann.close()
    assert value_of(broker.parts.retained.last("t")).body == b"1"
