"""What the admin port shows, and to whom."""

from __future__ import annotations

import json
import re
import socket
from gzip import decompress
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.task import Clock

from broker.app.tap import make_admin_site, make_core
from broker.config.settings import Settings
from tests.support.logs import lines_of
from tests.web.wire import Heard, Wire, read_all

SECRET = "n\u00fcr f\u00fcr Betreiber"  # its bytes go over the wire as they are
SHOWN = f"Authorization: Bearer {SECRET}"
PATHS = ("/metrics", "/about", "/ready", "/readyz", "/nothing", "//metrics", "/health")


class Port:
    """The admin port of a broker that was not started, so that it is not ready."""

    def __init__(self, **options: Any) -> None:
        settings = Settings(store="memory:", **options)
        self.broker = make_core(Clock(), settings)
        self.site = make_admin_site(Clock(), settings, self.broker)

    def connect(self) -> Wire:
        return Wire(self.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1)))  # type: ignore[arg-type]

    def ask(self, path: str, *lines: str, host: str = "localhost:8001", method: str = "GET", body: str = "") -> Heard:
        wire = self.connect()
        (heard,) = wire.say("\r\n".join((f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "", body)).encode())
        wire.lose()
        return heard

    def statuses(self, *lines: str, **more: str) -> list[int]:
        return [self.ask(path, *lines, **more).status for path in PATHS]


def test_everything_is_shown_on_this_machine():
    assert Port().statuses() == [200, 200, 503, 503, 404, 200, 200]


def test_about_names_the_machine_to_operators_only():
    port = Port()
    about = json.loads(port.ask("/about").body)
    assert about["hostname"] == socket.gethostname()
    assert about["store"] == "memory; everything is lost at the end of the process"
    assert about["node"]
    public = port.broker.about()
    assert about.items() > public.items() - {("store", "memory")}
    assert public["store"] == "memory"
    assert not {"hostname", "node"} & set(public)


def test_reasons_are_told_in_full_to_operators_only():
    port = Port()
    store: Any = port.broker.store
    store._stopped_reason = "Redis at 10.1.2.3:6379: Connection refused"
    port.broker.bus.ready = "Redis at 10.1.2.3:6379: timeout"
    assert port.broker.store.ready in json.loads(port.ask("/ready").body)["error"]["data"]["reasons"]
    assert port.broker.obstacles() == ["the store takes no writes", "the bus carries no events", "not started"]


def test_with_a_secret_it_is_asked_for_everywhere_but_at_health():
    port = Port(admin_secret=SECRET)
    assert port.statuses() == [401] * 6 + [200]
    assert port.statuses(SHOWN) == [200, 200, 503, 503, 404, 200, 200]
    assert port.ask("/metrics").headers["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize(
    "shown",
    ["", "Bearer", "Bearer ", f"Basic {SECRET}", f"Bearer {SECRET}x", f"Bearer {SECRET[:-1]}", SECRET, "Bearer \u00ff"],
)
def test_a_wrong_secret_is_refused(shown):
    assert Port(admin_secret=SECRET).ask("/metrics", f"Authorization: {shown}").status == 401


def test_the_scheme_is_taken_in_any_case():
    assert Port(admin_secret=SECRET).ask("/metrics", f"authorization: bearer  {SECRET}").status == 200


@pytest.mark.parametrize("origin", ["http://localhost:3000", "https://app.example", "null"])
def test_no_other_page_is_shown_anything(origin):
    port = Port(allowed_origins=("https://app.example",))
    assert port.statuses(f"Origin: {origin}") == [403] * 7
    assert port.statuses("Sec-Fetch-Site: cross-site") == [403] * 7
    assert b"TXBROKER" not in port.ask("/metrics", f"Origin: {origin}").body  # no setting allows it
    shown = Port(admin_secret=SECRET, allowed_origins=("https://app.example",)).ask(
        "/metrics", f"Origin: {origin}", SHOWN
    )
    assert (shown.status, "access-control-allow-origin" in shown.headers) == (403, False)


def test_without_a_secret_a_foreign_name_is_answered_nowhere():
    port = Port(allowed_hosts=("ops.lan",))
    assert port.statuses(host="evil.example:8001") == [403] * 7
    assert port.ask("/metrics", host="ops.lan:8001").status == 200
    assert Port(admin_secret=SECRET).ask("/metrics", SHOWN, host="ops.example").status == 200


def test_after_too_many_wrong_secrets_none_is_looked_at_and_each_is_logged(logged):
    port = Port(admin_secret=SECRET, auth_failures_per_minute=2)
    wrong = "Authorization: Bearer wrong"
    answers = [port.ask("/metrics", *lines) for lines in ((), (wrong,), (wrong,), (wrong,), (SHOWN,))]
    assert [answer.status for answer in answers] == [401, 401, 401, 429, 429]
    assert answers[-1].headers["retry-after"] == "60"
    assert port.ask("/health").status == 200
    assert "admin refused 127.0.0.1: UNAUTHENTICATED for anonymous at identify; see TXBROKER_ADMIN_SECRET" in lines_of(
        logged
    )
    assert "wrong" not in repr(lines_of(logged))


POST = ("Content-Type: application/json", "Content-Length: 13")
PAGES = ("Origin: http://localhost:3000", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site")


def test_another_secret_ends_the_connections_of_the_one_before():
    port = Port(admin_secret=SECRET)
    wire = port.connect()
    wire.say(f"GET /metrics HTTP/1.1\r\nHost: localhost\r\n{SHOWN}\r\n\r\n".encode())
    port.site.replace_secret("another, of operators alone")
    assert wire.lost
    assert port.ask("/metrics", SHOWN).status == 401
    assert port.ask("/metrics", "Authorization: Bearer another, of operators alone").status == 200


@pytest.mark.parametrize("secret", ["", SECRET])
@pytest.mark.parametrize("page", PAGES)
def test_no_other_page_can_act(page, secret):
    lines = (*POST, SHOWN) if secret else POST
    port = Port(admin_secret=secret)
    heard = port.ask("/admin/api/publish", *lines, page, method="POST", body='{"topic":"t"}')
    assert (heard.status, heard.headers["content-type"]) == (403, "application/problem+json")
    own = ("Origin: http://localhost:8001", "Sec-Fetch-Site: same-origin")
    assert port.ask("/admin/api/publish", *lines, *own, method="POST", body='{"topic":"t"}').status == 200


def test_without_the_secret_the_api_says_so_as_a_problem():
    heard = Port(admin_secret=SECRET).ask("/admin/api/sessions")
    assert (heard.status, heard.headers["content-type"]) == (401, "application/problem+json")
    assert heard.headers["www-authenticate"].startswith("Bearer")


def ask_by(port: Port, method: str, path: str, *lines: str) -> Heard:
    wire = Wire(port.site.buildProtocol(IPv4Address("TCP", "127.0.0.1", 1)))  # type: ignore[arg-type]
    wire.server.dataReceived("\r\n".join((f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", "")).encode())
    (heard,) = read_all(wire.value(), heads=method == "HEAD")
    wire.lose()
    return heard


@pytest.mark.parametrize(
    ("method", "status"),
    [("GET", 200), ("HEAD", 200), ("OPTIONS", 200), ("POST", 405), ("PUT", 405), ("DELETE", 405), ("PATCH", 405)],
)
@pytest.mark.parametrize("path", ["/metrics", "/about"])
def test_pages_are_read_and_nothing_else(method, status, path):
    heard = ask_by(Port(), method, path)
    assert heard.status == status
    assert ("allow" in heard.headers) == (method not in ("GET", "HEAD"))
    assert bool(heard.body) == (method not in ("HEAD", "OPTIONS"))


@pytest.mark.parametrize("field", ["gzip", "x-gzip", "br, GZip;q=0.5", "deflate,gzip;q=1.0,*;q=0"])
def test_metrics_are_compressed_for_who_asks_for_it(field):
    heard = ask_by(Port(), "GET", "/metrics", f"Accept-Encoding: {field}")
    assert heard.headers["content-encoding"] == "gzip"
    assert heard.headers["vary"] == "Accept-Encoding"
    assert b"txbroker_ready 0.0" in decompress(heard.body)


@pytest.mark.parametrize("field", ["", "identity", "gzip;q=0", "gzip; q=0.000", "gzipped", "br", ";", "*"])
def test_metrics_are_text_for_all_others(field):
    heard = ask_by(Port(), "GET", "/metrics", f"Accept-Encoding: {field}")
    assert "content-encoding" not in heard.headers
    assert b"txbroker_ready 0.0" in heard.body


def test_all_pages_of_operators_are_one_dialect():
    port = Port()
    port.broker.metrics.begin_port()
    for path in ("/metrics", "/admin/", "/admin/api/status", "/admin/api/sessions"):
        ask_by(port, "GET", path)
    labels = set(re.findall(r'dialect="([^"]*)"', ask_by(port, "GET", "/metrics").body.decode()))
    assert labels == {"admin", "http"}


def test_metrics_are_as_long_whatever_clients_do():
    port = Port()
    port.broker.metrics.begin_port()
    port.broker.metrics.begin("test")
    before = ask_by(port, "GET", "/metrics").body.count(b"\n")
    peer = port.broker.attach("test", "127.0.0.1")
    for number in range(3000):
        port.broker.topics.subscribe(peer, f'a"b\\{number}\n')
        port.broker.metrics.closed("test", 3000 + number % 2000)
    body = ask_by(port, "GET", "/metrics").body
    assert b"txbroker_subscriptions 3000.0" in body
    assert body.count(b"\n") == before


def test_operators_are_let_in_whatever_strangers_hold_open():
    port = Port(admin_secret=SECRET, max_unadmitted=20, max_unadmitted_per_address=10)
    operator = port.connect()
    ask = f"GET /about HTTP/1.1\r\nHost: localhost\r\n{SHOWN}\r\n\r\n".encode()
    assert operator.say(ask)[0].status == 200
    strangers = [port.connect() for _ in range(50)]
    for stranger in (each for each in strangers if not each.lost):
        stranger.say(b"GET /index.html HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert port.site.connections <= 21
    assert operator.say(ask)[0].status == 200
    assert port.ask("/about", SHOWN).status == 200


def test_what_clients_of_the_admin_port_hold_is_counted():
    port = Port(admin_secret=SECRET)
    memory = port.broker.parts.memory
    wire = port.connect()
    wire.say(b"POST /api/settings HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n" + b"x" * 50000)
    assert memory.upload.used == memory.unadmitted.used >= 50000
    wire.lose()
    assert memory.used == memory.unadmitted.used == 0
