from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.logger import LogEvent, LogLevel
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.access.addresses import TrustedProxies
from broker.access.admission import Admission
from broker.access.browsers import BrowserPolicy
from broker.access.refusals import LINES_AT_ONCE
from broker.errors import (
    BrokerError,
    CalleeFailed,
    Conflict,
    Denied,
    Gone,
    Invalid,
    NotFound,
    RateLimited,
    Refused,
    Taken,
    Timeout,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from broker.interfaces import IHttpDialect, IWebSocketDialect
from broker.messages import HttpRequest, Response
from broker.observe.metrics import Metrics
from broker.web.http.channel import Times
from broker.web.http.parser import Limits
from broker.web.late_refusals import MAX_HELD, MAX_HELD_PER_ADDRESS, MAX_READ_PER_ADDRESS
from broker.web.site import Site
from tests.support.logs import lines_of
from tests.web.wire import Heard, Wire, read_all


@attrs.define(eq=False)
class Peer:
    dialect: str
    address: str
    session: Any = None
    disconnect: Any = None
    closed: int = 0
    id: str = "conn-1"
    client: str = "ann"
    admitted: bool = True

    def bind(self, session: Any, disconnect: Any = None, *, link: Any = None) -> None:
        self.session, self.disconnect = session, disconnect

    def close(self) -> None:
        self.closed += 1


@implementer(IHttpDialect)
class Pages:
    """An HTTP dialect that does what the test says."""

    name = "pages"
    http_paths: tuple[str, ...] = ("/pages", "/pages/")

    def __init__(self) -> None:
        self.asked: list[tuple[Any, HttpRequest]] = []
        self.error: Exception | None = None
        self.wait: Deferred[Response] | None = None
        self.session: Any = None
        self.on_drain: Callable[[], object] = lambda: None

    def drain(self) -> None:
        self.on_drain()

    async def answer(self, peer: Any, request: HttpRequest) -> Response:
        self.asked.append((peer, request))
        if self.session is not None:
            peer.bind(self.session)
        if self.error is not None:
            raise self.error
        if self.wait is not None:
            return await self.wait
        return Response(body=request.path.encode())


class Shaped(Pages):
    """One with refusals of its own form."""

    name = "shaped"
    http_paths = ("/shaped",)
    broken = False
    headers: tuple[tuple[str, str], ...] = (("X-Form", "own"),)

    def refusal(self, status: int, message: str, request: HttpRequest) -> Response:
        if self.broken:
            raise ZeroDivisionError
        return Response(status, f"{request.path}: {message}".encode(), "text/plain", self.headers)


@implementer(IWebSocketDialect)
class Sockets:
    """A WebSocket dialect that does what the test says."""

    name = "sockets"
    websocket_paths: tuple[str, ...] = ("/", "/ws", "/rooms/")
    subprotocols: tuple[str, ...] = ("chat.v2", "chat.v1")

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.session_made = object()

    async def session(self, peer: Any, link: Any) -> Any:
        if self.error is not None:
            raise self.error
        return self.session_made


class Careless(Sockets):
    name = "careless"
    websocket_paths = ("/careless",)
    subprotocols = ()
    any_origin = True


class Refusing(Sockets):
    comes_back = True
    name = "refusing"
    websocket_paths = ("/refusing",)
    subprotocols = ("refusing",)
    refusal_delay = 3.0


@attrs.define(eq=False)
class Link:
    upgrader: Upgrader
    handshake: HttpRequest
    subprotocol: str
    rest: bytes
    on_closed: Any
    opening: Deferred[Any] | None = None
    session: Any = None
    answer: Response | None = None
    closed: tuple[int, str] | None = None
    dropped: bool = False

    def close(self, code: int = 1000, reason: str = "") -> None:
        self.closed = (code, reason)

    def abort(self) -> None:
        self.dropped = True
        self.end(1006)

    def end(self, code: int) -> None:
        self.upgrader.links.discard(self)
        self.on_closed(code, "")


class Upgrader:
    """Takes every connection over; what becomes of it is in its ``links``."""

    def __init__(self) -> None:
        self.links: set[Link] = set()
        self.taken: list[Link] = []
        self.objection: Response | None = None

    def upgrade(
        self,
        transport: Any,
        request: HttpRequest,
        session_factory: Any,
        *,
        refuse: Any,
        on_closed: Any,
        rest: bytes,
        subprotocol: str,
    ) -> Response | None:
        if self.objection is not None:
            return self.objection
        transport.unregisterProducer()
        transport.server = Protocol()
        link = Link(self, request, subprotocol, rest, on_closed)
        self.links.add(link)
        self.taken.append(link)
        link.opening = Deferred.fromCoroutine(session_factory(link))

        def refused(failure: Failure) -> None:
            if link.dropped:
                return
            link.answer = refuse(failure)
            link.end(link.answer.status)

        link.opening.addCallbacks(lambda session: setattr(link, "session", session), refused)
        return None


@attrs.define(eq=False)
class Port:
    """A site with fake dialects, a fake upgrader and a clock."""

    clock: Clock = attrs.field(factory=Clock)
    upgrader: Upgrader = attrs.field(factory=Upgrader)
    metrics: Metrics = attrs.field(factory=Metrics)
    pages: Pages = attrs.field(factory=Pages)
    shaped: Shaped = attrs.field(factory=Shaped)
    sockets: Sockets = attrs.field(factory=Sockets)
    careless: Careless = attrs.field(factory=Careless)
    refusing: Refusing = attrs.field(factory=Refusing)
    peers: list[Peer] = attrs.field(factory=list)
    reasons: list[str] = attrs.field(factory=list)
    wires: list[Wire] = attrs.field(factory=list)
    unattachable: BrokerError | None = None
    site: Site = attrs.field(init=False)

    def open(self, **options: Any) -> Port:
        dialects = (self.pages, self.shaped, self.sockets, self.careless, self.refusing)
        self.site = Site(
            dialects,
            self.attach,
            self.clock,
            self.upgrader,  # type: ignore[arg-type]
            self.metrics,
            ready=lambda: self.reasons,
            about=lambda: {"name": "txbroker"},
            **options,
        )
        return self

    def attach(self, dialect: str, address: str) -> Peer:
        if self.unattachable is not None:
            raise self.unattachable
        self.peers.append(Peer(dialect, address))
        return self.peers[-1]

    def connect(self, host: str = "10.0.0.1") -> Wire:
        protocol = self.site.buildProtocol((IPv6Address if ":" in host else IPv4Address)("TCP", host, 1))
        assert protocol is not None
        wire = Wire(protocol)  # type: ignore[arg-type]
        self.wires.append(wire)
        return wire

    def connect_admitted(self, host: str = "10.0.0.1") -> Wire:
        """Return a connection on which an admitted client was answered."""
        wire = self.connect(host)
        assert [heard.status for heard in wire.say(request("/pages"))] == [200]
        return wire

    def ask(self, path: str, *lines: str, method: str = "GET") -> Heard:
        (heard,) = self.connect().say(request(path, *lines, method=method))
        return heard

    def upgrade(self, path: str, *lines: str) -> Heard | None:
        heard = self.connect().say(handshake(path, *lines))
        return heard[0] if heard else None


def request(path: str, *lines: str, method: str = "GET") -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", "Host: h:80", *lines, "", "")).encode()


def handshake(path: str, *lines: str) -> bytes:
    return request(path, "Connection: Upgrade", "Upgrade: websocket", *lines)


def error_of(heard: Heard) -> dict[str, Any]:
    assert heard.headers["content-type"] == "application/json"
    error: dict[str, Any] = json.loads(heard.body)["error"]
    assert set(error) == {"code", "message", "data"}
    return error


@pytest.fixture
def port() -> Iterator[Port]:
    port = Port().open()
    yield port
    for wire in port.wires:
        wire.lose()
    for link in list(port.upgrader.links):
        link.end(1000)
    assert port.site.connections == 0
    for_good = ("sockets", "careless", "refusing")
    assert all(peer.closed == (peer.session is None or peer.dialect in for_good) for peer in port.peers)
    assert sum(port.metrics.connections.values()) == 0
    port.clock.advance(1.0)
    assert port.clock.getDelayedCalls() == []


# Whom a request is for.


def test_a_request_goes_to_the_dialect_of_its_path(port: Port) -> None:
    assert port.ask("/pages?x=1").body == b"/pages"
    ((peer, asked),) = port.pages.asked
    assert (peer.dialect, peer.address, asked.query) == ("pages", "10.0.0.1", "x=1")


def test_a_path_that_ends_in_a_slash_takes_what_is_below(port: Port) -> None:
    assert port.ask("/pages/of/a/book").body == b"/pages/of/a/book"
    assert port.ask("/pagesof").status == 404


def test_the_longest_path_takes_the_request() -> None:
    class Below(Pages):
        name = "below"
        http_paths = ("/pages/of/",)

    port = Port()
    port.shaped = below = Below()  # type: ignore[assignment]
    port.open()
    port.ask("/pages/of/a")
    port.ask("/pages/off")
    assert (len(below.asked), len(port.pages.asked)) == (1, 1)


def test_doubled_slashes_count_as_one_where_the_path_is_unknown(port: Port) -> None:
    assert port.ask("//pages").body == b"/pages"
    assert port.ask("/pages//x").body == b"/pages//x"
    assert port.ask("//nothing").status == 404
    assert port.upgrade("//ws") is None
    assert port.upgrader.taken[0].handshake.path == "/ws"


@pytest.mark.parametrize("path", ["/", "/ws", "/rooms/", "/rooms/a/b"])
def test_a_handshake_goes_to_the_dialect_of_its_path(port: Port, path: str) -> None:
    assert port.upgrade(path) is None
    (link,) = port.upgrader.taken
    assert link.session is port.sockets.session_made
    assert link.subprotocol == ""
    assert port.peers[0].session is link.session
    assert port.peers[0].disconnect == link.close


def test_the_root_is_not_everything_below_it(port: Port) -> None:
    heard = port.upgrade("/nowhere")
    assert heard is not None
    assert (heard.status, error_of(heard)["code"]) == (404, "NOT_FOUND")


def test_a_handshake_goes_to_the_dialect_of_its_subprotocol(port: Port) -> None:
    assert port.upgrade("/any", "Sec-WebSocket-Protocol: other, chat.v1, chat.v2") is None
    assert port.upgrader.taken[0].subprotocol == "chat.v1"


def test_the_path_goes_before_the_subprotocol(port: Port) -> None:
    port.upgrade("/careless", "Sec-WebSocket-Protocol: chat.v1")
    assert port.upgrader.taken[0].subprotocol == ""
    assert port.peers[0].dialect == "careless"


def test_a_subprotocol_is_agreed_to_on_a_known_path(port: Port) -> None:
    port.upgrade("/ws", "Sec-WebSocket-Protocol: chat.v2")
    assert port.upgrader.taken[0].subprotocol == "chat.v2"


def test_bytes_behind_a_handshake_reach_the_upgrader(port: Port) -> None:
    port.connect().say(handshake("/ws") + b"frames")
    assert port.upgrader.taken[0].rest == b"frames"


def test_a_plain_request_for_a_websocket_is_told_to_upgrade(port: Port) -> None:
    heard = port.ask("/ws")
    assert (heard.status, heard.headers["upgrade"], error_of(heard)["code"]) == (426, "websocket", "UPGRADE_REQUIRED")


def test_what_is_nobody_s_is_not_found(port: Port) -> None:
    heard = port.ask("/nothing/here")
    assert heard.status == 404
    assert error_of(heard) == {"code": "NOT_FOUND", "message": "Nothing is at /nothing/here.", "data": None}


@pytest.mark.parametrize(
    ("attribute", "value", "words"),
    [
        ("http_paths", ("/pages",), ("pages", "shaped", "/pages")),
        ("http_paths", ("no slash",), ("shaped", "no slash")),
        ("http_paths", ("//x",), ("shaped", "//x")),
        ("name", "pages", ("pages",)),
    ],
)
def test_dialects_that_do_not_fit_together_are_an_error(
    monkeypatch: pytest.MonkeyPatch, attribute: str, value: Any, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(Shaped, attribute, value)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its words are checked
        Port().open()
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize(("attribute", "value"), [("websocket_paths", ("/ws",)), ("subprotocols", ("chat.v1",))])
def test_two_dialects_do_not_share_a_websocket(monkeypatch: pytest.MonkeyPatch, attribute: str, value: Any) -> None:
    monkeypatch.setattr(Careless, attribute, value)
    with pytest.raises(ValueError, match=f"sockets and careless both take the .*{value[0]}"):
        Port().open()


# Peers.


def test_a_peer_lasts_as_long_as_its_request(port: Port) -> None:
    port.ask("/pages")
    assert port.peers[0].closed == 1


def test_a_peer_with_a_session_outlives_its_request(port: Port) -> None:
    port.pages.session = object()
    port.ask("/pages")
    assert port.peers[0].closed == 0


def test_the_peer_of_a_client_that_went_away_is_closed(port: Port) -> None:
    port.pages.wait = Deferred()
    wire = port.connect()
    wire.say(request("/pages"))
    assert port.peers[0].closed == 0
    wire.lose()
    assert port.peers[0].closed == 1


def test_the_log_tells_who_came_and_who_went(port: Port, logged: list[LogEvent]) -> None:
    port.upgrade("/ws")
    port.clock.advance(2.5)
    (link,) = port.upgrader.links
    link.end(1001)
    assert lines_of(logged) == [
        "sockets: a client came from 10.0.0.1",
        "sockets: a client of 10.0.0.1 went after 2.500 s, with 1001",
    ]
    assert [event["log_level"] for event in logged] == [LogLevel.debug, LogLevel.info]
    assert [event["conn"] for event in logged] == ["conn-1", "conn-1"]
    assert logged[1]["identity"] == "ann"


def test_a_peer_is_closed_when_its_websocket_is(port: Port) -> None:
    port.upgrade("/ws")
    assert (port.peers[0].closed, port.metrics.connections["sockets"]) == (0, 1)
    port.upgrader.taken[0].end(1000)
    assert (port.peers[0].closed, port.metrics.connections["sockets"]) == (1, 0)
    assert port.metrics.closed_total["sockets", "1000"] == 1


def test_a_peer_that_can_not_be_made_is_an_error_of_its_code(port: Port) -> None:
    port.unattachable = Unavailable("broker", message="draining")
    assert port.ask("/pages").status == 503
    heard = port.upgrade("/ws")
    assert heard is not None
    assert heard.status == 503


def test_a_bad_handshake_is_answered_and_its_peer_closed(port: Port) -> None:
    port.upgrader.objection = Response(400, b"no key")
    heard = port.upgrade("/ws")
    assert heard is not None
    assert (heard.status, heard.headers["connection"]) == (400, "close")
    assert port.peers[0].closed == 1


# Errors.


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unauthenticated(), 401),
        (Denied("publish", "x"), 403),
        (NotFound("key", "x"), 404),
        (Invalid("channel"), 400),
        (TooLarge("value"), 413),
        (RateLimited("rate"), 429),
        (Unavailable("store"), 503),
        (Taken("service", "x"), 409),
        (Conflict("key"), 409),
        (Timeout("call"), 504),
        (Gone("recipient"), 500),
        (CalleeFailed("E_OWN", "own words", b'{"a":1}'), 500),
    ],
)
def test_an_error_of_the_broker_has_a_status(port: Port, error: BrokerError, status: int) -> None:
    port.pages.error = error
    heard = port.ask("/pages")
    assert heard.status == status
    data = json.loads(error.data) if error.data else None
    assert error_of(heard) == {"code": error.code, "message": error.message, "data": data}


def test_some_errors_say_when_to_come_back(port: Port) -> None:
    port.pages.error = RateLimited("rate", retry_after=2.5)
    assert port.ask("/pages").headers["retry-after"] == "3"
    port.pages.error = Unavailable("store")
    assert port.ask("/pages").headers["retry-after"] == "1"


def test_a_refusal_has_its_own_status_and_body(port: Port) -> None:
    port.pages.error = Refused(418, "teapot", body=b"short and stout", content_type="text/html")
    heard = port.ask("/pages")
    assert (heard.status, heard.body, heard.headers["content-type"]) == (418, b"short and stout", "text/html")
    port.pages.error = Refused(403, "no")
    assert error_of(port.ask("/pages")) == {"code": "DENIED", "message": "no", "data": None}


def test_an_unexpected_error_is_a_500_without_details(port: Port, logged: list[LogEvent]) -> None:
    port.pages.error = ZeroDivisionError("deliberate")
    heard = port.ask("/pages?secret=hunter2&x=1")
    assert (heard.status, error_of(heard)["code"]) == (500, "INTERNAL")
    assert b"deliberate" not in heard.body
    assert lines_of(logged) == ["pages failed to answer GET /pages"]
    assert logged[0]["log_failure"].type is ZeroDivisionError


def test_an_answer_that_is_none_is_a_500(port: Port, logged: list[LogEvent]) -> None:
    port.pages.wait = Deferred()
    wire = port.connect()
    wire.say(request("/pages"))
    port.pages.wait.callback(None)  # type: ignore[arg-type]
    assert wire.heard()[0].status == 500
    assert logged[0]["log_failure"].type is TypeError


def test_a_cancelling_that_nobody_asked_for_is_a_500(port: Port, logged: list[LogEvent]) -> None:
    port.pages.error = CancelledError()
    assert port.ask("/pages").status == 500
    assert logged[0]["log_failure"].type is CancelledError


def test_a_dialect_may_have_a_form_for_refusals(port: Port) -> None:
    port.site.limits = Limits(body_bytes=10)
    heard = port.ask("/shaped", "Content-Length: 11", method="POST")
    assert (heard.status, heard.body) == (413, b"/shaped: The body is over 10 bytes.")
    heard = port.ask("/pages", "Content-Length: 11", method="POST")
    assert (heard.status, error_of(heard)["code"]) == (413, "TOO_LARGE")


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"GET /shaped HTTP/1.1\r\nHost: h\r\nX: " + b"y" * 40000, 431),
        (b"GET /shaped?" + b"y" * 40000, 431),
        (b"GET /shaped HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /shaped HTTP/1.1\r\nHost: h\r\nAuthorization: a\r\nAuthorization: b\r\n\r\n", 400),
        (b"POST /shaped HTTP/1.1\r\nHost: h\r\nContent-Length: x\r\n\r\n", 400),
    ],
)
def test_a_head_that_is_refused_before_its_end_is_so_in_that_form(port: Port, head: bytes, status: int) -> None:
    wire = port.connect()
    (heard,) = wire.say(head)
    assert (heard.status, heard.body[:9]) == (status, b"/shaped: ")


def test_a_form_that_tells_itself_when_to_come_again_is_believed_once(port: Port) -> None:
    port.shaped.error = RateLimited("rate", retry_after=7)
    port.shaped.headers = (("retry-after", "99"),)
    heard = port.ask("/shaped")
    assert (heard.status, heard.headers["retry-after"]) == (429, "7")


@pytest.mark.parametrize(("status", "told"), [(503, True), (429, True), (413, False)])
def test_what_the_port_refuses_in_a_form_of_the_dialect_tells_when_to_come_again(
    port: Port, status: int, told: bool
) -> None:
    refusal = port.site.refusal(status, "Too much.", HttpRequest("POST", "/shaped", "", {}))
    assert refusal.body == b"/shaped: Too much."
    assert (("Retry-After", "1") in refusal.headers) == told


def test_errors_take_the_form_of_the_dialect_too(port: Port) -> None:
    port.shaped.error = Unavailable("store", message="away")
    heard = port.ask("/shaped")
    assert (heard.status, heard.body) == (503, b"/shaped: away")
    assert (heard.headers["x-form"], heard.headers["retry-after"]) == ("own", "1")


def test_a_form_that_fails_gives_way(port: Port, logged: list[LogEvent]) -> None:
    port.shaped.broken = True
    port.shaped.error = Invalid("x")
    heard = port.ask("/shaped")
    assert (heard.status, error_of(heard)["code"]) == (400, "INVALID")
    assert lines_of(logged) == ["shaped failed to shape a refusal"]


def test_a_request_that_was_not_understood_is_refused_in_the_common_form(port: Port) -> None:
    (heard,) = port.connect().say(b"nonsense\r\n\r\n")
    assert (heard.status, error_of(heard)["code"]) == (400, "INVALID")


# Pages of its own.


@pytest.mark.parametrize("headers", [(("www-authenticate", "Basic"),), (("X-A", "b"), ("WWW-Authenticate", "Basic"))])
def test_a_401_keeps_the_challenge_of_its_dialect(port: Port, headers: tuple[tuple[str, str], ...]) -> None:
    port.pages.wait = Deferred()
    port.pages.wait.callback(Response(401, headers=headers))
    assert port.ask("/pages").headers["www-authenticate"] == "Basic"


@pytest.mark.parametrize("path", ["/health", "/healthz"])
def test_health_is_answered_while_the_loop_turns(port: Port, path: str, logged: list[LogEvent]) -> None:
    port.reasons = ["the store is away"]
    heard = port.ask(path)
    assert (heard.status, heard.body) == (200, b'{"status": "ok"}')
    assert logged == []


@pytest.mark.parametrize("path", ["/ready", "/readyz"])
def test_readiness_has_reasons(port: Port, path: str) -> None:
    assert port.ask(path).status == 200
    port.reasons = ["the store is away", "The disk is full."]
    heard = port.ask(path)
    assert (heard.status, heard.headers["retry-after"]) == (503, "1")
    assert error_of(heard)["message"] == "Not ready: the store is away; The disk is full."
    assert error_of(heard)["data"] == {"reasons": ["the store is away", "The disk is full."]}


def test_about_names_the_dialects(port: Port) -> None:
    heard = port.ask("/about")
    assert json.loads(heard.body) == {
        "name": "txbroker",
        "dialects": ["pages", "shaped", "sockets", "careless", "refusing"],
    }


def test_a_dialect_may_take_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pages, "http_paths", ("/about",))
    monkeypatch.setattr(Shaped, "http_paths", ())
    assert Port().open().ask("/about").body == b"/about"


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", ["/health", "/healthz", "/ready", "/readyz"])
def test_balancers_check_by_any_method_that_reads(port: Port, path: str, method: str) -> None:
    wire = port.connect()
    wire.server.dataReceived(request(path, method=method))
    (heard,) = read_all(wire.value(), heads=method == "HEAD")
    assert (heard.status, heard.body) == (200, b"")
    assert ("allow" in heard.headers) == (method == "OPTIONS")


@pytest.mark.parametrize("path", ["/ready", "/", "*"])
def test_a_check_by_options_tells_that_the_node_is_not_ready(port: Port, path: str) -> None:
    assert port.ask(path, method="OPTIONS").status == 200
    port.reasons = ["the store is away"]
    assert port.ask(path, method="OPTIONS").status == 503
    assert port.ask("/health", method="OPTIONS").status == 200


def test_checks_of_old_http_need_no_host(port: Port) -> None:
    (heard,) = port.connect().say(b"OPTIONS / HTTP/1.0\r\n\r\n")  # "option httpchk" of HAProxy, with nothing behind it
    assert (heard.status, heard.headers["allow"]) == (200, "GET, HEAD, OPTIONS")


def test_pages_are_only_read(port: Port) -> None:
    heard = port.ask("/health", method="DELETE")
    assert (heard.status, heard.headers["allow"]) == (405, "GET, HEAD, OPTIONS")


# Web pages of other origins.


def test_a_page_of_another_origin_is_refused(port: Port, logged: list[LogEvent]) -> None:
    heard = port.upgrade("/ws", "Origin: http://evil")
    assert heard is not None
    assert (heard.status, error_of(heard)["code"]) == (403, "DENIED")
    (line,) = lines_of(logged)
    assert "http://evil" in line
    assert "TXBROKER_ALLOWED_ORIGINS" in line


def test_a_dialect_may_take_any_origin(port: Port) -> None:
    assert port.upgrade("/careless", "Origin: http://evil") is None


def test_a_dialect_sees_nothing_of_what_browsers_may_not_do() -> None:
    port = Port().open(policy=BrowserPolicy(hosts=("h",), secured=False))
    for lines in (("Origin: http://evil",), ("Sec-Fetch-Site: cross-site",)):
        assert port.ask("/pages", *lines, method="POST").status == 403
        assert port.ask("/shaped", *lines).headers["x-form"] == "own"
        for path in ("/ws", "/careless", "/nowhere"):
            heard = port.upgrade(path, *lines)
            assert heard is not None
            assert heard.status == 403
    assert (port.pages.asked, port.shaped.asked, port.upgrader.taken, port.peers) == ([], [], [], [])
    assert port.ask("/pages").status == 200


# Refused WebSockets.


def test_a_refused_session_gets_the_status_of_its_error(port: Port) -> None:
    port.sockets.error = Unauthenticated("token", message="bad token")
    port.upgrade("/ws")
    (link,) = port.upgrader.taken
    assert link.answer is not None
    assert (link.answer.status, json.loads(link.answer.body)["error"]["code"]) == (401, "UNAUTHENTICATED")
    assert port.peers[0].closed == 1


def test_a_session_that_fails_is_a_500(port: Port, logged: list[LogEvent]) -> None:
    port.sockets.error = ZeroDivisionError("deliberate")
    port.upgrade("/ws")
    answer = port.upgrader.taken[0].answer
    assert answer is not None
    assert (answer.status, b"deliberate" in answer.body) == (500, False)
    assert lines_of(logged) == ["sockets failed to open a session"]


def test_a_refusal_can_be_held(port: Port) -> None:
    port.refusing.error = Refused(403)
    port.upgrade("/refusing")
    assert late_answer(port).status == 403


@pytest.mark.parametrize("lines", [(), ("Origin: http://evil",)])
def test_only_so_many_refusals_are_held_and_others_dropped(port: Port, lines: tuple[str, ...]) -> None:
    port.refusing.error = Refused(403)
    for number in range(MAX_HELD + 5):
        port.connect(f"10.0.0.{number % 50}").say(handshake("/refusing", *lines))
    assert [link.dropped for link in port.upgrader.taken] == [False] * MAX_HELD + [True] * 5
    assert len(port.clock.getDelayedCalls()) <= MAX_HELD + 1
    assert not any(link.answer for link in port.upgrader.taken)
    port.clock.advance(3.0)
    assert len([link for link in port.upgrader.taken if link.answer is not None]) == MAX_HELD


def test_one_address_does_not_use_up_the_held_refusals(port: Port, logged: list[LogEvent]) -> None:
    port.refusing.error = Refused(403)
    for _ in range(MAX_HELD_PER_ADDRESS + 5):
        port.upgrade("/refusing")
    assert len([link for link in port.upgrader.taken if link.dropped]) == 5
    port.connect("10.0.0.2").say(handshake("/refusing"))
    assert not port.upgrader.taken[-1].dropped
    port.clock.advance(3.0)
    assert lines_of(logged) == ["refusing refused a client at 10.0.0.1: HTTP 403"]


def test_refusals_make_room_for_others(port: Port) -> None:
    port.refusing.error = Refused(403)
    for _ in range(2):
        for _ in range(MAX_HELD_PER_ADDRESS):
            port.upgrade("/refusing")
        port.clock.advance(3.0)
    assert not any(link.dropped for link in port.upgrader.taken)


def late_answer(port: Port) -> Response:
    """Return how the only handshake was refused, which must have been after three seconds."""
    (link,) = port.upgrader.taken
    port.clock.advance(2.9)
    assert link.answer is None
    port.clock.advance(0.2)
    assert link.answer is not None
    return link.answer


def test_the_refusal_of_an_origin_is_held(port: Port, logged: list[LogEvent]) -> None:
    assert port.upgrade("/refusing", "Origin: http://evil") is None
    answer = late_answer(port)
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (403, "DENIED")
    assert "TXBROKER_ALLOWED_ORIGINS" in lines_of(logged)[0]
    assert port.peers == []


def test_the_refusal_of_a_client_without_a_peer_is_held(port: Port) -> None:
    port.unattachable = RateLimited("limit", "peers")
    port.upgrade("/refusing")
    assert late_answer(port).status == 429


def test_the_refusal_by_a_fault_is_held(port: Port, logged: list[LogEvent]) -> None:
    port.refusing.error = ZeroDivisionError("deliberate")
    port.upgrade("/refusing")
    assert lines_of(logged) == ["refusing failed to open a session"]
    assert late_answer(port).status == 500


def test_the_refusal_while_draining_is_held(port: Port) -> None:
    wire = port.connect()
    wire.say(handshake("/refusing")[:10])
    port.site.drain(5.0)
    assert wire.say(handshake("/refusing")[10:]) == []
    assert late_answer(port).status == 503


def test_a_held_refusal_ends_with_its_client(port: Port) -> None:
    port.refusing.error = Refused(403)
    port.upgrade("/refusing")
    opening = port.upgrader.taken[0].opening
    assert opening is not None
    opening.cancel()
    assert port.upgrader.taken[0].answer is not None


# Too many.


def test_what_is_one_too_many_is_refused_in_the_form_of_its_dialect() -> None:
    port = Port().open(admission=Admission(connections=1))
    port.connect_admitted()
    heard = port.ask("/shaped")
    assert (heard.status, heard.body) == (503, b"/shaped: Too many connections.")
    assert heard.headers["retry-after"] == "1"
    assert error_of(port.ask("/pages"))["code"] == "UNAVAILABLE"


def test_connections_over_the_limit_are_rejected(logged: list[LogEvent]) -> None:
    port = Port().open(admission=Admission(connections=2))
    wires = [port.connect_admitted(), port.connect_admitted()]
    (heard,) = port.connect().say(request("/pages"))
    assert (heard.status, heard.headers["retry-after"], heard.headers["connection"]) == (503, "1", "close")
    wires[0].lose()
    assert port.connect().say(request("/pages"))[0].status == 200
    (line,) = lines_of(logged)
    assert line == "http refused 10.0.0.1: UNAVAILABLE for anonymous at connect; see TXBROKER_MAX_CONNECTIONS"


@pytest.mark.parametrize("path", ["/health", "/healthz", "/ready", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_who_watches_the_daemon_is_answered_even_over_the_limit(path: str, method: str) -> None:
    port = Port().open(admission=Admission(connections=1))
    port.connect_admitted()
    for _ in range(2 * MAX_HELD_PER_ADDRESS):
        port.connect()  # and says nothing
    wire = port.connect()
    wire.server.dataReceived(request(path, method=method))
    (heard,) = read_all(wire.value(), heads=method == "HEAD")
    assert (heard.status, heard.headers["connection"], bool(heard.body)) == (200, "close", method == "GET")


def test_what_is_not_ready_says_so_over_the_limit() -> None:
    port = Port().open(admission=Admission(connections=1))
    port.connect_admitted()
    port.reasons.append("store")
    (heard,) = port.connect().say(request("/ready"))
    assert (heard.status, "store" in error_of(heard)["message"]) == (503, True)


def test_pages_of_others_learn_nothing_over_the_limit() -> None:
    port = Port().open(admission=Admission(connections=1), policy=BrowserPolicy(hosts=("h",)))
    port.connect_admitted()
    wire = port.connect()
    assert [heard.status for heard in wire.say(b"GET /health HTTP/1.1\r\nHost: evil.example\r\n\r\n")] == [403]


def test_a_websocket_counts_as_a_connection() -> None:
    port = Port().open(admission=Admission(connections=1))
    port.upgrade("/ws")
    assert port.ask("/pages").status == 503
    port.upgrader.taken[0].end(1000)
    assert port.ask("/pages").status == 200


def test_connections_of_one_address_are_limited(logged: list[LogEvent]) -> None:
    port = Port().open(admission=Admission(per_address=1))
    port.connect_admitted("10.0.0.1")
    assert port.ask("/pages").status == 503
    assert port.connect("10.0.0.2").say(request("/pages"))[0].status == 200
    assert "TXBROKER_MAX_CONNECTIONS_PER_ADDRESS" in lines_of(logged)[0]


def test_the_addresses_of_one_network_of_ipv6_are_limited_as_one() -> None:
    port = Port().open(admission=Admission(per_address=1))
    port.connect_admitted("2001:db8::1")
    assert port.connect("2001:db8::ffff:2").say(request("/pages"))[0].status == 503
    assert port.connect("2001:db8:0:1::1").say(request("/pages"))[0].status == 200


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1", "10.9.9.9"])
def test_this_machine_and_trusted_proxies_are_not_limited_by_address(host: str) -> None:
    port = Port().open(admission=Admission(per_address=1, proxies=TrustedProxies(["10.9.0.0/16"])))
    for _ in range(3):
        assert port.connect_admitted(host).lost is False


@pytest.mark.parametrize("name", [None, "", "/tmp/me", "\x00203.0.113.9"])
def test_clients_of_a_unix_socket_have_no_address(name: str | None) -> None:
    port = Port().open(admission=Admission(per_address=1))
    for _ in range(3):
        wire = Wire(port.site.buildProtocol(UNIXAddress(name)))  # type: ignore[arg-type]
        assert wire.server.address == ""
        assert wire.say(request("/health"))[0].status == 200


def test_rejecting_is_bounded_too() -> None:
    port = Port().open(admission=Admission(connections=1))
    port.connect_admitted()
    limit = MAX_HELD_PER_ADDRESS + MAX_READ_PER_ADDRESS
    silent = [port.connect() for _ in range(limit)]
    port.connect("10.0.0.2")
    assert not any(wire.lost for wire in silent)
    port.connect()
    assert [wire.aborted for wire in silent] == [True] + [False] * (limit - 1)
    port.clock.advance(2.0)
    assert [wire.aborted for wire in port.wires] == [False] + [True] * (limit + 2)


def test_handshakes_that_are_refused_late_leave_room_for_those_who_watch() -> None:
    port = Port().open(admission=Admission(connections=1))
    port.connect_admitted()
    held = [port.connect() for _ in range(MAX_HELD_PER_ADDRESS + 5)]
    for wire in held:
        wire.server.dataReceived(handshake("/refusing"))
    assert [wire.aborted for wire in held] == [False] * MAX_HELD_PER_ADDRESS + [True] * 5
    assert port.ask("/health").status == 200


@pytest.mark.parametrize(("path", "line"), [("/refusing?a=b", "X: y"), ("/none", "Sec-WebSocket-Protocol: refusing")])
def test_a_handshake_over_the_limit_is_refused_late_as_well(path: str, line: str) -> None:
    port = Port().open(admission=Admission(connections=1))
    port.connect_admitted()
    wire = port.connect()
    head = handshake(path, line)
    wire.server.dataReceived(head[:2])
    wire.server.dataReceived(head[2:])
    wire.server.dataReceived(b"more")
    port.clock.advance(2.9)
    assert (wire.heard(), wire.lost) == ([], False)
    port.clock.advance(0.2)
    assert ([answer.status for answer in wire.heard()], wire.lost) == ([503], True)
    assert len(port.clock.getDelayedCalls()) == 1  # of the first connection


def test_who_does_not_read_its_late_refusal_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    port = Port().open(admission=Admission(connections=1))
    port.connect_admitted()
    wire = port.connect()
    monkeypatch.setattr(wire, "loseConnection", lambda: None)  # what is written waits for the client
    wire.server.dataReceived(handshake("/refusing"))
    port.clock.advance(3.0)
    port.clock.advance(1.9)
    assert (len(wire.heard()), wire.lost) == (1, False)
    port.clock.advance(0.1)
    assert wire.aborted


def test_who_leaves_before_it_is_refused_makes_room() -> None:
    port = Port().open(admission=Admission(connections=1))
    port.connect_admitted()
    for _ in range(MAX_HELD_PER_ADDRESS + 1):
        wire = port.connect()
        wire.server.dataReceived(handshake("/refusing"))
        wire.lose()
    assert len(port.clock.getDelayedCalls()) == 1


@pytest.mark.parametrize(
    "data", [handshake("/ws"), request("/refusing"), b"POST /refusing HTTP/1.1\r\n", b"nonsense", b"GET " * 5000]
)
def test_anything_else_over_the_limit_is_refused_at_once(data: bytes) -> None:
    port = Port().open(admission=Admission(connections=1))
    port.connect_admitted()
    assert [answer.status for answer in port.connect().say(data)] == [503]


def test_what_is_over_a_limit_is_logged_and_counted_by_address(logged: list[LogEvent]) -> None:
    port = Port().open(admission=Admission(connections=1), times=Times(silent=200.0))
    port.connect_admitted()
    for _ in range(LINES_AT_ONCE + 5):
        port.ask("/pages")
    port.connect("10.0.0.2")
    port.clock.advance(60.0)
    port.ask("/pages")
    *_, other, last = lines_of(logged)
    assert other.startswith("http refused 10.0.0.2: UNAVAILABLE ")
    assert last.endswith("TXBROKER_MAX_CONNECTIONS (4 more were not logged)")
    assert port.metrics.refusals["http", "UNAVAILABLE"] == LINES_AT_ONCE + 7


# The end.


def test_an_empty_site_is_drained_at_once(port: Port) -> None:
    done: list[None] = []
    port.site.drain(5.0).addCallback(done.append)
    assert done == [None]


def test_draining_lets_requests_finish_and_closes_the_rest(port: Port) -> None:
    done: list[None] = []
    port.pages.wait = Deferred()
    idle, busy = port.connect(), port.connect()
    idle.say(request("/health"))
    busy.say(request("/pages"))
    port.upgrade("/ws")
    port.site.drain(5.0).addCallback(done.append)
    assert (idle.lost, busy.lost) == (True, False)
    assert port.upgrader.taken[0].closed == (1001, "leaving")
    port.pages.wait.callback(Response())
    assert busy.heard()[0].headers["connection"] == "close"
    assert done == []
    port.upgrader.taken[0].end(1001)
    assert done == [None]


def test_clients_that_come_back_are_closed_with_1012(port: Port) -> None:
    port.upgrade("/refusing")
    port.upgrade("/elsewhere", "Sec-WebSocket-Protocol: refusing")
    port.site.drain(5.0)
    assert [link.closed for link in port.upgrader.taken] == [(1012, "leaving")] * 2


def test_where_other_nodes_are_websockets_are_closed_one_after_the_other() -> None:
    port = Port().open(spread=True)
    for _ in range(50):
        port.upgrade("/ws")
    done: list[None] = []
    port.site.drain(10.0).addCallback(done.append)
    counts = []
    for _ in range(8):
        counts.append(sum(link.closed is not None for link in port.upgrader.taken))
        port.clock.pump([0.1] * 10)
    assert [(count - 1) // 6 for count in counts] == list(range(8))
    assert all(link.closed for link in port.upgrader.taken)
    port.clock.advance(2.1)
    assert done == [None]


def test_a_lame_duck_closes_one_after_the_other_though_it_is_alone_and_answers_those_who_watch_it(port: Port) -> None:
    for _ in range(5):
        port.upgrade("/ws")
    port.site.drain(10.0, spread=True)
    assert sum(link.closed is not None for link in port.upgrader.taken) == 1
    for path, status in (("/health", 200), ("/ready", 503), ("/pages", 503)):
        assert port.connect().say(request(path))[0].status == status
    port.clock.pump([0.05] * 40)
    assert all(link.closed for link in port.upgrader.taken)


def test_a_site_that_stops_now_does_not_go_on_closing_one_after_the_other() -> None:
    port = Port().open(spread=True)
    for _ in range(5):
        port.upgrade("/ws")
    port.site.drain(10.0)
    port.site.stop_now()
    assert all(link.dropped for link in port.upgrader.taken)
    assert port.clock.getDelayedCalls() == []


def test_what_does_not_end_in_time_is_dropped(port: Port) -> None:
    done: list[None] = []
    port.pages.wait = Deferred()
    wire = port.connect()
    wire.say(request("/pages"))
    port.upgrade("/ws")
    port.site.drain(5.0).addCallback(done.append)
    port.clock.advance(4.9)
    assert done == []
    port.clock.advance(0.2)
    assert done == [None]
    assert wire.aborted


def test_a_site_that_stops_now_drops_what_is_left(port: Port) -> None:
    done: list[None] = []
    port.pages.wait = Deferred()
    wire = port.connect()
    wire.say(request("/pages"))
    port.upgrade("/ws")
    port.site.stop_now()
    assert not wire.aborted
    port.site.drain(5.0).addCallback(done.append)
    assert done == []
    port.site.stop_now()
    assert wire.aborted
    assert done == [None]


def test_a_dialect_answers_those_who_wait_for_it_when_the_site_drains(port: Port) -> None:
    done: list[None] = []
    port.pages.wait = waiting = Deferred()
    port.pages.on_drain = lambda: waiting.callback(Response(body=b"leaving"))
    busy = port.connect()
    busy.say(request("/pages"))
    port.site.drain(5.0).addCallback(done.append)
    assert busy.heard()[0].body == b"leaving"
    assert done == [None]


def test_a_dialect_whose_drain_fails_holds_up_nobody(port: Port, logged: list[LogEvent]) -> None:
    done: list[None] = []
    port.pages.on_drain = lambda: 1 / 0
    idle = port.connect()
    port.site.drain(5.0).addCallback(done.append)
    assert (idle.lost, done) == (True, [None])
    assert lines_of(logged) == ["pages: drain failed"]


def test_a_draining_site_takes_nobody(port: Port) -> None:
    port.pages.wait = Deferred()
    busy = port.connect()
    busy.say(request("/pages") + handshake("/ws"))
    port.site.drain(5.0)
    assert port.ask("/pages").status == 503
    port.pages.wait.callback(Response())
    assert port.upgrader.taken == []


def test_an_event_source_that_comes_back_while_draining_is_cut_off_and_comes_again(port: Port) -> None:
    port.pages.wait = Deferred()
    busy = port.connect()
    busy.say(request("/pages"))
    port.site.drain(5.0)
    wire = port.connect()
    assert wire.say(request("/pages", "Last-Event-ID: e-1")) == []
    assert wire.aborted
    port.pages.wait.callback(Response())


def test_a_draining_site_is_not_ready(port: Port) -> None:
    wire = port.connect()
    wire.say(request("/ready")[:10])
    port.site.drain(5.0)
    (heard,) = wire.say(request("/ready")[10:])
    assert (heard.status, error_of(heard)["data"]) == (503, {"reasons": ["draining"]})


def test_a_handshake_that_comes_while_draining_is_refused(port: Port) -> None:
    wire = port.connect()
    wire.say(handshake("/ws")[:10])
    port.site.drain(5.0)
    assert wire.say(handshake("/ws")[10:])[0].status == 503
    wire.lose()


def test_a_site_drains_once(port: Port) -> None:
    port.connect()
    port.site.drain(5.0)
    failures: list[Failure] = []
    port.site.drain(5.0).addErrback(failures.append)
    assert failures[0].type is RuntimeError
