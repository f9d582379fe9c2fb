"""What a node knows, and says, of its lease and of the other nodes: without a Redis."""

from __future__ import annotations

import attrs
import pytest
from twisted.internet.task import Clock

from broker.buses.redis_lease import Lease
from tests.support.logs import lines_of, logging

LENGTH = 5.0  # seconds


@attrs.define(eq=False)
class Node:
    """A node that is called ``one``, whose renewals are answered as the test says."""

    clock: Clock = attrs.field(factory=Clock)
    lease: Lease = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.lease = Lease(
            "one/aa", LENGTH, self.clock, lapsed=lambda: None, leased=lambda: None, departed=lambda address: None
        )

    def renew(self, number: int, *others: str) -> None:
        answer = [("one/aa", number, ""), *((other, 7, "") for other in others)]
        self.lease.renewed(self.lease.now(), number, answer, moved=False)


@pytest.fixture
def node() -> Node:
    return Node()


def test_the_log_says_which_nodes_come_and_go(node: Node) -> None:
    with logging() as events:
        node.renew(1, "two/bb")
        node.renew(1, "two/bb", "three/cc")
        node.renew(1, "three/cc")
    assert lines_of(events) == [
        "node two is there",
        "node three is there",
        "node two is gone: it was stopped or killed, is frozen, or can not renew its lease",
    ]


def test_a_node_whose_lease_had_ended_is_not_heard_until_it_has_another(node: Node) -> None:
    node.renew(1, "two/bb")
    node.renew(1)
    assert not node.lease.learn("two/bb", 7)
    assert node.lease.learn("two/bb", 8)


def test_a_node_whose_lease_was_lost_with_the_data_is_heard_when_it_came_back_with_them(node: Node) -> None:
    node.renew(1, "two/bb")
    node.renew(1)
    node.renew(1, "two/bb")
    assert node.lease.learn("two/bb", 7)


def test_the_nodes_that_are_known_have_their_names(node: Node) -> None:
    assert node.lease.names == []
    node.renew(1, "two/bb")
    assert node.lease.names == ["one", "two"]
    node.clock.advance(LENGTH)
    assert node.lease.names == []


def test_a_lease_that_was_lost_and_is_there_again_is_told(node: Node) -> None:
    node.renew(1)
    with logging() as events:
        node.clock.advance(LENGTH)
        node.renew(2)
    lost, again = lines_of(events)
    assert lost.startswith("this node has lost its lease 1")
    assert again == "this node has a lease again: 2"


def test_a_lease_is_unbroken_until_there_was_a_time_without_one(node: Node) -> None:
    node.renew(1)
    node.renew(2)  # Redis has forgotten the first
    assert node.lease.unbroken_since == 1
    node.clock.advance(LENGTH)
    for _ in range(3):
        node.renew(5)
        assert node.lease.unbroken_since == 5
    node.renew(6)
    assert node.lease.unbroken_since == 5


def test_another_node_of_the_same_name_is_warned_of_once(node: Node) -> None:
    with logging() as events:
        for _ in range(20):
            node.renew(1, "one/bb")
            node.clock.advance(1.0)
    assert lines_of(events)[1:] == ["another node is called one, too: give each node a TXBROKER_NODE of its own"]


def test_a_node_that_was_killed_and_started_again_is_not_taken_for_two(node: Node) -> None:
    with logging() as events:
        for _ in range(6):
            node.renew(1, "one/bb")  # what is left of it
            node.clock.advance(1.0)
        for _ in range(20):
            node.renew(1)
            node.clock.advance(1.0)
    assert not any("too" in line for line in lines_of(events))
