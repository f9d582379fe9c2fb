"""Which request goes to which operation, and who may ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import CancelledError, Deferred
from zope.interface import implementer

from broker.core.time_limits import cancellable
from broker.errors import BrokerError, Invalid, RateLimited, TooLarge
from broker.interfaces import Coro, IHttpDialect, IPeer
from broker.messages import HttpRequest, Response
from broker.patterns import check_key, check_name
from protocols.http.answers import Refusal, failed, problem
from protocols.http.bodies import BODY_OPERATIONS
from protocols.http.calls import Calls
from protocols.http.client import CLIENT_OPERATIONS
from protocols.http.cursors import CURSOR_OPERATIONS
from protocols.http.keys import KEY_OPERATIONS
from protocols.http.members import MEMBER_OPERATIONS
from protocols.http.openapi import openapi_operation
from protocols.http.operations import Call, Operation, Table
from protocols.http.queues import QUEUE_OPERATIONS
from protocols.http.requests import (
    accepts_stream,
    bearer,
    check_coding,
    parameters,
    read_query,
    unquoted,
    wants_stream,
)
from protocols.http.streams import comes_back, later_stream
from protocols.http.topics import Topics

if TYPE_CHECKING:
    from broker.config.settings import Settings

PREFIX = "/v1/"


def dialect(settings: Settings) -> Http:
    """Return the dialect for a daemon with *settings*."""
    return Http(settings)


@implementer(IHttpDialect)
class Http:
    """Answers what clients of the HTTP API ask.

    Attributes:
        operations: all that they may ask for.
    """

    name = "http"
    http_paths = (PREFIX,)

    def __init__(self, settings: Settings) -> None:
        credential = ' -H "Authorization: Bearer {key}"' if settings.auth == "required" else ""
        self.example = f"curl -N{credential} -H 'Accept: text/event-stream' {{http}}/v1/topics/news"
        operations = [
            *Topics(settings).operations(),
            *MEMBER_OPERATIONS,
            *BODY_OPERATIONS,
            *CURSOR_OPERATIONS,
            *KEY_OPERATIONS,
            *Calls(settings).operations(),
            *QUEUE_OPERATIONS,
            *CLIENT_OPERATIONS,
        ]
        self.operations: list[Operation] = [*operations, openapi_operation(operations)]
        self._table = Table(self.operations)
        self._max_body = settings.max_message_bytes
        self._waiting: set[Deferred[Response]] = set()
        self._draining = False

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Return the answer to *request*; see ``IHttpDialect``."""
        try:
            return await self._answer(peer, request)
        except Refusal as refusal:
            response = refusal.response
        except BrokerError as error:
            response = failed(error)
        try:
            peer.take_one_token()  # what was refused before it was counted
        except RateLimited as limited:
            response = failed(limited)
        if response.status in (429, 503) and comes_back(request):
            return later_stream(response)
        return response

    async def _answer(self, peer: IPeer, request: HttpRequest) -> Response:
        methods, encoded = self._table.find(request.path.removeprefix(PREFIX))
        if not methods:
            raise Refusal(problem(404, f"there is no {request.path[:200]}"))
        operation = methods.get(request.method)
        if operation is None:
            raise Refusal(_other_method(request, methods))
        found = read_query(request.query)
        streams = operation.stream is not None and (operation.only_stream or wants_stream(request))
        if operation.only_stream and not accepts_stream(request):
            raise Refusal(problem(406, "it is a stream of server-sent events, text/event-stream"))
        if not operation.open:
            _identify(peer, request, found, may_be_in_query=streams)
        peer.take_one_token()
        names = [_checked(unquoted(each, name), name) for name, each in zip(operation.names, encoded, strict=True)]
        query = parameters(operation.stream_query if streams else operation.query, found)
        check_coding(request)
        if len(request.body) > self._max_body:
            raise TooLarge("body", message=f"the body has more than {self._max_body} bytes")
        call = Call(peer, request, names, query)
        if streams and operation.stream is not None:
            return await operation.stream(call)
        if getattr(query, "wait", 0.0):
            return await self._wait(operation.run(call))
        return await operation.run(call)

    async def _wait(self, work: Coro[Response]) -> Response:
        """Return what *work* returns, which may wait for long; refuse it when the daemon stops meanwhile."""
        waiting = cancellable(work)
        self._waiting.add(waiting)
        try:
            return await waiting
        except CancelledError:
            if self._draining:
                raise Refusal(problem(503, "the broker is stopping")) from None
            raise
        finally:
            self._waiting.discard(waiting)

    def drain(self) -> None:
        """Answer the requests that wait: the daemon stops."""
        self._draining = True
        for waiting in list(self._waiting):
            waiting.cancel()

    def refusal(self, status: int, message: str, request: HttpRequest) -> Response:
        """Return how to say that *request* is refused before it has reached ``answer``."""
        return problem(status, message)


def _identify(peer: IPeer, request: HttpRequest, found: dict[str, list[str]], *, may_be_in_query: bool) -> None:
    """Identify *peer*; only who asks for a stream, as an ``EventSource``, may have its credential in the query."""
    credential = bearer(request)
    tokens = found.pop("token", [])
    if tokens and not may_be_in_query:
        raise Invalid("parameter", "token", message="only of a stream of events may a token be in the query")
    credential = credential or (tokens[0] if tokens else "")
    if credential or not peer.admitted:
        peer.identify(credential)


def _other_method(request: HttpRequest, methods: dict[str, Operation]) -> Response:
    allow = (("Allow", ", ".join([*methods, "OPTIONS"])),)
    if request.method == "OPTIONS" and "access-control-request-method" not in request.headers:
        return Response(204, content_type="", headers=allow)
    return problem(405, f"{request.method} is not allowed", headers=allow)  # a preflight is answered by the port


def _checked(text: str, name: str) -> str:
    """Return *text*, which is what a path has in the place of *name*, if it can be one."""
    return check_key(text) if name == "key" else check_name(text, name)
