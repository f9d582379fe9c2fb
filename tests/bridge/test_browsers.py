"""What pages of browsers may do: every way in, of every dialect, is judged alike and before the dialect."""

from __future__ import annotations

import pytest
import pytest_twisted

from protocols.thinws.dialect import ThinWs
from tests.support.public_port import UPGRADE, PublicPort

FORM = ("Content-Type: application/x-www-form-urlencoded", "Content-Length: 0")
POLL = "/events/v1/events?clientId=c&channel=orders"
POLLING = "/socket.io/?EIO=4&transport=polling"
CHANGES = {  # what a page can make a browser send that a dialect answers: method, path, header fields
    "ganomede form": ("POST", "/events/v1/events", FORM),
    "ganomede text": ("POST", "/events/v1/events", ("Content-Type: text/plain", "Content-Length: 0")),
    "ganomede index": ("POST", "/events/v1/indices", FORM),
    "ganomede poll": ("GET", POLL, ()),
    "ganomede cursor": ("GET", f"{POLL}&after=999", ()),
    "ganomede slashes": ("GET", f"/{POLL}&after=999", ()),
    "ganomede latest": ("GET", "/events/v1/latest?channel=orders", ()),
    "ganomede preflight": ("OPTIONS", "/events/v1/events", ("Access-Control-Request-Method: POST",)),
    "ganomede ping": ("HEAD", "/events/v1/ping/x", ()),
    "token": ("POST", "/token/websocket", (*FORM, "X-API-Key: any")),
    "token preflight": ("OPTIONS", "/token/websocket", ("Access-Control-Request-Method: POST",)),
    "polling": ("GET", POLLING, ()),
    "polling post": ("POST", f"{POLLING}&sid=x", FORM),
    "polling preflight": ("OPTIONS", POLLING, ("Access-Control-Request-Method: POST",)),
    "microstream": ("GET", "/socket.io/?EIO=4&transport=websocket&serviceName=x", UPGRADE),
    "owlmeans": ("GET", "/owlmeans", UPGRADE),
    "thinws": ("GET", "/thinws", UPGRADE),
}
PAGES = {  # what the port answers itself
    "health": ("GET", "/health", ()),
    "ready": ("GET", "/readyz", ()),
    "about": ("OPTIONS", "/ready", ("Access-Control-Request-Method: GET",)),
    "nothing": ("GET", "/nothing", ()),
    "plain GET of a WebSocket": ("GET", "/owlmeans", ()),
}
HPKV = {"hpkv": ("GET", "/ws?apiKey=any", UPGRADE), "no WebSocket": ("GET", "/nowhere", UPGRADE)}
EVERYTHING = CHANGES | PAGES | HPKV
EVIL = ("Origin: https://evil.example", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: cors")
IMAGE = ("Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image")
APP = "https://app.example"
SECRET = "a secret that is long enough"


async def statuses(port: PublicPort, ways: dict, *lines: str, **more: str) -> dict[str, str]:
    """Return the status by the name of each way in."""
    return {
        name: (await port.ask(path, *lines, *fields, method=method, **more))[9:12]
        for name, (method, path, fields) in ways.items()
    }


@pytest.fixture(autouse=True)
def refusals_at_once(monkeypatch):
    monkeypatch.setattr(ThinWs, "refusal_delay", 0.0)


@pytest_twisted.async_yield_fixture
async def open_port():
    port = await PublicPort.open(error_delay_seconds=0.0, poll_timeout_seconds=0.0)
    yield port
    await port.close()


@pytest_twisted.async_yield_fixture
async def secured_port():
    port = await PublicPort.open(error_delay_seconds=0.0, poll_timeout_seconds=0.0, api_secret=SECRET)
    yield port
    await port.close()


@pytest_twisted.async_yield_fixture
async def app_port():
    port = await PublicPort.open(error_delay_seconds=0.0, poll_timeout_seconds=0.0, allowed_origins=(APP,))
    yield port
    await port.close()


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example:8000", "127.0.0.1.evil.example"])
@pytest_twisted.ensureDeferred
async def test_without_credentials_a_foreign_name_is_answered_nowhere(open_port, host):
    assert set((await statuses(open_port, EVERYTHING, host=host)).values()) == {"403"}
    assert set((await statuses(open_port, EVERYTHING, f"Origin: http://{host}", host=host)).values()) == {"403"}


@pytest_twisted.ensureDeferred
async def test_a_target_in_absolute_form_names_the_host(open_port):
    assert (await open_port.ask("http://evil.example/health", host="localhost"))[9:12] == "403"
    assert (await open_port.ask("http://localhost/health", host="evil.example"))[9:12] == "200"


@pytest.mark.parametrize("page", [EVIL, IMAGE, ("Origin: null",), ("Origin: http://localhost.evil.example",)])
@pytest_twisted.ensureDeferred
async def test_without_credentials_pages_of_other_origins_are_refused_everywhere(open_port, page):
    assert set((await statuses(open_port, EVERYTHING, *page)).values()) == {"403"}


@pytest.mark.parametrize("page", [EVIL, IMAGE, ("Origin: null",), ("Origin: http://127.0.0.1:3000",)])
@pytest_twisted.ensureDeferred
async def test_with_credentials_they_are_refused_what_changes_something(secured_port, page):
    assert set((await statuses(secured_port, CHANGES, *page)).values()) == {"403"}


@pytest_twisted.ensureDeferred
async def test_with_credentials_a_foreign_page_is_shown_health_and_can_not_read_it(secured_port):
    head = await secured_port.ask("/health", *EVIL, host="broker.example")
    assert head.startswith("HTTP/1.1 200")
    assert "Access-Control" not in head


@pytest_twisted.ensureDeferred
async def test_programs_and_users_are_refused_nothing(open_port):
    for lines in ((), ("Sec-Fetch-Site: none", "Sec-Fetch-Mode: navigate"), ("Sec-Fetch-Site: same-origin",)):
        assert "403" not in (await statuses(open_port, EVERYTHING, *lines, host="LocalHost.:8000")).values()


@pytest_twisted.ensureDeferred
async def test_names_can_be_allowed():
    port = await PublicPort.open(allowed_hosts=("broker.lan",), error_delay_seconds=0.0)
    assert (await port.ask("/health", host="broker.lan:8000"))[9:12] == "200"
    assert (await port.ask("/health", host="evil.example:8000"))[9:12] == "403"
    await port.close()


@pytest.mark.parametrize("allowed", [APP, "*"])
@pytest_twisted.ensureDeferred
async def test_an_allowed_page_is_granted_every_answer(allowed):
    port = await PublicPort.open(error_delay_seconds=0.0, poll_timeout_seconds=0.0, allowed_origins=(allowed,))
    for name, (method, path, fields) in (CHANGES | PAGES).items():
        if fields is UPGRADE:
            continue
        head = await port.ask(path, f"Origin: {APP}", "Sec-Fetch-Site: cross-site", *fields, method=method)
        assert f"\r\nAccess-Control-Allow-Origin: {APP}\r\n" in head, name
        assert head.count("Access-Control-Allow-Origin") == head.count("Vary: Origin") == 1, name
        assert ("Access-Control-Allow-Credentials: true" in head) is (allowed != "*"), name
        assert head[9:12] != "403"
        assert not name.endswith("preflight") or " 204 " in head, head
    await port.close()


@pytest.mark.parametrize(
    ("path", "method", "methods"),
    [
        ("/events/v1/events", "POST", "GET, POST"),
        ("/events/v1/indices", "POST", "POST"),
        ("/token/websocket", "POST", "POST"),
        (POLLING, "POST", "GET, POST, OPTIONS"),
        ("/health", "GET", "GET, HEAD, OPTIONS"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_preflight_is_told_the_methods_and_its_fields(app_port, path, method, methods):
    asked = (f"Access-Control-Request-Method: {method}", "Access-Control-Request-Headers: content-type, x-api-key")
    head = await app_port.ask(path, f"Origin: {APP}", *asked, method="OPTIONS")
    assert head.startswith("HTTP/1.1 204")
    assert f"Access-Control-Allow-Methods: {methods}\r\n" in head
    assert "Access-Control-Allow-Headers: content-type, x-api-key\r\n" in head


@pytest_twisted.ensureDeferred
async def test_an_answer_that_reaches_no_dialect_can_be_read_too(app_port):
    head = await app_port.ask("/events/v1/events", f"Origin: {APP}", "Content-Length: 99999999", method="POST")
    assert head.startswith("HTTP/1.1 413")
    assert f"Access-Control-Allow-Origin: {APP}\r\n" in head


@pytest.mark.parametrize(
    ("path", "lines", "start"),
    [
        ("/events/v1/latest", (), '{"code":"Forbidden","message":"'),
        ("/token/websocket", (), '{"error":"'),
        ("/ws?apiKey=k", UPGRADE, '{"error":"'),
        (POLLING, (), '{"code":4,"message":"'),
        ("/socket.io/?EIO=4&transport=websocket", UPGRADE, '{"code":4,"message":"'),
        ("/owlmeans", UPGRADE, '{"error":{"code":"DENIED","message":"'),
        ("/health", (), '{"error":{"code":"DENIED","message":"'),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_refusal_has_the_form_of_its_dialect_and_names_the_setting(open_port, path, lines, start):
    for page, host, setting in (
        (EVIL, "localhost", "TXBROKER_ALLOWED_ORIGINS"),
        ((), "evil.example", "TXBROKER_ALLOWED_HOSTS"),
    ):
        request = ("Connection: close", *page) if lines is not UPGRADE else page
        client = await open_port.connect(
            "\r\n".join((f"GET {path} HTTP/1.1", f"Host: {host}", *request, *lines, "", "")).encode()
        )
        body = (await client.end()).partition(b"\r\n\r\n")[2].decode()
        assert body.startswith(start)
        assert setting in body


@pytest_twisted.ensureDeferred
async def test_clients_that_do_not_wait_by_themselves_are_refused_late(monkeypatch):
    """The shipped ganomede client asks again at once, by whatever name it knows the broker."""
    port = await PublicPort.open(error_delay_seconds=600.0)
    client = await port.connect(f"GET {POLL} HTTP/1.1\r\nHost: broker.lan\r\n\r\n".encode())
    assert (await port.ask("/health", host="broker.lan"))[9:12] == "403"
    assert not client.data
    await port.close()
