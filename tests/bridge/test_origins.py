"""One judge of Origin: every way in admits the pages that every other does."""

from __future__ import annotations

import pytest
import pytest_twisted

from protocols.thinws.dialect import ThinWs
from tests.support.public_port import UPGRADE, PublicPort

POLLING = "/socket.io/?EIO=4&transport=polling"
ASKS = ("Access-Control-Request-Method: POST",)
WAYS_IN = {  # method, path, header fields, how an admitted page is known
    "owlmeans": ("GET", "/owlmeans", UPGRADE, "HTTP/1.1 101 "),
    "thinws": ("GET", "/thinws", UPGRADE, "HTTP/1.1 101 "),
    "hpkv": ("GET", "/ws?apiKey=any", UPGRADE, "HTTP/1.1 101 "),
    "microstream": ("GET", "/socket.io/?EIO=4&transport=websocket", UPGRADE, "HTTP/1.1 101 "),
    "polling": ("GET", POLLING, (), "HTTP/1.1 200 "),
    "polling's preflight": ("OPTIONS", POLLING, ASKS, "HTTP/1.1 204 "),
    "token's preflight": ("OPTIONS", "/token/websocket", ASKS, "Access-Control-Allow-Origin: "),
    "token": ("POST", "/token/websocket", ("X-API-Key: any", "Content-Length: 2"), "Access-Control-Allow-Origin: "),
}
# Without an origin in the settings hpkv lets the pages of this machine open WebSockets, or with a credential all.
OWN_HOST = [name for name in WAYS_IN if name != "hpkv"]
FOREIGN = ("https://evil.example", "http://app.example", "https://app.example:8443", "null", "https://app.example.evil")
APP = ("https://app.example", "https://app.example:443", "https://App.Example", "https://app.example/")


async def open_port(*allowed: str) -> PublicPort:
    return await PublicPort.open(allowed_origins=allowed, allowed_hosts=("*",))


async def admitting(port: PublicPort, origin: str | None, host: str) -> list[str]:
    """Return the names of the ways in that are open to a page of *origin*; None: to what is no page."""
    page = () if origin is None else (f"Origin: {origin}",)
    names = []
    for name, (method, path, fields, sign) in WAYS_IN.items():
        body = b"{}" if method == "POST" else b""
        if sign in await port.ask(path, *page, *fields, method=method, host=host, body=body):
            names.append(name)
    return names


@pytest.fixture(autouse=True)
def refusals_at_once(monkeypatch):
    monkeypatch.setattr(ThinWs, "refusal_delay", 0.0)


@pytest.mark.parametrize("allowed", [*APP, "HTTPS://APP.EXAMPLE:443/"])
@pytest_twisted.ensureDeferred
async def test_every_spelling_of_an_allowed_origin_is_admitted_everywhere(allowed):
    port = await open_port("http://other.example:3000", allowed)
    for origin in APP:
        assert await admitting(port, origin, "127.0.0.1") == list(WAYS_IN), origin
    await port.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example", "app.example:8443"])
@pytest_twisted.ensureDeferred
async def test_other_origins_are_admitted_nowhere(host):
    port = await open_port("https://app.example")
    for origin in FOREIGN:
        assert await admitting(port, origin, host) == [], origin
    await port.close()


@pytest.mark.parametrize("allowed", ["http://[::1]:3000", "http://[0:0:0:0:0:0:0:1]:3000/", "null", "*"])
@pytest_twisted.ensureDeferred
async def test_addresses_null_and_all_are_admitted_everywhere_when_named(allowed):
    port = await open_port(allowed)
    assert await admitting(port, "null" if allowed == "null" else "http://[::1]:3000", "h") == list(WAYS_IN)
    await port.close()


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://app.example", "app.example"),
        ("http://app.example", "APP.example:80"),
        ("https://app.example", "app.example"),  # behind a proxy that ends TLS
        ("https://app.example:443", "App.Example"),
        ("https://app.example", "app.example:443"),
        ("http://app.example:8000", "app.example:8000"),
        ("http://[::1]:8000", "[::1]:8000"),
        ("http://[0:0::1]", "[::1]:80"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_without_any_named_pages_of_the_same_host_are_admitted(origin, host):
    port = await open_port()
    assert await admitting(port, origin, host) == list(WAYS_IN)
    await port.close()


@pytest.mark.parametrize("origin", [*FOREIGN, "http://127.0.0.1:3000"])
@pytest_twisted.ensureDeferred
async def test_without_any_named_other_pages_are_not(origin):
    port = await open_port()
    assert not set(OWN_HOST).intersection(await admitting(port, origin, "app.example:8000"))
    await port.close()


@pytest.mark.parametrize(("secret", "origins"), [("", ["http://localhost", "http://[::1]:3000"]), ("s" * 20, FOREIGN)])
@pytest_twisted.ensureDeferred
async def test_a_page_that_knows_an_hpkv_key_may_be_of_another_origin(secret, origins):
    port = await PublicPort.open(api_secret=secret)
    for origin in origins:
        head = await port.ask(f"/ws?apiKey={secret or 'any'}", f"Origin: {origin}", *UPGRADE)
        assert " 101 " in head, origin
    await port.close()


@pytest_twisted.ensureDeferred
async def test_what_is_no_page_is_admitted():
    port = await open_port("https://app.example")
    assert await admitting(port, None, "h") == [name for name in WAYS_IN if not name.startswith("token")]
    await port.close()
