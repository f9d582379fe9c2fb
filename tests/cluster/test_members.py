"""Members of topics on three nodes of one process: every node comes to know the same, whatever is lost."""

from __future__ import annotations

import json
from random import Random
from typing import Any, cast

import pytest
from twisted.internet.task import Clock

from broker.cluster import members as shared
from broker.cluster.members import SharedMembers
from broker.cluster.messenger import NodeMessenger
from broker.core.members import GRACE
from tests.cluster.test_remote_calls import LOST, LOST_UNKNOWN, Bus, Wire

BEAT = 1.0


class MemberBus(Bus):
    @property
    def others(self):
        return [address for address in self.nodes if address != self.address]


class Node:
    def __init__(self, wire, address):
        self.clock, self.bus, self.wire = Clock(), MemberBus(wire, address), wire
        self.heard: list[tuple[str, str, str]] = []
        self.members = SharedMembers(self.clock, self.clock.seconds, self.hear)
        self.members.use(cast(Any, self.bus), NodeMessenger(cast(Any, self.bus), self.clock))
        wire.nodes[address] = self

    def hear(self, event):
        topic = event.topic.removeprefix("broker.presence.")
        self.heard.append((event.name, topic, json.loads(event.body)["id"]))

    def names(self):
        return []

    @property
    def present(self):
        return {topic: sorted(members) for topic, members in self.members._topics.items()}

    @property
    def added_up(self):
        """What the joins and leaves that were heard here add up to."""
        present: dict[str, set[str]] = {}
        for name, topic, client in self.heard:
            known = present.setdefault(topic, set())
            assert (client in known) == (name == "leave")
            (known.add if name == "join" else known.remove)(client)
        return {topic: sorted(clients) for topic, clients in present.items() if clients}


@pytest.fixture
def wire():
    return Wire()


@pytest.fixture
def nodes(wire):
    nodes = [Node(wire, f"node{number}/1") for number in range(3)]
    beat(wire)
    return nodes


def beat(wire, times=1):
    for _ in range(times):
        for node in wire.nodes.values():
            node.members.beat()
        wire.pass_time(BEAT)


def test_members_of_one_node_are_known_to_all(wire, nodes):
    one, _, _ = nodes
    one.members.enter("chat", "ann", "s1", b'"hi"')
    wire.settle()
    assert [node.heard for node in nodes] == [[("join", "chat", "ann")]] * 3
    assert [node.members.of("chat")[0].info for node in nodes] == [b'"hi"'] * 3
    one.members.leave("s1")
    wire.pass_time(GRACE + 0.1)
    assert [node.heard[1:] for node in nodes] == [[("leave", "chat", "ann")]] * 3


def test_who_comes_back_to_another_node_in_time_has_not_left(wire, nodes):
    one, two, _ = nodes
    one.members.enter("chat", "ann", "s1")
    one.members.leave("s1")
    wire.pass_time(GRACE - 0.5)
    two.members.enter("chat", "ann", "s2")
    wire.pass_time(2 * GRACE)
    assert [node.heard for node in nodes] == [[("join", "chat", "ann")]] * 3


def test_the_members_of_a_lost_node_go_with_its_lease(wire, nodes):
    one, two, three = nodes
    one.members.enter("chat", "ann", "s1")
    two.members.enter("chat", "ann", "s2")
    one.members.enter("chat", "bob", "s3")
    wire.settle()
    wire.end_lease(one)
    wire.pass_time(GRACE + 0.1)
    assert two.present == three.present == {"chat": ["ann"]}
    assert two.heard[2:] == three.heard[2:] == [("leave", "chat", "bob")]


def test_a_node_that_comes_later_learns_of_all(wire, nodes, monkeypatch):
    monkeypatch.setattr(shared, "PAGE", 3)
    for number in range(7):
        nodes[0].members.enter("chat", f"c{number}", f"s{number}")
    late = Node(wire, "late/1")
    beat(wire)
    assert late.present == nodes[0].present == nodes[1].present


def test_a_node_whose_lease_has_ended_and_begun_again_knows_all_again(wire, nodes):
    one, two, _ = nodes
    one.members.enter("chat", "ann", "s1")
    two.members.enter("chat", "bob", "s2")
    wire.settle()
    wire.end_lease(one, 9)
    beat(wire, 5)
    assert all(node.present == {"chat": ["ann", "bob"]} for node in nodes)
    assert all(node.added_up == node.present for node in nodes)


def test_a_session_that_takes_another_name_has_it_on_all_nodes(wire, nodes):
    nodes[0].members.enter("chat", "s1", "s1")
    nodes[0].members.rename("s1", "ann")
    wire.pass_time(GRACE + 0.1)
    assert [node.present for node in nodes] == [{"chat": ["ann"]}] * 3


@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_lost_all_nodes_know_the_same_at_the_end(wire, nodes, seed):
    random = Random(seed)
    lease = 10
    for step in range(150):
        node, client = random.choice(nodes), random.randrange(12)
        session = f"{node.bus.address}-{client}-{random.randrange(2)}"
        if random.random() < 0.6:
            node.members.enter(random.choice("ab"), f"c{client}", session)
        else:
            node.members.leave(session)
        if random.random() < 0.05:
            wire.fates.append(random.choice((LOST, LOST_UNKNOWN)))
        if random.random() < 0.03:
            lease += 1
            wire.end_lease(node, lease)
        if step % 5 == 0:
            beat(wire)
    wire.fates.clear()
    beat(wire, 20)
    assert nodes[0].present
    assert all(node.present == nodes[0].present for node in nodes)
    assert all(node.added_up == node.present for node in nodes)
