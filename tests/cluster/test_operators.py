"""What operators ask of other nodes: they get an answer, or are told in time that there is none."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from broker.cluster.messenger import NodeMessenger
from broker.cluster.operators import OperatorLink
from broker.errors import NotFound, Unavailable
from broker.testing import value_of
from tests.cluster.test_members import MemberBus
from tests.cluster.test_remote_calls import LOST_UNKNOWN, Wire
from tests.support.logs import failures_of

TIMEOUT = 5.0


class Node:
    def __init__(self, wire: Any, name: str) -> None:
        self.clock, self.bus, self.wire = Clock(), MemberBus(wire, f"{name}/1"), wire
        self.operators = OperatorLink(NodeMessenger(cast(Any, self.bus), self.clock))
        self.asked: list[Any] = []
        self.operators.answer = self.answer
        wire.nodes[self.bus.address] = self

    def names(self) -> list[str]:
        return []

    async def answer(self, node: str, question: Any) -> Any:
        self.asked.append((node, question.method, question.name, question.query, question.body))
        return await succeed((200, b'"here"'))

    def ask(self, node: str) -> Any:
        asking = Deferred.fromCoroutine(self.operators.ask(node, "GET", "sessions", "q=a", b"", TIMEOUT))
        self.wire.settle()
        return asking


@pytest.fixture
def nodes() -> list[Node]:
    wire = Wire()
    return [Node(wire, name) for name in ("one", "two", "three")]


def test_a_node_answers_what_is_asked_of_it_alone(nodes: list[Node]) -> None:
    one, two, three = nodes
    assert one.operators.names == ["three", "two"]
    assert value_of(one.ask("two")) == (200, b'"here"')
    assert (two.asked, three.asked) == ([("one", "GET", "sessions", "q=a", b"")], [])


def test_a_node_that_is_not_there_is_told(nodes: list[Node]) -> None:
    with pytest.raises(NotFound, match=r"There is no node four; there are three, two\."):
        value_of(nodes[0].ask("four"))


def test_a_node_that_is_silent_or_has_gone_is_told_in_time(nodes: list[Node]) -> None:
    one, two, three = nodes
    two.operators.answer = lambda node, question: Deferred()
    three.operators.answer = lambda node, question: Deferred()
    silent, gone = one.ask("two"), one.ask("three")
    one.wire.end_lease(three)
    one.wire.settle()
    with pytest.raises(Unavailable):
        value_of(gone)
    assert not silent.called
    one.wire.pass_time(TIMEOUT + 0.1)
    with pytest.raises(Unavailable, match=r"Node two has not answered within 5 s\."):
        value_of(silent)
    assert one.operators._asked == {}


def test_what_does_not_arrive_is_given_up(nodes: list[Node]) -> None:
    nodes[0].wire.fate = LOST_UNKNOWN
    asking = nodes[0].ask("two")
    nodes[0].wire.pass_time(TIMEOUT + 0.1)
    with pytest.raises(Unavailable):
        value_of(asking)


def test_an_answer_that_fails_is_one(nodes: list[Node], logged: Any) -> None:
    one, two, _ = nodes
    two.operators.answer = lambda node, question: fail(ZeroDivisionError())
    assert value_of(one.ask("two")) == (500, b"{}")
    assert len(failures_of(logged)) == 1
