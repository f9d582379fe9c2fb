"""Operators who ask one node of a cluster for what is at another, or at all."""

from __future__ import annotations

import json
from typing import Any

import pytest

from broker.errors import NotFound, Unavailable
from broker.observe.admin.api import AdminApi
from broker.observe.admin.others import OF_A_NODE
from tests.observe.test_admin_api import Admin, do
from tests.support.logs import lines_of


class Link:
    """The other nodes, some of them silent."""

    def __init__(self) -> None:
        self.nodes: dict[str, Link] = {}
        self.silent: set[str] = set()
        self.answer: Any = None

    @property
    def names(self) -> list[str]:
        return sorted(self.nodes)

    async def ask(self, node: str, method: str, name: str, query: str, body: bytes, timeout: float) -> Any:
        if node not in self.nodes:
            raise NotFound("node", node)
        if node in self.silent:
            raise Unavailable("node", node, message=f"Node {node} has not answered.")
        return await self.nodes[node].answer("one", Question(method, name, query, body))


class Question:
    def __init__(self, *said: Any) -> None:
        self.method, self.name, self.query, self.body = said


class Node(Admin):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.link = Link()
        self.broker.bus.node = name
        self.broker.parts.cluster.operators = self.link  # type: ignore[attr-defined]
        self.api = AdminApi(self.broker, self.history, drain=self.drain)


@pytest.fixture
def nodes() -> tuple[Node, Node]:
    one, two = Node("one"), Node("two")
    one.link.nodes, two.link.nodes = {"two": two.link}, {"one": one.link}
    return one, two


def test_a_list_is_that_of_the_node_that_is_named(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    here, there = one.client("ann"), two.client("bob")
    for node, session in (("", here), ("one", here), ("two", there)):
        page = one.get(f"sessions?sort=client&node={node}")
        assert (page["node"], [row["id"] for row in page["items"]]) == (node or "one", [session.peer.id])
    assert one.get(f"session?node=two&id={there.peer.id}")["client"] == "bob"
    assert one.get("status?node=two")["node"] == "two"


def test_what_another_node_refuses_is_refused_in_its_words(nodes: tuple[Node, Node]) -> None:
    answer = nodes[0].ask("GET", "sessions?node=two&sort=nothing")
    assert (answer.status, answer.content_type) == (400, "application/problem+json")
    assert "not by nothing" in json.loads(answer.body)["detail"]


def test_an_action_is_done_at_the_node_that_is_named(nodes: tuple[Node, Node], logged: Any) -> None:
    one, two = nodes
    assert one.post("drain?node=two")[0] == 200
    assert (one.drained, two.drained) == (0, 1)
    assert lines_of(logged) == ["admin: drain for node one: done"]


@pytest.mark.parametrize(
    "path", ["sessions?node=three", "kick?node=three", "sessions?node=two&node=two", "keys?node=two"]
)
def test_a_node_that_can_not_be_asked_is_told(nodes: tuple[Node, Node], path: str) -> None:
    answer = nodes[0].ask("POST" if path.startswith("kick") else "GET", path, b"{}")
    assert answer.status == (404 if "three" in path else 400)


def test_a_node_that_is_alone_knows_no_others() -> None:
    assert Admin().ask("GET", "sessions?node=two").status == 404


def test_a_page_of_another_origin_can_not_act_at_another_node(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    assert one.ask("POST", "drain?node=two", b"{}", {"content-type": "text/plain"}).status == 415
    assert one.ask("GET", "drain?node=two").status == 405
    assert two.drained == 0


def test_nodes_are_asked_only_for_what_is_theirs(nodes: tuple[Node, Node]) -> None:
    assert not OF_A_NODE & {"publish", "call", "tokens/mint", "queues/drop", "live"}
    status, body = do(nodes[1].link.answer("one", Question("POST", "tokens/mint", "", b"{}")))
    assert (status, json.loads(body)["code"]) == (404, "NOT_FOUND")


def test_a_kick_is_for_all_nodes(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    here, there, other = one.client("ann"), two.client("ann"), two.client("bob")
    assert one.post("kick", client="ann") == (
        200,
        {"disconnected": 2, "nodes": {"two": 1, "one": 1}, "silent": []},
    )
    assert (here.ended, there.ended, other.ended) == ((1001, "disconnected by an operator"),) * 2 + (None,)
    assert one.post("kick", session=other.peer.id, code=1008)[1]["nodes"] == {"two": 1}
    assert other.ended[0] == 1008
    assert one.post("kick", session=other.peer.id)[0] == 404


def test_a_node_that_is_silent_at_a_kick_is_named(nodes: tuple[Node, Node]) -> None:
    one, _ = nodes
    one.link.silent.add("two")
    one.client("ann")
    assert one.post("kick", client="ann") == (200, {"disconnected": 1, "nodes": {"one": 1}, "silent": ["two"]})
    status, said = one.post("kick", client="ann")
    assert (status, said["detail"]) == (404, "There is no client ann on any node; no answer of two.")


def test_a_connection_is_one_of_the_node_that_is_asked(nodes: tuple[Node, Node]) -> None:
    # Its id is one of a node: another has one that is called so, too.
    assert nodes[0].post("kick", connection="connection-1")[1]["detail"].endswith("on this node.")


def test_a_token_is_revoked_by_its_id_at_whatever_node_somebody_lives_by_it(nodes: tuple[Node, Node]) -> None:
    one, two = nodes
    revoked = []

    def expiry(token: str) -> float | None:
        return 100.0 if token == "used" else None

    async def revoke(id: str, expires: float) -> None:
        revoked.append((id, expires))

    two.broker.parts.lifetimes.expiry = expiry  # type: ignore[method-assign]
    two.broker.tokens.revoke_id = revoke  # type: ignore[method-assign]
    do(one.api.revoke("used"))
    do(two.api.revoke("used"))
    assert revoked == [("used", 100.0)] * 2
    with pytest.raises(NotFound) as caught:
        do(one.api.revoke("other"))
    assert str(caught.value) == "Nobody on any node lives by such a token."
    one.link.silent.add("two")
    with pytest.raises(NotFound) as caught:
        do(one.api.revoke("used"))
    assert str(caught.value) == "Nobody on any node lives by such a token; no answer of two."
    with pytest.raises(NotFound) as caught:
        do(Admin().api.revoke("used"))
    assert str(caught.value) == "Nobody on this node lives by such a token."
