"""The Engine.IO server of one path: brings each request and WebSocket to its session."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
from secrets import token_urlsafe
from urllib.parse import parse_qs

import attrs
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from broker.access.admission import PER_ADDRESS, ConnectionCounter
from broker.access.limits import network_of
from broker.core.deadlines import GRAIN, Deadlines
from broker.core.unadmitted import UnadmittedClients
from broker.errors import Refused
from broker.interfaces import IHttpDialect, ILink, IPeer, IWebSocketDialect
from broker.messages import CloseCode, HttpRequest, Response
from protocols.microstream.engineio import ProtocolError, Times, open_packet
from protocols.microstream.sessions import Handshake, Session, SessionContext
from protocols.microstream.upgrade import Upgrade

TEXT = "text/plain; charset=UTF-8"
NO_STORE = (("Cache-Control", "no-store"),)
MAX_FIELDS = 100  # of a query


class ErrorCode(IntEnum):
    """Why a request is refused: the ``code`` of Engine.IO's JSON errors, and the ``message`` with it."""

    message: str

    def __new__(cls, code: int, message: str) -> ErrorCode:
        """Return the member with the number *code*."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.message = message
        return member

    UNKNOWN_TRANSPORT = 0, "Transport unknown"  # the transport is missing, or neither polling nor websocket
    UNKNOWN_SID = 1, "Session ID unknown"  # there is no such session, or it has ended
    BAD_METHOD = 2, "Bad handshake method"  # a handshake that is not a GET
    BAD_REQUEST = 3, "Bad request"  # not possible in the session's state, malformed or too large
    FORBIDDEN = 4, "Forbidden"  # pages of this origin are not allowed, or this name of the broker
    BAD_VERSION = 5, "Unsupported protocol version"  # EIO is missing or not 4


class RequestRefused(Exception):
    """A request is refused with one of the codes of the protocol."""

    def __init__(self, code: ErrorCode) -> None:
        super().__init__(code.message)
        self.code = code


@attrs.frozen
class Bounds:
    """The limits of a server.

    Attributes:
        sessions: most sessions at once; 0: any number.
        per_address: most of them from one IP address; 0: any number.
        queue_bytes: most bytes in the send queue of a client that does not poll.
        unadmitted: most sessions of clients that are not admitted yet; 0: any number.
        unadmitted_per_address: most of those from one address; 0: any number.
        deadline: seconds that a client has to be admitted; 0: any time.
        exempt: says which addresses are not limited.
    """

    sessions: int = 10000
    per_address: int = 0
    queue_bytes: int = 1 << 20
    unadmitted: int = 0
    unadmitted_per_address: int = 0
    deadline: float = 0.0
    exempt: Callable[[str], bool] = lambda address: False


@implementer(IWebSocketDialect, IHttpDialect)
class Server:
    """A dialect: the sessions of one path.

    Args:
        make: returns the session of a handshake; with a link when it starts on WebSocket.
        clock: the reactor, or a ``task.Clock``.
        name: of the dialect.
        path: ends in a slash.
        times: timers and limits of each session.
        bounds: limits of all sessions together.
        node: prefix of every sid, so that a balancer can send all requests of a session
            to its node; "" for none.
        spread: whether the port closes WebSockets one after the other when it drains, as it does where
            other nodes share the store.

    Attributes:
        sessions: by sid.
        timers: of all sessions; a key is the function to call.
    """

    subprotocols: Sequence[str] = ()
    half_close = False  # the session ends with the connection of a GET that waits, as in the original
    comes_back = True  # after any close of the transport

    def __init__(
        self,
        make: Callable[[SessionContext, IPeer, Handshake, ILink | None], Session],
        clock: IReactorTime,
        *,
        name: str = "microstream",
        path: str = "/socket.io/",
        times: Times | None = None,
        bounds: Bounds | None = None,
        node: str = "",
        spread: bool = False,
    ) -> None:
        self.name = name
        self.websocket_paths: Sequence[str] = (path,)
        self.http_paths: Sequence[str] = (path,)
        self.clock = clock
        self.times = times or Times()
        # Three pings in a row, each late by this, must not add up to much.
        grain = min(GRAIN, self.times.ping_interval / 50)
        self.timers: Deadlines[Callable[[], object]] = Deadlines(clock, lambda act: act(), grain)
        self.sessions: dict[str, Session] = {}
        self._make = make
        self._sid_prefix = re.sub("[^A-Za-z0-9_-]", "-", node) + "." if node else ""
        self._bounds = bounds = bounds or Bounds()
        self._counter = ConnectionCounter(bounds.sessions, bounds.per_address, exempt=bounds.exempt)
        self._unadmitted = UnadmittedClients(clock, bounds.unadmitted, bounds.unadmitted_per_address, bounds.deadline)
        self._draining = False
        self._spread = spread
        self._context = SessionContext(self.times, clock, self.timers, self._bounds.queue_bytes, self._forget)

    def _forget(self, session: Session) -> None:
        """Remove *session*, which has ended."""
        if self.sessions.pop(session.sid, None) is not None:
            self._counter.leave(session.peer.address)
            self._unadmitted.leave(session)

    def drain(self) -> None:
        """End every session, stop the timers, and refuse new sessions.

        Where closes are *spread*, the port ends those on WebSocket, each when its link is closed.
        """
        self._draining = True
        for session in list(self.sessions.values()):
            if session.link is None or not self._spread:
                session.end(CloseCode.SERVICE_RESTART, "leaving")
        self.timers.stop()
        self._unadmitted.stop()

    # WebSocket

    async def session(self, peer: IPeer, link: ILink) -> Session | Upgrade:
        """Return a new session for a WebSocket, or its ``Upgrade`` when it shows the sid of one.

        Raises:
            Refused: with the status 400 and the message of an ``ErrorCode``, or with 503.
        """
        query = _query(link.handshake)
        try:
            if _first(query, "transport") != "websocket":
                raise RequestRefused(ErrorCode.UNKNOWN_TRANSPORT)
            if _first(query, "sid"):
                session = self._find(query)
                link.handshake.peer = session.peer
                return Upgrade(session, link)
            return self._begin(peer, query, link.handshake, link)
        except RequestRefused as error:
            raise Refused(400, str(error), body=str(error).encode(), content_type="text/html") from None

    # HTTP

    async def answer(self, peer: IPeer, request: HttpRequest) -> Response:
        """Return the response to a request of the polling transport."""
        if request.method == "OPTIONS":
            return _preflight(request)
        try:
            return await self._answer(peer, request, _query(request))
        except RequestRefused as error:
            status, code = 400, error.code
        except ProtocolError as error:
            status, code = 413 if error.code == CloseCode.MESSAGE_TOO_BIG else 400, ErrorCode.BAD_REQUEST
        peer.take_one_token()  # its session counts what it does, but this has none
        return Response(status, _error_body(code), headers=NO_STORE)

    def refusal(self, status: int, message: str, request: HttpRequest) -> Response:
        """Return the response to *request* that the port itself refuses, before ``answer``; see ``IDialectExtras``."""
        if status == 413:
            # "Body larger than maxPayload: 413 and the session closes."
            session = self.sessions.get(_first(_query(request), "sid"))
            if session is not None and session.engine.polling:
                session.end()
        code = ErrorCode.FORBIDDEN if status == 403 else ErrorCode.BAD_REQUEST
        return Response(status, _error_body(code, message), headers=NO_STORE)

    async def _answer(self, peer: IPeer, request: HttpRequest, query: Mapping[str, Sequence[str]]) -> Response:
        transport = _first(query, "transport")
        if transport not in ("polling", "websocket"):
            raise RequestRefused(ErrorCode.UNKNOWN_TRANSPORT)
        if not _first(query, "sid"):
            if request.method != "GET":
                raise RequestRefused(ErrorCode.BAD_METHOD)
            if transport != "polling":
                raise RequestRefused(ErrorCode.BAD_REQUEST)
            session = self._begin(peer, query, request, None)
            return _text(open_packet(session.sid, self.times, upgrades=True))
        session = self._find(query)
        request.peer = session.peer
        if transport != "polling" or not session.engine.polling or request.method not in ("GET", "POST"):
            raise RequestRefused(ErrorCode.BAD_REQUEST)
        if request.method == "GET":
            return _text(await session.get())
        if request.headers.get("content-type", "").startswith("application/octet-stream"):
            session.end()
            raise RequestRefused(ErrorCode.BAD_REQUEST)
        await session.post(request.body)
        return Response(200, b"ok", "text/html", NO_STORE)

    def _find(self, query: Mapping[str, Sequence[str]]) -> Session:
        session = self.sessions.get(_first(query, "sid"))
        if session is not None and self.clock.seconds() >= session.engine.due:
            session.heartbeat()  # the timer is due, but has not run yet
        if session is None or session.ended:
            raise RequestRefused(ErrorCode.UNKNOWN_SID)
        return session

    def _begin(
        self, peer: IPeer, query: Mapping[str, Sequence[str]], request: HttpRequest, link: ILink | None
    ) -> Session:
        if _first(query, "EIO") != "4":
            raise RequestRefused(ErrorCode.BAD_VERSION)
        if self._draining:
            raise Refused(503, "The daemon is stopping.")
        limited = "" if self._bounds.exempt(peer.address) else network_of(peer.address)
        if not self._makes_room(peer.address, limited):
            raise Refused(503, "Too many connections.")
        handshake = Handshake(self._sid_prefix + token_urlsafe(15), query, request.headers)
        session = self._make(self._context, peer, handshake, link)
        self.sessions[session.sid] = session
        self._counter.enter(peer.address)
        if not session.admitted:
            self._unadmitted.enter(session, limited)
        return session

    def _makes_room(self, address: str, limited: str) -> bool:
        """Make room for one more session, if need be by ending one of a client that is not admitted."""
        setting = self._counter.objection(address)
        if setting:
            return self._unadmitted.evict(limited if setting == PER_ADDRESS else "")
        return not self._unadmitted.objection(limited)


def _query(request: HttpRequest) -> Mapping[str, Sequence[str]]:
    try:
        return parse_qs(request.query, keep_blank_values=True, max_num_fields=MAX_FIELDS)
    except ValueError:
        return {}


def _first(query: Mapping[str, Sequence[str]], name: str) -> str:
    return query.get(name, ("",))[0]


def _text(payload: bytes) -> Response:
    return Response(200, payload, TEXT, NO_STORE)


def _error_body(code: ErrorCode, message: str = "") -> bytes:
    return json.dumps({"code": code, "message": message or code.message}, separators=(",", ":")).encode("ascii")


def _preflight(request: HttpRequest) -> Response:
    wanted = request.headers.get("access-control-request-headers", "Content-Type")
    return Response(
        204,
        headers=(
            *NO_STORE,
            ("Access-Control-Allow-Methods", "GET, POST, OPTIONS"),
            ("Access-Control-Allow-Headers", wanted),
            ("Access-Control-Max-Age", "600"),
        ),
    )
