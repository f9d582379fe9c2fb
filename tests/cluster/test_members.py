"""Members of topics on three nodes of one process: every node comes to know the same, whatever is lost."""

from __future__ import annotations

import json
from itertools import count
from random import Random
from typing import Any, cast

import pytest
from twisted.internet.task import Clock

from broker.cluster import members as shared
from broker.cluster.members import SharedMembers
from broker.cluster.messages import MemberList
from broker.cluster.messenger import NodeMessenger
from broker.core.members import GRACE
from broker.core.slices import SLICE, slices_of
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
        self.counted: list[int] = []
        self.members = SharedMembers(self.clock, self.clock.seconds, self.hear, self.counted.append)
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


def let_steps_last(*nodes):
    """Let *nodes* need a slice for each step of long work."""
    for node in nodes:
        slices_of(node.clock).now = count(0.0, SLICE).__next__


def test_one_loop_iteration_sends_one_page_and_notes_one_member(wire, nodes, monkeypatch):
    monkeypatch.setattr(shared, "PAGE", 2)
    one, late = nodes[0], Node(wire, "late/1")
    for number in range(6):
        one.members.enter("chat", f"c{number}", f"s{number}")
    let_steps_last(one, late)
    one.members.beat()
    wire.pass_time(BEAT)
    assert late.present == one.present
    assert (slices_of(one.clock).pauses, slices_of(late.clock).pauses >= 6) == (3, True)


def test_who_comes_and_goes_between_the_pages_is_told(wire, nodes, monkeypatch):
    monkeypatch.setattr(shared, "PAGE", 1)
    one, late = nodes[0], Node(wire, "late/1")
    for number in range(4):
        one.members.enter("chat", f"c{number}", f"s{number}")
    let_steps_last(one)
    one.members.beat()
    for session in ("s0", "s3"):
        one.members.leave(session)
    one.members.enter("chat", "dan", "s4")
    one.members.rename("s1", "bob")
    wire.pass_time(GRACE + 0.1)
    assert late.present == one.present == {"chat": ["bob", "c2", "dan"]}
    assert late.members._doubtful == {}


def test_a_page_has_few_bytes(wire, nodes):
    for number in range(100):
        nodes[0].members.enter("chat", f"c{number}", f"s{number}", b'"%b"' % (b"x" * 4000))
    wire.sent.clear()
    Node(wire, "late/1")
    beat(wire)
    pages = [message for message in wire.sent if isinstance(message, MemberList)]
    assert sum(len(page.members) for page in pages) == 100
    assert max(sum(len(info) for *_, info in page.members) for page in pages) < shared.PAGE_BYTES + 4100


def test_a_node_for_which_much_waits_gets_the_pages_later(wire, nodes, monkeypatch):
    one, late = nodes[0], Node(wire, "late/1")
    one.members.enter("chat", "ann", "s1")
    crowded = [True]
    monkeypatch.setattr(one.members._messenger, "is_crowded", lambda _: crowded[0])
    beat(wire, 3)
    assert late.present == {}
    crowded[0] = False
    wire.pass_time(0.2)
    assert late.present == one.present


def test_who_stops_while_it_sends_leaves_no_timer(wire, nodes, monkeypatch):
    monkeypatch.setattr(nodes[0].members._messenger, "is_crowded", lambda _: True)
    nodes[0].members.enter("chat", "ann", "s1")
    Node(wire, "late/1")
    nodes[0].members.beat()
    before = len(nodes[0].clock.getDelayedCalls())
    nodes[0].members.stop()
    assert len(nodes[0].clock.getDelayedCalls()) == before - 1


def test_what_members_of_other_nodes_take_is_counted(wire, nodes):
    one, two, _ = nodes
    one.members.enter("chat", "ann", "s1", b'"hi"')
    wire.settle()
    held = sum(two.counted)
    one.members.enter("chat", "ann", "s1", b'"hi there"')
    wire.settle()
    assert (sum(two.counted) - held, held > 500, one.counted) == (6, True, [])
    wire.end_lease(one)
    assert sum(two.counted) == 0


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


@pytest.mark.parametrize("seed", range(6))
def test_whatever_is_lost_all_nodes_know_the_same_at_the_end(wire, nodes, seed, monkeypatch):
    if seed % 2:
        monkeypatch.setattr(shared, "PAGE", 1)
        let_steps_last(*nodes)
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
    for node in nodes:
        others = node.members._others.values()
        assert sum(node.counted) == sum(size for known in others for _, size in known.values()) > 0
