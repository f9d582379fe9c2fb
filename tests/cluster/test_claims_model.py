"""Two nodes that want one name, in any order of what they ask, what is answered and what is lost."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from broker.cluster.claims import Claims
from broker.errors import BrokerError, NotDone, Taken, Unavailable

NODES = st.sampled_from(["a", "b"])
NAME = "n"


class Registry:
    """What all nodes share: the leases, and who holds the name under which."""

    def __init__(self) -> None:
        self.numbers = 0
        self.leases: dict[str, int] = {}
        self.shared = True
        self.entries: dict[str, int] = {}

    def holders(self) -> list[str]:
        return [node for node, number in self.entries.items() if self.leases.get(node) == number]

    def claim(self, node: str, shared: bool) -> None:
        others = [each for each in self.holders() if each != node]
        if others and not (shared and self.shared):
            raise Taken("exists", NAME)
        self.shared = shared
        self.entries = {each: self.leases[each] for each in [*others, node]}

    def release(self, node: str) -> None:
        self.entries.pop(node, None)


class Bus:
    """Does what a node asks in its order, when the test says so, and answers when it says so."""

    def __init__(self, registry: Registry, node: str) -> None:
        self.registry, self.node = registry, node
        self.lease = self.unbroken_since = 0
        self.asked: list[tuple[Callable[[], Any], int, Deferred[Any]]] = []
        self.done: list[tuple[Any, Deferred[Any]]] = []

    def _ask(self, do: Callable[[], Any]) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        if self.lease:
            self.asked.append((do, self.lease, answer))
        else:
            answer.errback(NotDone("lease"))
        return answer

    def claim(self, name: str, *, shared: bool = False) -> Deferred[None]:
        return self._ask(lambda: self.registry.claim(self.node, shared))

    def claim_all(self, names: Mapping[str, bool], new: Container[str] = ()) -> Deferred[dict[str, str]]:
        def do() -> dict[str, str]:
            try:
                self.registry.claim(self.node, names[NAME])
            except Taken:
                return {NAME: "other"}
            return {}

        return self._ask(do)

    def release(self, *names: str) -> Deferred[bool]:
        def do() -> bool:
            self.registry.release(self.node)
            return True

        return self._ask(do).addErrback(lambda failure: isinstance(failure.value, NotDone))

    def do_next(self) -> None:
        if self.asked:
            do, number, answer = self.asked.pop(0)
            result: Any
            if self.registry.leases.get(self.node) != number:
                result = NotDone("lease")
            else:
                try:
                    result = do()
                except BrokerError as error:
                    result = error
            self.done.append((result, answer))

    def answer_next(self, lose: bool = False) -> None:
        if self.done:
            result, answer = self.done.pop(0)
            if lose:
                result = Unavailable("redis")
            if isinstance(result, Exception):
                answer.errback(result)
            else:
                answer.callback(result)


class Node:
    """The claims of a node, its clients that hold the name, and those that are getting it."""

    def __init__(self, registry: Registry, name: str) -> None:
        self.name = name
        self.bus, self.clock = Bus(registry, name), Clock()
        self.holding: list[bool] = []  # of each client, whether it shares
        self.joining: list[Deferred[None]] = []
        needed = lambda _: bool(self.holding)  # noqa: E731
        self.claims = Claims(self.bus, self.clock, needed, self._lost, _nothing, _nothing)

    def _lost(self, _: str) -> None:
        self.holding.clear()
        self.claims.release(NAME)

    def join(self, shared: bool) -> None:
        if self.holding and not (shared and all(self.holding)):
            return  # the registry of this node has refused it
        try:
            claim, granted = self.claims.join(NAME, shared)
        except Taken:
            return
        self.joining.append(granted)

        def end(result: Any) -> None:
            self.joining.remove(granted)
            free = not self.holding or (shared and all(self.holding))
            if result is None and self.claims.holds(NAME) and free:
                self.holding.append(shared)
            self.claims.leave(claim)

        granted.addBoth(end)

    def settle(self) -> None:
        for _ in range(20):
            while self.bus.asked or self.bus.done:
                self.bus.do_next()
                self.bus.answer_next()
            self.clock.advance(1)


def _nothing(*_: object) -> None:
    return None


class TwoNodes(RuleBasedStateMachine):
    """See above."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry()
        self.nodes = {name: Node(self.registry, name) for name in "ab"}
        for name in "ab":
            self.renew(name)

    @rule(name=NODES, shared=st.booleans())
    def join(self, name: str, shared: bool) -> None:
        self.nodes[name].join(shared)

    @rule(name=NODES)
    def leave(self, name: str) -> None:
        node = self.nodes[name]
        if node.holding:
            node.holding.pop()
            node.claims.release(NAME)

    @rule(name=NODES)
    def cancel(self, name: str) -> None:
        for joining in self.nodes[name].joining[:1]:
            joining.cancel()

    @rule(name=NODES)
    def do_next(self, name: str) -> None:
        self.nodes[name].bus.do_next()

    @rule(name=NODES, lose=st.booleans())
    def answer_next(self, name: str, lose: bool) -> None:
        self.nodes[name].bus.answer_next(lose)

    @rule(name=NODES)
    def wait(self, name: str) -> None:
        self.nodes[name].clock.advance(1)

    @rule(name=NODES)
    def lapse(self, name: str) -> None:
        node = self.nodes[name]
        if node.bus.lease:
            node.bus.lease = 0  # sooner than the others see it
            node.claims.lapsed()

    @rule(name=NODES)
    def expire(self, name: str) -> None:
        if not self.nodes[name].bus.lease:
            self.registry.leases.pop(name, None)

    @rule(name=NODES)
    def renew(self, name: str) -> None:
        node = self.nodes[name]
        if not node.bus.lease:
            self.registry.numbers += 1
            self.registry.leases[name] = node.bus.lease = node.bus.unbroken_since = self.registry.numbers
            node.claims.leased()

    @rule(name=NODES)
    def learn_that_the_names_may_be_forgotten(self, name: str) -> None:
        if self.nodes[name].bus.lease:
            self.nodes[name].claims.leased()

    @invariant()
    def a_name_that_is_not_shared_has_one_holder(self) -> None:
        holding = [node for node in self.nodes.values() if node.holding and node.claims.holds(NAME)]
        alone = [node for node in holding if not all(node.holding)]
        assert len(holding) < 2 or not alone
        assert all(len(node.holding) == 1 or all(node.holding) for node in self.nodes.values())

    def teardown(self) -> None:
        for name, node in self.nodes.items():
            self.renew(name)
            node.settle()
        for node in self.nodes.values():
            node.settle()
        assert not any(node.joining for node in self.nodes.values())
        assert set(self.registry.holders()) == {name for name, node in self.nodes.items() if node.holding}
        for node in self.nodes.values():
            assert node.claims.holds(NAME) is bool(node.holding)
            node.holding.clear()
            node.claims.release(NAME)
            node.settle()
            assert len(node.claims) == 0
            assert node.clock.getDelayedCalls() == []
        assert self.registry.holders() == []


TestTwoNodes = TwoNodes.TestCase
TestTwoNodes.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
