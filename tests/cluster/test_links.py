"""What one node sends to another arrives exactly once and in order, whatever the bus does with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from broker.cluster import link as link_module
from broker.cluster import links as links_module
from broker.cluster.link import Link
from broker.cluster.links import Links
from broker.core.memory import Memory
from broker.errors import Unavailable

SETTLED = 30.0  # seconds after which nothing is under way any more


@attrs.frozen
class Fate:
    """What becomes of one frame: when its copies arrive, in seconds, and what its sender is told."""

    copies: tuple[float, ...] = (0.0,)
    told: bool | None = True  # None: that nobody knows
    after: float = 0.0


WELL = Fate()
LOST, NOT_SENT, UNKNOWN = Fate(()), Fate((), False), Fate((), None)


class Node:
    """One end of the links, with what it has sent, got and lost."""

    def __init__(self, network: Network, address: str, lease: int) -> None:
        self.network, self.address, self.number = network, address, lease
        self.seen: dict[str, int] = {}  # the leases of the others as of the last renewal
        self.links = Links(self, network.clock, network.memory.held)
        self.sent: list[int] = []
        self.open: set[int] = set()  # sent over the present link
        self.unsent: set[int] = set()
        self.got: list[int] = []
        self.broken = 0
        self.takes_back = False

    def put(self, number: int, size: int = 1, *, urgent: bool = False) -> bool:
        message = [number, bytes(size)]
        taken = self.links.put(self.other.address, message, size, number, urgent=urgent)
        if taken:
            self.sent.append(number)
            self.open.add(number)
        return taken

    @property
    def other(self) -> Node:
        return next(node for address, node in self.network.nodes.items() if address != self.address)

    # What links ask of their node.

    def lease(self) -> int:
        return self.number

    def lease_of(self, address: str) -> int:
        return self.seen.get(address, 0)

    def transmit(self, address: str, frame: bytes) -> Deferred[bool]:
        return self.network.transmit(self.address, address, frame)

    def encode(self, messages: list[Any]) -> bytes:
        return msgspec.msgpack.encode(messages)

    def decode(self, messages: msgspec.Raw) -> list[Any]:
        return cast(list[Any], msgspec.msgpack.decode(messages))

    def on_messages(self, link: Link, messages: list[Any]) -> None:
        self.got += [number for number, _ in messages]

    def on_refused(self, address: str, token: int) -> bool:
        if self.takes_back:
            self.unsent.add(token)
            self.open.discard(token)
        return self.takes_back

    def on_broken(self, address: str, unsent: list[int]) -> None:
        self.broken += 1
        self.open.clear()
        self.unsent.update(unsent)


class Network:
    """A bus that does with frames what ``fates`` say, and then all well."""

    def __init__(self) -> None:
        self.clock, self.memory = Clock(), Memory()
        self.fates: list[Fate] = []
        self.frames = 0
        self.nodes = {name: Node(self, name, number) for number, name in enumerate(("near", "far"), 1)}
        self.renew()

    def renew(self) -> None:
        """Let all nodes know the leases of all, as a renewal does."""
        leases = {address: node.number for address, node in self.nodes.items() if node.number}
        for node in self.nodes.values():
            before, node.seen = node.seen, leases
            for address, number in before.items():
                if leases.get(address) != number and address != node.address:
                    node.links.departed(address)

    def lapse(self, node: Node) -> None:
        node.number = 0
        node.links.lapsed()

    def lease(self, node: Node) -> None:
        node.number = node.number or 1 + max(each.number for each in self.nodes.values()) + self.frames

    def transmit(self, sender: str, address: str, frame: bytes) -> Deferred[bool]:
        self.frames += 1
        fate = self.fates.pop(0) if self.fates else WELL
        for delay in fate.copies:
            self.clock.callLater(delay, self._arrive, sender, self.nodes[sender].number, address, frame)
        result: Deferred[bool] = fail(Unavailable("redis")) if fate.told is None else succeed(fate.told)
        told: Deferred[bool] = Deferred()
        self.clock.callLater(fate.after, result.chainDeferred, told)
        return told

    def _arrive(self, sender: str, lease: int, address: str, frame: bytes) -> None:
        """Hand *frame* over, unless the *lease* under which it was sent has ended: the bus drops it then."""
        if lease == self.nodes[sender].number:
            self.nodes[address].links.received(sender, frame)

    def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.05)):
            self.clock.advance(0.05)

    def iterate(self) -> None:
        """Do what a reactor does in one iteration: what is due, but not what is called later by that."""
        now = self.clock.seconds()
        due: list[Any] = [each for each in self.clock.getDelayedCalls() if each.getTime() <= now]
        for call in due:
            if call.active():
                self.clock.calls.remove(call)
                call.called = True
                call.func(*call.args, **call.kw)

    def check(self) -> None:
        """Check what holds when time has passed."""
        for node in self.nodes.values():
            got = node.other.got
            assert got == sorted(set(got)), "each once, in order"
            assert node.open <= set(got), "all of the present link"
            assert not node.unsent & set(got), "what was surely not sent"
            assert node.links.kept == 0
        near, far = self.nodes["near"].links._links.get("far"), self.nodes["far"].links._links.get("near")
        assert (near is None) == (far is None)
        if near is not None and far is not None:
            assert (near.peer, far.peer) == (far.number, near.number), "of the same link"
        assert self.memory.used == 0
        assert self.clock.getDelayedCalls() == []


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    yield network
    network.pass_time(SETTLED)
    network.check()


@pytest.fixture
def near(network: Network) -> Node:
    return network.nodes["near"]


@pytest.fixture
def far(network: Network) -> Node:
    return network.nodes["far"]


def test_messages_of_one_loop_iteration_are_one_frame(network, near, far):
    for number in range(5):
        near.put(number)
    network.pass_time(0.05)
    assert (far.got, network.frames) == ([0, 1, 2, 3, 4], 1)


def test_a_frame_of_many_waits_for_more_that_the_next_iterations_bring(network, near, far):
    for number in range(2 * link_module.MANY):
        near.put(number)
        if number % link_module.MANY == link_module.MANY - 1:
            network.iterate()
            assert network.frames == 0
    network.iterate()  # that has brought nothing
    assert network.frames == 1
    network.pass_time(0.05)
    assert far.got == list(range(2 * link_module.MANY))


def test_a_frame_of_many_does_not_wait_for_long(network, near, far):
    iterations = 0
    for number in range(link_module.MANY):
        near.put(number)
    while not network.frames:
        iterations += 1
        near.put(link_module.MANY + iterations)
        network.iterate()
    assert iterations == link_module.MAX_HELD_BACK + 1


def test_a_frame_of_few_waits_for_nothing(network, near, far):
    for number in range(link_module.MANY - 1):
        near.put(number)
    network.iterate()
    assert network.frames == 1


def test_an_answer_takes_the_acknowledgement_along(network, near, far):
    near.put(1)
    network.pass_time(0.05)
    far.put(2)
    network.pass_time(0.05)
    assert (near.got, near.links.kept, network.frames) == ([2], 0, 2)


@pytest.mark.parametrize(
    "fate",
    [
        pytest.param(LOST, id="lost by the way"),
        pytest.param(NOT_SENT, id="nobody listened"),
        pytest.param(UNKNOWN, id="lost, and nobody knows"),
        pytest.param(Fate((0.0,), None), id="arrived, and nobody knows"),
        pytest.param(Fate((0.0, 0.2, 3.0)), id="doubled"),
        pytest.param(Fate((1.5,)), id="late"),
        pytest.param(Fate((0.0,), True, after=4.0), id="told late"),
    ],
)
def test_a_message_arrives_once(network, near, far, fate):
    network.fates = [fate]
    near.put(1)
    network.pass_time(0.2)
    near.put(2)
    network.pass_time(SETTLED)
    assert far.got == [1, 2]


def test_a_lost_acknowledgement_is_asked_for(network, near, far):
    network.fates = [WELL, LOST]
    near.put(1)
    network.pass_time(0.5)
    assert near.links.kept == 1
    network.pass_time(2.0)
    assert near.links.kept == 0


def test_what_was_missed_while_away_is_asked_for_at_once(network, near, far):
    near.put(1)
    network.pass_time(1.0)
    network.fates = [LOST]
    near.put(2)
    network.pass_time(0.05)
    far.links.missed()
    network.pass_time(0.2)
    assert far.got == [1, 2]


def test_a_message_that_was_surely_not_sent_can_be_taken_back(network, near, far):
    near.takes_back = True
    network.fates = [NOT_SENT]
    near.put(1)
    network.pass_time(0.05)
    near.takes_back = False
    near.put(2)
    network.pass_time(1.0)
    assert (near.unsent, far.got) == ({1}, [2])


def test_what_may_have_arrived_is_never_taken_back(network, near, far):
    near.takes_back = True
    network.fates = [UNKNOWN, NOT_SENT, NOT_SENT]
    near.put(1)
    network.pass_time(2.0)
    assert (near.unsent, far.got) == (set(), [1])


def test_nothing_is_taken_while_this_node_has_no_lease(network, near):
    network.lapse(near)
    assert not near.put(1)
    network.lease(near)
    assert near.put(2)


def test_the_end_of_either_lease_breaks_the_link_on_both_sides(network, near, far):
    for node in (near, far):
        near.put(node.number)
        network.pass_time(1.0)
        breaks = near.broken, far.broken
        network.lapse(node)
        network.lease(node)
        network.renew()
        assert (near.broken, far.broken) == (breaks[0] + 1, breaks[1] + 1)


def test_a_frame_for_a_lease_that_has_ended_is_dropped(network, near, far):
    network.fates = [Fate((2.0,))]
    near.put(1)
    network.pass_time(0.05)
    network.lapse(far)
    network.lease(far)
    network.renew()
    network.pass_time(SETTLED)
    assert (far.got, near.open) == ([], set())


def test_a_node_that_is_never_known_to_live_ends_the_link(network, near, far):
    far.number, near.seen = 0, {}
    near.put(1)
    network.pass_time(10.0)
    assert (near.broken, len(near.links._links)) == (1, 0)


def test_a_link_that_keeps_too_much_takes_only_what_is_urgent_and_breaks_at_the_double(network, near, far, monkeypatch):
    monkeypatch.setattr(links_module, "MAX_MESSAGES", 3)
    network.fates = [Fate((), True, after=3.0)]
    assert [near.put(number) for number in range(4)] == [True, True, True, False]
    assert [near.put(number, urgent=True) for number in (10, 11, 12)] == [True] * 3
    assert near.broken == 0
    assert not near.put(20, urgent=True)
    assert near.broken == 1
    network.pass_time(1.0)
    assert near.put(30)


def test_what_a_link_keeps_is_counted(network, near, far):
    network.fates = [LOST]
    near.put(1, 1000)
    network.pass_time(0.05)
    assert network.memory.held.used == 1000
    (holder,) = near.links._links.values()
    holder.shed()
    assert network.memory.held.used == 0
    assert near.broken == 1


def test_large_messages_go_in_several_frames(network, near, far, monkeypatch):
    monkeypatch.setattr(link_module, "MAX_FRAME_BYTES", 1000)
    network.fates = [WELL, LOST, LOST, UNKNOWN]
    for number in range(40):
        near.put(number, 300)
    network.pass_time(SETTLED)
    assert far.got == list(range(40))


def test_many_messages_are_acknowledged_before_the_timer(network, near, far):
    for number in range(link_module.ACK_MESSAGES):
        near.put(number)
    network.pass_time(0.05)
    assert near.links.kept == 0


FATES = st.lists(
    st.builds(
        Fate,
        st.sampled_from([(), (0.0,), (0.0, 0.0), (0.3,), (0.0, 2.0), (6.0,)]),
        st.sampled_from([True, True, None]),
        st.sampled_from([0.0, 0.0, 0.1, 2.5]),
    )
    | st.builds(Fate, st.just(()), st.just(False), st.sampled_from([0.0, 1.0])),
    max_size=12,
)
STEPS = st.lists(
    st.tuples(st.just("put"), st.sampled_from(["near", "far"]), st.integers(1, 3))
    | st.tuples(st.just("wait"), st.just(""), st.sampled_from([1, 2, 4, 24, 60]))
    | st.tuples(
        st.sampled_from(["lapse", "lease", "shed", "missed", "choosy"]), st.sampled_from(["near", "far"]), st.just(0)
    )
    | st.tuples(st.just("renew"), st.just(""), st.just(0)),
    max_size=25,
)


@given(FATES, STEPS)
def test_whatever_happens_messages_arrive_once_and_in_order(fates, steps):
    network = Network()
    network.fates = fates
    number = 0
    for step, name, many in steps:
        node = network.nodes[name or "near"]
        if step == "put":
            for _ in range(many):
                node.put(number := number + 1)
        elif step == "wait":
            network.pass_time(many / 20)
        elif step == "shed":
            for each in list(node.links._links.values()):
                each.shed()
        elif step == "missed":
            node.links.missed()
        elif step == "choosy":
            node.takes_back = not node.takes_back
        elif step == "renew":
            network.renew()
        else:
            getattr(network, step)(node)
    for node in network.nodes.values():
        network.lease(node)
    network.renew()
    network.fates.clear()
    network.pass_time(SETTLED)
    network.check()
