"""The Engine.IO server: which request or WebSocket is of which session."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from secrets import token_urlsafe
from urllib.parse import parse_qs

import attrs
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from broker.access.admission import ConnectionCounter
from broker.access.origins import Origins
from broker.core.deadlines import GRAIN, Deadlines
from broker.errors import Refused
from broker.interfaces import IHttpDialect, ILink, IPeer, IWebSocketDialect
from broker.messages import CloseCode, HttpRequest, Response
from protocols.microstream.engineio import Malformed, Times, open_packet
from protocols.microstream.sessions import Session
from protocols.microstream.upgrade import Upgrade

UNKNOWN_TRANSPORT, UNKNOWN_SID, BAD_METHOD, BAD_REQUEST, FORBIDDEN, BAD_VERSION = range(6)
MESSAGES = (
    "Transport unknown",
    "Session ID unknown",
    "Bad handshake method",
    "Bad request",
    "Forbidden",
    "Unsupported protocol version",
)
TEXT = "text/plain; charset=UTF-8"
CORS = (("Cache-Control", "no-store"), ("Access-Control-Allow-Origin", "*"))
MAX_FIELDS = 100  # of a query


class Wrong(Exception):
    """A request is refused with one of the codes of the protocol."""

    def __init__(self, code: int) -> None:
        super().__init__(MESSAGES[code])
        self.code = code


@attrs.frozen
class Handshake:
    """How a session began.

    Attributes:
        sid: of the new session.
        query: "those of the handshake request count and are repeated on every
            request".
        headers: of that request.
    """

    sid: str
    query: Mapping[str, Sequence[str]] = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(repr=False)


@attrs.frozen
class Bounds:
    """How much the server takes upon itself.

    Attributes:
        sessions: at once; 0: any number.
        per_address: of them from one address; 0: any number.
        queue_bytes: that may wait for a client that does not poll.
        origins: of the web pages that may come by polling; see ``Origins``.
    """

    sessions: int = 10000
    per_address: int = 0
    queue_bytes: int = 1 << 20
    origins: tuple[str, ...] = ()


@implementer(IWebSocketDialect, IHttpDialect)
class Server:
    """Keeps the sessions of one path.

    Args:
        make: returns the session of a handshake; with a link when it is to
            begin on WebSocket.
        clock: the reactor, or a ``task.Clock``.
        times: see ``engineio.Times``.
        bounds: see :class:`Bounds`.
        path: ends in a slash.
        node: what a sid begins with, so that a balancer can send all of a
            session's requests to its node; "" for nothing.

    Attributes:
        sessions: by sid.
        timers: every timer of every session; it calls its keys.
    """

    subprotocols: Sequence[str] = ()

    def __init__(
        self,
        make: Callable[[Server, IPeer, Handshake, ILink | None], Session],
        clock: IReactorTime,
        *,
        name: str = "microstream",
        path: str = "/socket.io/",
        times: Times | None = None,
        bounds: Bounds | None = None,
        node: str = "",
    ) -> None:
        self.name = name
        self.websocket_paths: Sequence[str] = (path,)
        self.http_paths: Sequence[str] = (path,)
        self.clock = clock
        self.times = times or Times()
        # Three pings a moment late must not add up to much.
        grain = min(GRAIN, self.times.ping_interval / 50)
        self.timers: Deadlines[Callable[[], object]] = Deadlines(clock, lambda act: act(), grain)
        self.sessions: dict[str, Session] = {}
        self._make = make
        self._mark = re.sub("[^A-Za-z0-9_-]", "-", node) + "." if node else ""
        self._bounds = bounds or Bounds()
        self._origins = Origins(self._bounds.origins)
        self._counter = ConnectionCounter(self._bounds.sessions, self._bounds.per_address)
        self._draining = False

    @property
    def queue_bytes(self) -> int:
        """How much may wait for a client that does not poll."""
        return self._bounds.queue_bytes

    def forget(self, session: Session) -> None:
        """Strike *session*, which has ended, from the table."""
        if self.sessions.pop(session.sid, None) is not None:
            self._counter.leave(session.peer.address)

    def drain(self) -> None:
        """End every session and every timer, and begin no other session."""
        self._draining = True
        for session in list(self.sessions.values()):
            session.end(CloseCode.GOING_AWAY, "leaving")
        self.timers.stop()

    # WebSocket

    async def session(self, peer: IPeer, link: ILink) -> Session | Upgrade:
        """Return the session of a WebSocket: a new one, or the way to the one it names."""
        query = _query(link.handshake)
        try:
            if _first(query, "transport") != "websocket":
                raise Wrong(UNKNOWN_TRANSPORT)
            if _first(query, "sid"):
                return Upgrade(self._find(query), link)
            return self._begin(peer, query, link.handshake, link)
        except Wrong as error:
            raise Refused(400, str(error), body=str(error).encode(), content_type="text/html") from None

    # HTTP

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Return the answer to a request of the polling transport."""
        if not self._origins.admit(request):
            return Response(403, _error_body(FORBIDDEN))
        if request.method == "OPTIONS":
            return _preflight(request)
        try:
            return await self._answer(peer, request, _query(request))
        except Wrong as error:
            return Response(400, _error_body(error.code), headers=CORS)
        except Malformed as error:
            return Response(
                413 if error.code == CloseCode.MESSAGE_TOO_BIG else 400, _error_body(BAD_REQUEST), headers=CORS
            )

    def refusal(self, status: int, message: str, request: HttpRequest) -> Response:
        """Return how to refuse *request* before it came to ``answer``."""
        if status == 413:
            # "Body larger than maxPayload: 413 and the session closes."
            session = self.sessions.get(_first(_query(request), "sid"))
            if session is not None and session.engine.polling:
                session.end()
        body = json.dumps({"code": BAD_REQUEST, "message": message}, separators=(",", ":")).encode()
        return Response(status, body, headers=CORS)

    async def _answer(self, peer: IPeer, request: HttpRequest, query: Mapping[str, Sequence[str]]) -> Response:
        transport = _first(query, "transport")
        if transport not in ("polling", "websocket"):
            raise Wrong(UNKNOWN_TRANSPORT)
        if not _first(query, "sid"):
            if request.method != "GET":
                raise Wrong(BAD_METHOD)
            if transport != "polling":
                raise Wrong(BAD_REQUEST)
            session = self._begin(peer, query, request, None)
            return _text(open_packet(session.sid, self.times, upgrades=True))
        session = self._find(query)
        if transport != "polling" or not session.engine.polling or request.method not in ("GET", "POST"):
            raise Wrong(BAD_REQUEST)
        if request.method == "GET":
            return _text(await session.get())
        if request.headers.get("content-type", "").startswith("application/octet-stream"):
            session.end()
            raise Wrong(BAD_REQUEST)
        session.post(request.body)
        return Response(200, b"ok", "text/html", CORS)

    def _find(self, query: Mapping[str, Sequence[str]]) -> Session:
        session = self.sessions.get(_first(query, "sid"))
        if session is not None and self.clock.seconds() >= session.engine.due:
            session.ring()  # the timers are a little late
        if session is None or session.over:
            raise Wrong(UNKNOWN_SID)
        return session

    def _begin(
        self, peer: IPeer, query: Mapping[str, Sequence[str]], request: HttpRequest, link: ILink | None
    ) -> Session:
        if _first(query, "EIO") != "4":
            raise Wrong(BAD_VERSION)
        if self._draining:
            raise Refused(503, "The daemon is stopping.")
        if self._counter.objection(peer.address):
            raise Refused(503, "Too many connections.")
        handshake = Handshake(self._mark + token_urlsafe(15), query, request.headers)
        session = self._make(self, peer, handshake, link)
        self.sessions[session.sid] = session
        self._counter.enter(peer.address)
        return session


def _query(request: HttpRequest) -> Mapping[str, Sequence[str]]:
    try:
        return parse_qs(request.query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        return {}


def _first(query: Mapping[str, Sequence[str]], name: str) -> str:
    return query.get(name, ("",))[0]


def _text(payload: bytes) -> Response:
    return Response(200, payload, TEXT, CORS)


def _error_body(code: int) -> bytes:
    return b'{"code":%d,"message":"%b"}' % (code, MESSAGES[code].encode("ascii"))


def _preflight(request: HttpRequest) -> Response:
    wanted = request.headers.get("access-control-request-headers", "Content-Type")
    return Response(
        204,
        headers=(
            *CORS,
            ("Access-Control-Allow-Methods", "GET, POST, OPTIONS"),
            ("Access-Control-Allow-Headers", wanted),
            ("Access-Control-Max-Age", "600"),
        ),
    )
