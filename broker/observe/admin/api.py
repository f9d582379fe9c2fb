"""The admin API: ``/admin/api/`` of the admin port, JSON.

What it shows is read from the parts of the core when it is asked for: nothing is counted for it while messages pass.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, cast

import attrs
import msgspec
from twisted.logger import Logger
from zope.interface import implementer

from broker.config.settings import Settings
from broker.core.parts import Parts
from broker.core.service import Broker
from broker.errors import BrokerError, Invalid, NotFound
from broker.interfaces import IHttpDialect, IPeer
from broker.jsontext import ERRORS
from broker.messages import HttpRequest, Response
from broker.observe.admin.actions import OPERATOR, Action, Actions, Kick, told
from broker.observe.admin.connections import Connections
from broker.observe.admin.history import History
from broker.observe.admin.live import live
from broker.observe.admin.names import Names
from broker.observe.admin.node import NodeViews, TokenQuery, gauges, totals
from broker.observe.admin.others import OF_A_NODE, REVOKE, OtherNodes, split_node
from broker.observe.admin.paging import Page, Query, read_query
from broker.observe.admin.problems import answer, failed, problem
from broker.observe.admin.queues import DeadQuery, WorkQueues
from broker.observe.admin.stored import CursorQuery, Lags, Stored

log = Logger()

PREFIX = "/admin/api/"
JSON = "application/json"
OTHERS = ("status", "session", "history", "live")  # what is shown besides the lists


@attrs.frozen
class View:
    """A list.

    Attributes:
        summary: what it shows, for the index.
        query: what it may be asked.
        read: returns a page.
    """

    summary: str
    query: type[Query]
    read: Callable[[Any], Awaitable[Page]]


class SessionQuery(msgspec.Struct, forbid_unknown_fields=True):
    """``id``: of the session."""

    id: str


class TokenId(msgspec.Struct):
    """``id``: of a token, which another node is to revoke."""

    id: str


class NoQuery(msgspec.Struct, forbid_unknown_fields=True):
    """No parameters."""


def views(
    connections: Connections, names: Names, stored: Stored, queues: WorkQueues, node: NodeViews
) -> dict[str, View]:
    """Return all lists by their names."""
    return {
        "connections": View("The connections of this node.", Query, connections.connections),
        "sessions": View("The sessions of this node: who is connected.", Query, connections.sessions),
        "topics": View("Topics and patterns that somebody on this node listens to.", Query, names.topics),
        "services": View("What clients of this node perform.", Query, names.services),
        "channels": View("Stored topics, with the lag of the slowest cursor.", Query, stored.channels),
        "cursors": View("Cursors, with their lag.", CursorQuery, stored.cursors),
        "queues": View("Work queues, and what they have.", Query, queues.queues),
        "dead": View("The dead letters of a queue.", DeadQuery, queues.dead),
        "keys": View("Keys, without their values.", Query, stored.keys),
        "tokens": View("Minted tokens in use on this node, or revoked.", TokenQuery, node.tokens),
        "refusals": View("The last refusals of this node.", Query, node.refusals),
        "settings": View("The settings in effect, secrets masked.", Query, node.settings),
        "nodes": View("The nodes that share the store.", Query, node.nodes),
    }


@implementer(IHttpDialect)
class AdminApi:
    """Answers requests, served as a dialect is.

    Attributes:
        views: the lists, by their names.
        actions: by their names.

    Args:
        broker: whose parts are shown.
        history: what it has done lately.
        open_connections: returns the connections of the public port.
        settings: returns those in effect; by default those that the broker was made with.
        drain, set_level: see ``Actions``.
    """

    name = "admin-api"
    http_paths = (PREFIX,)

    def __init__(
        self,
        broker: Broker,
        history: History,
        open_connections: Callable[[], Iterable[Any]] = tuple,
        settings: Callable[[], Settings] | None = None,
        drain: Callable[[], object] | None = None,
        set_level: Callable[[str], object] | None = None,
    ) -> None:
        self._broker, self._history = broker, history
        parts: Parts = broker.parts
        self._connections = connections = Connections(parts, open_connections)
        operators = getattr(parts.cluster, "operators", None)
        self._others = OtherNodes(broker.bus.node, operators)
        if operators is not None:
            operators.answer = self._answer_node
        node = NodeViews(parts, settings or (lambda: broker.settings))
        self.views = views(connections, Names(parts), Stored(parts, Lags(parts)), WorkQueues(parts), node)
        self.actions: dict[str, Action] = Actions(parts, connections, drain, set_level).table

    def refusal(self, status: int, message: str, request: HttpRequest) -> Response:
        """Return how this API says what the port refuses."""
        return problem(status, message)

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Return a list, or what an action has done."""
        name = request.path.removeprefix(PREFIX)
        peer.admit(OPERATOR)  # whoever gets here has the secret, if there is one
        try:
            if name not in self.actions and name not in self.views and name not in ("", *OTHERS):
                return problem(404, f"Nothing is at {request.path[:200]}.")
            refused = _unfit(request) if name in self.actions else None
            if refused is not None:
                return refused
            node, query = split_node(request.query)
            if node in ("", self._broker.bus.node):
                return await self._answer(peer, attrs.evolve(request, query=query), name)
            return await self._others.ask(node, name, request, query)
        except BrokerError as error:
            return failed(error)

    async def _answer_node(self, node: str, asked: Any) -> tuple[int, bytes]:
        """Answer what an operator has asked at the node that is called *node*; see ``OperatorLink.answer``."""
        peer = self._broker.attach(self.name, "")
        peer.admit(OPERATOR)
        address = f"node {node}"
        request = HttpRequest(asked.method, PREFIX + asked.name, asked.query, {}, asked.body, address=address)
        try:
            if asked.name == REVOKE:
                await self._revoke_here(msgspec.json.decode(asked.body, type=TokenId).id)
                response = answer({"revoked": True})
            elif asked.name in OF_A_NODE:
                response = await self._answer(peer, request, asked.name, alone=True)
            else:
                response = problem(404, "Nodes are not asked for that.")
        except BrokerError as error:
            response = failed(error)
        finally:
            peer.close()
        return response.status, cast(bytes, response.body)

    async def _answer(self, peer: IPeer, request: HttpRequest, name: str, alone: bool = False) -> Response:
        """Answer for this node; what is for all nodes is done here only if *alone*."""
        if name in self.actions:
            return await self._act(peer, request, name, alone)
        if request.method not in ("GET", "HEAD"):
            return problem(405, f"{request.method} is not allowed.", headers=(("Allow", "GET, HEAD"),))
        return await self._show(peer, request, name)

    async def revoke(self, id: str) -> None:
        """Revoke the token with an *id* by which somebody lives, on whatever node.

        Raises:
            NotFound: nobody does.
        """
        try:
            await self._revoke_here(id)
        except NotFound:
            await self._others.revoke(id)

    async def _revoke_here(self, id: str) -> None:
        expires = self._broker.parts.lifetimes.expiry(id)
        if expires is None:
            raise NotFound("token", id)
        await self._broker.tokens.revoke_id(id, expires)

    async def _show(self, peer: IPeer, request: HttpRequest, name: str) -> Response:
        view = self.views.get(name)
        if view is not None:
            page = await view.read(read_query(view.query, request.query))
            return answer({"node": self._broker.bus.node, **page.content()})
        if name == "session":
            return answer(self._connections.session(read_query(SessionQuery, request.query).id))
        read_query(NoQuery, request.query)
        if name == "live":
            return live(peer, self._history)
        if name == "history":
            return answer({"items": self._history.samples})
        return answer(self._status() if name else self._index())

    def _status(self) -> dict[str, Any]:
        broker = self._broker
        about = broker.about.details()
        return {
            **about,
            "node": broker.bus.node,
            "pid": os.getpid(),
            "time": broker.store.wall.time(),
            "ready": broker.ready(),
            "draining": broker.draining,
            "totals": {**totals(broker.metrics), "sessions": len(broker.parts.lifetimes)},
            "gauges": gauges(broker.metrics),
            "connections": {name: number for name, number in broker.metrics.connections.items() if number},
        }

    def _index(self) -> dict[str, Any]:
        return {
            "views": {name: view.summary for name, view in self.views.items()},
            "actions": {name: action.summary for name, action in self.actions.items()},
        }

    async def _act(self, peer: IPeer, request: HttpRequest, name: str, alone: bool) -> Response:
        """Do what is asked for, and log one line, whether it was done or not."""
        action = self.actions[name]
        try:
            body = _body(action, request)
            if isinstance(body, Kick) and not (alone or body.connection) and self._others.names:
                done, said = await self._others.kick(body, partial(action.run, peer, body))
            else:
                done, said = await action.run(peer, body)
        except BrokerError as error:
            log.warn("admin: {action} for {address} failed: {why}", **_who(request, name), why=error.code)
            raise
        log.info("admin: {action} for {address}: {said}", **_who(request, name), said=told(said) or "done")
        return answer(done)


def _unfit(request: HttpRequest) -> Response | None:
    """Return why *request* can not be one for an action, or None."""
    if request.method != "POST":
        return problem(405, f"{request.method} is not allowed.", headers=(("Allow", "POST"),))
    # A page of another origin can not send this type without asking before.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        return problem(415, f"The Content-Type must be {JSON}.")
    return None


def _who(request: HttpRequest, action: str) -> dict[str, str]:
    return {"action": action, "address": request.address or "unix"}


def _body(action: Action, request: HttpRequest) -> Any:
    """Return the body of *request*.

    Raises:
        Invalid: it is no JSON, or not as *action* has it.
    """
    try:
        return msgspec.json.decode(request.body or b"{}", type=action.body)
    except ERRORS as error:
        raise Invalid("body", message=f"The body is wrong: {error}.") from None
