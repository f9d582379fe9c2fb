"""The other nodes, seen from the admin API of this one: what is asked of one, and what is for all of them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from twisted.internet.defer import Deferred

from broker.core.gathering import gather
from broker.errors import BrokerError, Invalid, NotFound
from broker.messages import HttpRequest, Response
from broker.observe.admin.actions import Done, Kick
from broker.observe.admin.problems import NO_STORE, PROBLEM

DEADLINE = 5.0  # seconds
REVOKE = "tokens/revoke"
# What differs from node to node.  All else is that of the store, or done by any of them.
OF_A_NODE = {
    *("connections", "sessions", "session", "topics", "services", "tokens", "refusals", "settings", "status"),
    *("history", "queues", "channels", "kick", "drain", "log-level"),
}


def split_node(query: str) -> tuple[str, str]:
    """Return which node the *query* of a URL asks for, "" for the one that gets it, and the rest of it."""
    pairs = parse_qsl(query, keep_blank_values=True)
    nodes = [value for name, value in pairs if name == "node"]
    if not nodes:
        return "", query  # as it is: what is wrong with it is told later
    if len(nodes) > 1:
        raise Invalid("query", message="A parameter is given twice.")
    return nodes[0], urlencode([(name, value) for name, value in pairs if name != "node"])


class OtherNodes:
    """Asks the nodes of a cluster.

    Args:
        node: the name of this one.
        link: a ``broker.cluster.operators.OperatorLink``; None: there are no others.
    """

    def __init__(self, node: str, link: Any) -> None:
        self.node, self._link = node, link

    @property
    def names(self) -> list[str]:
        """The names of the others."""
        return self._link.names if self._link is not None else []

    async def ask(self, node: str, name: str, request: HttpRequest, query: str) -> Response:
        """Return what *node* answers to *request*, which is for *name* with the rest of its *query*.

        Raises:
            Invalid: it would be the same here.
            NotFound: there is no such node.
            Unavailable: it does not answer.
        """
        if name not in OF_A_NODE:
            raise Invalid("node", message=f"{name or 'This'} is the same at all nodes: leave out the node.")
        if self._link is None:
            raise NotFound("node", node, message=f"There is no node {node[:100]}; this one is alone.")
        status, body = await self._link.ask(node, request.method, name, query, request.body, DEADLINE)
        return Response(status, body, "application/json" if status == 200 else PROBLEM, headers=(NO_STORE,))

    async def kick(self, kick: Kick, run: Callable[[], Awaitable[Done]]) -> Done:
        """Disconnect sessions at all nodes; *run* does it at this one.

        The answer has how many were disconnected, where, and which nodes have not answered.

        Raises:
            NotFound: there are none.
        """
        body = json.dumps({name: getattr(kick, name) for name in ("session", "client", "code", "reason")}).encode()
        names = self.names
        told = await gather(names, lambda name: Deferred.fromCoroutine(self._kicked(name, body)))
        counts: dict[str, int | None] = dict(zip(names, told, strict=True))
        try:
            counts[self.node] = (await run())[0]["disconnected"]
        except NotFound:
            counts[self.node] = 0
        found = {name: number for name, number in counts.items() if number}
        silent = [name for name, number in counts.items() if number is None]
        whom: Mapping[str, object] = {"session": kick.session} if kick.session else {"client": kick.client}
        if not found:
            ((kind, name),) = whom.items()
            more = f"; no answer of {', '.join(silent)}" if silent else ""
            raise NotFound(kind, str(name), message=f"There is no {kind} {str(name)[:100]} on any node{more}.")
        total = sum(found.values())
        return {"disconnected": total, "nodes": found, "silent": silent}, {**whom, "disconnected": total}

    async def _kicked(self, node: str, body: bytes) -> int | None:
        """Return how many *node* has disconnected; None: it has not said."""
        status, said = await self._told(node, "kick", body)
        if status == 404:
            return 0
        return int(json.loads(said)["disconnected"]) if status == 200 else None

    async def revoke(self, id: str) -> None:
        """Revoke the token with an *id* at whichever of the others somebody lives by it.

        Raises:
            NotFound: nobody does, of those that have answered.
        """
        names, body = self.names, json.dumps({"id": id}).encode()
        told = await gather(names, lambda name: Deferred.fromCoroutine(self._told(name, REVOKE, body)))
        answers = {name: status for name, (status, _) in zip(names, told, strict=True)}
        if 200 not in answers.values():
            silent = [name for name, status in answers.items() if status != 404]
            where = "any" if names else "this"
            more = f"; no answer of {', '.join(silent)}" if silent else ""
            raise NotFound("token", id, message=f"Nobody on {where} node lives by such a token{more}.")

    async def _told(self, node: str, name: str, body: bytes) -> tuple[int, bytes]:
        """Return what *node* answers to *name*; the status is 0 when it does not."""
        try:
            status, said = await self._link.ask(node, "POST", name, "", body, DEADLINE)
        except BrokerError:
            return 0, b""
        return status, said
