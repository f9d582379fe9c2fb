"""The admin API of a daemon with several workers: what it shows and does is that of all of them.

What is stored, and what reaches all nodes, any worker answers.  What each has of its own is asked of all and joined;
``node=`` asks one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as NoReply
from twisted.logger import Logger
from zope.interface import implementer

from broker.app.workers.merged import MergedHistory, joined_rows
from broker.app.workers.process import WorkerProcess
from broker.app.workers.sums import totals
from broker.config.settings import Settings
from broker.core.gathering import gather
from broker.core.slices import slices_of
from broker.core.time_limits import within
from broker.errors import BrokerError, Invalid, Unavailable
from broker.interfaces import IHttpDialect, IPeer
from broker.messages import HttpRequest, Response
from broker.observe.admin.api import PREFIX
from broker.observe.admin.live import live
from broker.observe.admin.node import SETTING_SORTS
from broker.observe.admin.others import split_node
from broker.observe.admin.paging import MAX_LIMIT, Query, page_of, read_query
from broker.observe.admin.problems import answer, failed, problem
from broker.observe.catalog import CATALOG, LABEL, MAX

log = Logger()

DEADLINE = 6.0  # seconds: a worker that asks another node waits for a second less
CALL_DEADLINE = 70.0  # seconds: a procedure may be called that takes a minute
OF_EACH = ("connections", "sessions", "topics", "services", "tokens", "refusals")  # lists that are joined
UNTIL_FOUND = ("session", "kick", "tokens/revoke")  # asked of one worker after the other
FOR_ALL = ("drain", "log-level")
UNKNOWN = 404


class Workers(Protocol):
    """What is needed of the ``Supervisor``."""

    workers: dict[int, WorkerProcess]
    draining: bool
    restarts: int

    @property
    def serving(self) -> list[WorkerProcess]:
        """Those that can be asked."""

    def reasons(self) -> list[str]:
        """Return why none can do its work."""

    def drain(self) -> None:
        """Let the clients go."""


@implementer(IHttpDialect)
class WorkersApi:
    """Answers the requests of operators.

    Args:
        workers: the supervisor.
        clock: the reactor.
        settings: returns those in effect.
        history: of all workers.
        about: returns what the daemon is.
        set_level: sets the lowest level that the supervisor logs.
    """

    name = "admin-api"
    http_paths = (PREFIX,)

    def __init__(
        self,
        workers: Workers,
        clock: Any,
        settings: Callable[[], Settings],
        history: MergedHistory,
        about: Callable[[], Mapping[str, Any]],
        set_level: Callable[[str], object] | None = None,
    ) -> None:
        self._workers, self._clock, self._settings = workers, clock, settings
        self._history, self._about, self._set_level = history, about, set_level
        self._own: dict[str, Callable[[IPeer, HttpRequest], Awaitable[Response]]] = {
            "status": self._status,
            "settings": self._show_settings,
            "history": self._show_history,
            "live": self._live,
            "nodes": self._nodes,
            **dict.fromkeys(OF_EACH, self._joined),
            **dict.fromkeys(UNTIL_FOUND, self._found),
            **dict.fromkeys(FOR_ALL, self._all_do),
        }

    def refusal(self, status: int, message: str, request: HttpRequest) -> Response:
        """Return how this API says what the port refuses."""
        return problem(status, message)

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Return what the workers answer."""
        try:
            node, query = split_node(request.query)
            own = self._own.get(request.path.removeprefix(PREFIX))
            if not node:
                return await (self._any(request) if own is None else own(peer, request))
            for worker in self._workers.serving:
                if worker.node == node:
                    return await self._ask(worker, attrs.evolve(request, query=query))
            return await self._any(request)  # of another machine
        except BrokerError as error:
            return failed(error)

    def _ask(self, worker: WorkerProcess, request: HttpRequest) -> Deferred[Response]:
        # It believes the supervisor, by which the secret was looked at.
        kept = {name: text for name, text in request.headers.items() if name == "content-type"}
        asked = attrs.evolve(request, headers={"host": "localhost", **kept}, peer=None)
        seconds = CALL_DEADLINE if request.path == f"{PREFIX}call" else DEADLINE
        asking = within(seconds, self._clock, worker.answer(asked))
        return asking.addErrback(lambda failure: failure.trap(NoReply) and self._silent(worker, seconds))

    def _silent(self, worker: WorkerProcess, seconds: float) -> Response:
        return problem(503, f"Worker {worker.number} has not answered within {seconds:g} s.")

    def _serving(self) -> list[WorkerProcess]:
        serving = self._workers.serving
        if not serving:
            raise Unavailable("worker", message="No worker serves clients at present.")
        # Those that are asked may have a lease of Redis, or stand still: the first that was heard of lately.
        return sorted(serving, key=lambda worker: worker.silent)

    async def _any(self, request: HttpRequest) -> Response:
        return await self._ask(self._serving()[0], request)

    async def _of_all(self, request: HttpRequest) -> list[tuple[WorkerProcess, Response]]:
        serving = sorted(self._serving(), key=lambda worker: worker.number)
        return list(zip(serving, await gather(serving, lambda worker: self._ask(worker, request)), strict=True))

    async def _found(self, peer: IPeer, request: HttpRequest) -> Response:
        """Return what the first worker answers that has what is asked for."""
        response = None
        for worker in self._serving():
            response = await self._ask(worker, request)
            if response.status != UNKNOWN:
                return response
        assert response is not None
        return response

    async def _joined(self, peer: IPeer, request: HttpRequest) -> Response:
        """Return the rows of all workers, those of each with its node."""
        query, more = joined_query(request.query)
        responses = await self._of_all(attrs.evolve(request, query=query))
        pages = [json.loads(response.body) for _, response in responses if response.status == 200]
        if not pages:
            return responses[0][1]
        return answer(joined_rows(pages, more, len(pages) == len(responses)))

    async def _all_do(self, peer: IPeer, request: HttpRequest) -> Response:
        name = request.path.removeprefix(PREFIX)
        if name == "drain" and request.method == "POST":
            self._workers.drain()
        responses = [response for _, response in await self._of_all(request)]
        bad = [response for response in responses if response.status != 200]
        if name == "log-level" and not bad and self._set_level is not None:
            self._set_level(json.loads(request.body)["level"])
        return (bad or responses)[0]

    async def _status(self, peer: IPeer, request: HttpRequest) -> Response:
        responses = await self._of_all(request)
        found = [json.loads(response.body) for _, response in responses if response.status == 200]
        if not found:
            return responses[0][1]
        return answer(
            {
                **found[0],
                **self._about(),
                "pid": os.getpid(),
                "ready": self._workers.reasons(),
                "draining": self._workers.draining,
                "totals": totals(each["totals"] for each in found),
                "gauges": joined_gauges([each["gauges"] for each in found]),
                "connections": totals(each["connections"] for each in found),
            }
        )

    async def _show_settings(self, peer: IPeer, request: HttpRequest) -> Response:
        rows = [{"name": name, "value": value, "source": source} for name, value, source in self._settings().describe()]
        query = read_query(Query, request.query)
        page = await page_of(rows, dict, query, SETTING_SORTS, ("name", "value", "source"), slices_of(self._clock))
        return answer({"node": self._settings().node, **page.content()})

    async def _show_history(self, peer: IPeer, request: HttpRequest) -> Response:
        return answer({"items": self._history.samples})

    async def _live(self, peer: IPeer, request: HttpRequest) -> Response:
        return live(peer, self._history)  # type: ignore[arg-type]  # it has what is needed of one

    async def _nodes(self, peer: IPeer, request: HttpRequest) -> Response:
        response = await self._any(request)
        if response.status != 200:
            return response
        page = json.loads(response.body)
        own = {worker.node for worker in self._workers.workers.values()}
        for row in page["items"]:
            row["this"] = row["node"] in own
        return answer(page)


def joined_query(text: str) -> tuple[str, Query]:
    """Return what each worker is asked for a list of all, and what was asked.

    Raises:
        Invalid: that can not be.
    """
    pairs = dict(parse_qsl(text, keep_blank_values=True))
    kept = {name: value for name, value in pairs.items() if name not in ("limit", "after")}
    known = {name: value for name, value in pairs.items() if name in ("limit", "after", "q", "sort", "order")}
    query = read_query(Query, urlencode(known))
    first = int(query.after) if query.after.isdecimal() else 0
    if first + query.limit > MAX_LIMIT:
        raise Invalid(
            "after", message=f"A list of several workers ends after {MAX_LIMIT} rows: search, or ask by node=."
        )
    return urlencode({**kept, "limit": first + query.limit}), query


def joined_gauges(found: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the gauges of all as one: added up, or the greatest, or the least where each says yes or no."""
    joined: dict[str, float] = {}
    for each in found:
        for name, value in each.items():
            across = CATALOG[name].across
            before = joined.get(name)
            if before is None:
                joined[name] = value
            elif across == LABEL and name != "reactor_lag_max_seconds":
                joined[name] = min(before, value)
            elif across in (LABEL, MAX):
                joined[name] = max(before, value)
            else:
                joined[name] = before + value
    return joined
