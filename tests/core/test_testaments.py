"""Testaments of sessions: published once, by their node or, when that is gone, by another."""

from __future__ import annotations

from typing import Any

import pytest

from broker.core import testaments as module
from broker.testing import make_broker, value_of


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
def make(store, published, living):
    def make(node):
        living.add(node)

        async def lives(other):
            return other in living

        async def publish(event, retain):
            published.append((node, event.topic, event.body, event.source, retain))

        return module.Testaments(
            store, lambda: node, lambda: node in living, lives, lambda work: value_of(_done(work)), publish
        )

    return make


async def _done(work):
    await work()


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
    one.execute("s1", left("t1"))  # it was only thought to be gone
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
