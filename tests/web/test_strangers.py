"""Clients that are not admitted keep nobody out, and do not stay."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent

from broker.access.addresses import TrustedProxies
from broker.access.admission import Admission
from broker.access.browsers import BrowserPolicy
from broker.messages import Response
from tests.support.logs import lines_of
from tests.web.test_site import Port, handshake, request
from tests.web.wire import Wire

PROXIES = TrustedProxies(["10.9.0.0/16"])
PROXY = "10.9.0.1"


class GuardedPort(Port):
    """One where clients are admitted by a credential, which a test gives them by ``admit``."""

    def attach(self, dialect: str, address: str) -> Any:
        peer = super().attach(dialect, address)
        peer.admitted = self.open_to_all
        return peer

    open_to_all = False


def guarded(**limits: Any) -> GuardedPort:
    port = GuardedPort()
    port.open(admission=Admission(**limits))
    return port


def half_sent(port: Port, host: str = "10.0.0.1") -> list[Wire]:
    """Return connections that have sent nothing, half a head, and half a body."""
    wires = [port.connect(host) for _ in range(3)]
    wires[1].server.dataReceived(request("/pages")[:-2])
    wires[2].server.dataReceived(request("/pages", "Content-Length: 10", method="POST") + b"half")
    return wires


def test_half_sent_requests_keep_nobody_out(logged: list[LogEvent]) -> None:
    port = guarded(connections=3)
    strangers = half_sent(port)
    port.open_to_all = True
    for stranger in strangers:
        assert not stranger.lost
        port.connect_admitted("10.0.0.2")
        assert stranger.aborted
    assert port.connect("10.0.0.2").say(request("/pages"))[0].status == 503
    assert "TXBROKER_MAX_UNADMITTED" in lines_of(logged)[0]


def test_those_of_one_address_have_a_share(logged: list[LogEvent]) -> None:
    port = guarded(unadmitted=100, unadmitted_per_address=3)
    other = port.connect("10.0.0.2")
    wires = half_sent(port) + half_sent(port)
    assert [wire.aborted for wire in (other, *wires)] == [False, True, True, True, False, False, False]


def test_requests_without_a_credential_admit_nobody() -> None:
    port = guarded(unadmitted=1)
    wire = port.connect()
    wire.say(request("/pages"))
    wire.say(request("/health"))
    port.connect("10.0.0.2")
    assert wire.aborted


def test_an_admitted_request_makes_its_connection_one_of_an_admitted_client() -> None:
    port = guarded(unadmitted=1)
    port.open_to_all = True
    wires = [port.connect_admitted() for _ in range(5)]
    port.connect("10.0.0.2")
    assert not any(wire.lost for wire in wires)


def test_an_admitted_request_that_waits_is_not_dropped() -> None:
    port = guarded(unadmitted=1, deadline=30.0)
    port.open_to_all = True
    port.pages.wait = Deferred()
    wire = port.connect()
    wire.say(request("/pages"))
    port.connect("10.0.0.2")
    port.clock.pump([1.0] * 60)
    assert not wire.lost
    port.pages.wait.callback(Response())
    assert [heard.status for heard in wire.heard()] == [200]


def test_a_session_that_outlives_its_requests_admits_them() -> None:
    port = guarded(unadmitted=1)

    async def answer(peer: Any, asked: Any) -> Response:
        asked.peer = port.attach("pages", "10.0.0.1")
        asked.peer.admitted = True
        return Response()

    port.pages.answer = answer  # type: ignore[method-assign, assignment]
    wire = port.connect()
    wire.say(request("/pages"))
    port.connect("10.0.0.2")
    assert not wire.lost


def test_a_socket_without_a_credential_makes_room_for_others() -> None:
    port = guarded(unadmitted=1)
    port.upgrade("/ws")
    port.connect("10.0.0.2")
    assert port.upgrader.taken[0].dropped


def test_a_socket_that_was_admitted_stays() -> None:
    port = guarded(unadmitted=1, deadline=30.0)
    port.upgrade("/ws")
    port.peers[0].admitted = True
    port.connect("10.0.0.2")
    port.clock.pump([1.0] * 40)
    assert (port.upgrader.taken[0].dropped, port.upgrader.taken[0].closed) == (False, None)


def test_a_socket_whose_client_would_be_back_at_once_is_not_dropped_for_its_own_address() -> None:
    port = guarded(unadmitted_per_address=1)
    port.upgrade("/refusing")
    host = port.upgrader.taken[0].handshake.address
    assert port.connect(host).say(request("/pages"))[0].status == 503
    assert port.connect(host).say(request("/health"))[0].status == 200
    port.clock.advance(3.0)
    port.connect(host)
    assert port.upgrader.taken[0].dropped


def test_refusals_that_are_held_back_keep_no_other_address_out() -> None:
    port = guarded(unadmitted=1)
    port.upgrade("/refusing")
    port.open_to_all = True
    port.connect_admitted("10.0.0.2")
    assert port.upgrader.taken[0].dropped


@pytest.mark.parametrize("path", ["/ws", "/careless", "/refusing"])
def test_a_socket_has_some_time_to_show_a_credential(path: str) -> None:
    port = guarded(deadline=30.0)
    port.upgrade(path)
    (link,) = port.upgrader.taken
    port.clock.pump([1.0] * 29)
    assert link.closed is None
    port.clock.pump([0.1] * 11)
    assert link.closed == (1008, "no credential within 30 s")


def test_what_is_held_of_a_socket_ends_with_it() -> None:
    port = guarded(deadline=30.0)
    port.upgrade("/ws")
    (link,) = port.upgrader.taken
    link.end(1000)
    assert (link.handshake.peer, len(port.site._unadmitted)) == (None, 0)
    port.clock.pump([1.0] * 40)
    assert link.closed is None


# The deadline of connections.


def idle_after(port: Port, seconds: int, *data: bytes) -> Wire:
    wire = port.connect()
    for piece in data:
        wire.server.dataReceived(piece)
    port.clock.pump([1.0] * seconds)
    return wire


@pytest.mark.parametrize("path", ["/health", "/pages"])
def test_a_connection_is_held_no_longer_than_the_deadline_by_who_is_not_admitted(path: str) -> None:
    port = guarded(deadline=20.0)
    assert not idle_after(port, 39, request(path)).lost
    assert idle_after(port, 42, request(path)).lost


def test_who_asks_now_and_then_stays() -> None:
    port = guarded(deadline=20.0)
    wire = port.connect()
    for _ in range(10):
        assert wire.say(request("/health"))[0].status == 200
        port.clock.pump([1.0] * 15)
    assert not wire.lost


def test_an_admitted_client_may_hold_its_connection() -> None:
    port = guarded(deadline=20.0)
    port.open_to_all = True
    assert not idle_after(port, 60, request("/pages")).lost


def test_a_body_that_comes_too_slowly_is_refused() -> None:
    port = guarded(deadline=20.0)
    wire = idle_after(port, 0, request("/pages", "Content-Length: 100", method="POST"))
    for _ in range(21):
        wire.server.dataReceived(b"x")
        port.clock.advance(1.0)
    assert [heard.status for heard in wire.heard()] == [408]


def test_a_body_that_comes_quickly_may_take_longer() -> None:
    port = guarded(deadline=20.0)
    wire = idle_after(port, 0, request("/pages", "Content-Length: 50000", method="POST"))
    for _ in range(45):
        wire.server.dataReceived(b"x" * 1100)
        port.clock.advance(1.0)
    wire.server.dataReceived(b"x" * 500)
    assert [heard.status for heard in wire.heard()] == [200]


# Clients of proxies.


def behind_proxy(port: Port, forwarded_for: str, path: str = "/ws", **options: Any) -> Wire:
    wire = port.connect(options.get("host", PROXY))
    wire.server.dataReceived(handshake(path, f"X-Forwarded-For: {forwarded_for}"))
    return wire


def test_the_client_of_a_proxy_has_its_own_address() -> None:
    port = guarded(proxies=PROXIES)
    port.connect(PROXY).say(request("/pages", "X-Forwarded-For: 6.6.6.6, 203.0.113.5"))
    port.connect(PROXY).say(request("/pages", "Forwarded: for=203.0.113.6"))
    behind_proxy(port, "203.0.113.7")
    assert [peer.address for peer in port.peers] == ["203.0.113.5", "203.0.113.6", "203.0.113.7"]
    assert port.upgrader.taken[0].handshake.address == "203.0.113.7"


def test_who_is_no_proxy_can_not_say_where_it_comes_from() -> None:
    port = guarded(proxies=PROXIES)
    port.connect("10.0.0.1").say(request("/pages", "X-Forwarded-For: 203.0.113.5", "Forwarded: for=203.0.113.5"))
    behind_proxy(port, "203.0.113.5", host="10.0.0.1")
    assert [peer.address for peer in port.peers] == ["10.0.0.1", "10.0.0.1"]


def test_each_request_of_a_proxy_s_connection_has_the_address_of_its_client() -> None:
    port = guarded(proxies=PROXIES)
    wire = port.connect(PROXY)
    for address in ("203.0.113.5", "203.0.113.6"):
        wire.say(request("/pages", f"X-Forwarded-For: {address}"))
    wire.say(request("/pages"))
    assert [peer.address for peer in port.peers] == ["203.0.113.5", "203.0.113.6", PROXY]


def test_sockets_through_a_proxy_are_limited_by_the_address_of_their_client(logged: list[LogEvent]) -> None:
    port = guarded(per_address=1, proxies=PROXIES)
    port.open_to_all = True
    behind_proxy(port, "203.0.113.5")
    (heard,) = behind_proxy(port, "203.0.113.5").heard()
    assert heard.status == 503
    behind_proxy(port, "203.0.113.6")
    port.upgrader.taken[0].end(1000)
    behind_proxy(port, "203.0.113.5")
    assert sorted(link.handshake.address for link in port.upgrader.links) == ["203.0.113.5", "203.0.113.6"]
    assert (
        "sockets refused 203.0.113.5: UNAVAILABLE for anonymous at connect; see TXBROKER_MAX_CONNECTIONS_PER"
        in lines_of(logged)[1]
    )


def test_clients_of_a_proxy_that_are_not_admitted_have_a_share_each() -> None:
    port = guarded(unadmitted_per_address=2, proxies=PROXIES)
    for address in ("203.0.113.5", "203.0.113.6", "203.0.113.6", "203.0.113.5", "203.0.113.5"):
        behind_proxy(port, address)
    assert [link.dropped for link in port.upgrader.taken] == [True, False, False, False, False]


def test_what_a_proxy_s_clients_count_is_given_back() -> None:
    port = guarded(per_address=5, connections=5, unadmitted=3, deadline=30.0, proxies=PROXIES)
    for number in range(20):
        behind_proxy(port, f"203.0.113.{number % 3}", "/refusing" if number % 2 else "/ws")
        port.clock.advance(3.0)
    for link in list(port.upgrader.links):
        link.end(1000)
    for wire in port.wires:
        wire.lose()
    assert (port.site.connections, len(port.site._unadmitted)) == (0, 0)
    assert not port.site._counter._addresses


def test_a_client_of_a_proxy_makes_no_room_by_its_own_connection() -> None:
    port = guarded(unadmitted=1, proxies=PROXIES)
    wire = behind_proxy(port, "203.0.113.5")
    assert (wire.aborted, len(port.upgrader.links), len(port.site._unadmitted)) == (False, 1, 1)


PAGE = "Origin: https://app.example"


@pytest.mark.parametrize(
    ("peer", "lines", "status"),
    [
        (PROXY, ("X-Forwarded-Host: app.example",), 200),
        (PROXY, ("X-Forwarded-Host: evil.example, app.example",), 200),
        (PROXY, ("Forwarded: for=203.0.113.5;host=app.example",), 200),
        (PROXY, ("X-Forwarded-Host: app.example:8443",), 403),
        (PROXY, (), 403),
        ("10.0.0.1", ("X-Forwarded-Host: app.example",), 403),
        ("10.0.0.1", ("Forwarded: host=app.example",), 403),
    ],
)
def test_a_page_is_of_the_host_that_the_client_of_a_proxy_has_named(
    peer: str, lines: tuple[str, ...], status: int
) -> None:
    port = guarded(proxies=PROXIES)
    (heard,) = port.connect(peer).say(request("/pages", PAGE, *lines))
    assert heard.status == status
    assert ("access-control-allow-origin" in heard.headers) == (status == 200)


@pytest.mark.parametrize(("said", "status"), [("h", 200), ("h:8443", 200), ("evil.example", 403)])
def test_a_name_that_a_proxy_tells_must_be_allowed_as_one_that_is_asked_for(said: str, status: int) -> None:
    port = Port().open(admission=Admission(proxies=PROXIES), policy=BrowserPolicy(hosts=("h",), secured=False))
    (heard,) = port.connect(PROXY).say(request("/pages", f"X-Forwarded-Host: {said}"))
    assert heard.status == status


def test_what_a_proxy_tells_does_not_stand_for_a_name_that_is_not_allowed() -> None:
    port = Port().open(admission=Admission(proxies=PROXIES), policy=BrowserPolicy(hosts=("app.example",)))
    (heard,) = port.connect(PROXY).say(request("/pages", "X-Forwarded-Host: app.example"))
    assert heard.status == 403  # the request was sent to "h"


def test_a_request_that_came_to_the_proxy_over_tls_is_secure() -> None:
    port = guarded(proxies=PROXIES)
    for peer in (PROXY, "10.0.0.1"):
        port.connect(peer).say(request("/pages", "X-Forwarded-Proto: https"))
    assert [asked.secure for _, asked in port.pages.asked] == [True, False]
