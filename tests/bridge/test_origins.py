"""One judge of Origin: every way in admits the pages that every other does."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import clientFromString, connectProtocol
from twisted.internet.protocol import Protocol

from broker.app.dialects import load_dialects
from broker.app.tap import make_site
from broker.config.settings import PROTOCOLS, Settings
from broker.testing import make_broker
from broker.web.net.outbox import Outbox
from broker.web.net.transport import listen
from protocols.thinws.dialect import ThinWs
from tests.support.eventually import TIMEOUT

UPGRADE = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
)
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
# Without an origin in the settings hpkv lets every page ask for a token, and those of this machine use it.
OWN_HOST = ("owlmeans", "thinws", "microstream", "polling", "polling's preflight")
FOREIGN = ("https://evil.example", "http://app.example", "https://app.example:8443", "null", "https://app.example.evil")
APP = ("https://app.example", "https://app.example:443", "https://App.Example", "https://app.example/")


class Answer(Protocol):
    """The head of one answer."""

    def __init__(self) -> None:
        self.data = b""
        self.head: Deferred[str] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        if b"\r\n\r\n" in self.data and not self.head.called:
            self.head.callback(self.data.partition(b"\r\n\r\n")[0].decode() + "\r\n")


@attrs.define
class Port:
    """The port of a daemon with all dialects, in this process."""

    broker: Any
    site: Any
    listening: Any

    @classmethod
    async def open(cls, *allowed: str) -> Port:
        settings = Settings(store="memory:", allowed_origins=allowed)
        broker = make_broker(reactor, allowed_origins=allowed)
        site = make_site(reactor, settings, broker, load_dialects(PROTOCOLS, settings))
        return cls(broker, site, await listen(reactor, "tcp:0:interface=127.0.0.1", site, Outbox(reactor)))

    async def close(self) -> None:
        await self.listening.stopListening()
        await self.site.drain(0.0)
        await self.broker.stopService()

    async def admitting(self, origin: str | None, host: str) -> list[str]:
        """Return the names of the ways in that are open to a page of *origin*; None: to what is no page."""
        return [name for name in WAYS_IN if await self._admits(name, origin, host)]

    async def _admits(self, name: str, origin: str | None, host: str) -> bool:
        method, path, fields, sign = WAYS_IN[name]
        page = [] if origin is None else [f"Origin: {origin}"]
        lines = (f"{method} {path} HTTP/1.1", f"Host: {host}", *page, *fields, "", "")
        endpoint = clientFromString(reactor, f"tcp:127.0.0.1:{self.listening.getHost().port}")
        answer = await connectProtocol(endpoint, Answer())
        answer.transport.write("\r\n".join(lines).encode() + (b"{}" if method == "POST" else b""))
        head = await answer.head.addTimeout(TIMEOUT, reactor)
        answer.transport.abortConnection()
        return sign in head


@pytest.fixture(autouse=True)
def refusals_at_once(monkeypatch):
    monkeypatch.setattr(ThinWs, "refusal_delay", 0.0)


@pytest.mark.parametrize("allowed", [*APP, "HTTPS://APP.EXAMPLE:443/"])
@pytest_twisted.ensureDeferred
async def test_every_spelling_of_an_allowed_origin_is_admitted_everywhere(allowed):
    port = await Port.open("http://other.example:3000", allowed)
    for origin in APP:
        assert await port.admitting(origin, "127.0.0.1") == list(WAYS_IN), origin
    await port.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "evil.example", "app.example:8443"])
@pytest_twisted.ensureDeferred
async def test_other_origins_are_admitted_nowhere(host):
    port = await Port.open("https://app.example")
    for origin in FOREIGN:
        assert await port.admitting(origin, host) == [], origin
    await port.close()


@pytest.mark.parametrize("allowed", ["http://[::1]:3000", "http://[0:0:0:0:0:0:0:1]:3000/", "null", "*"])
@pytest_twisted.ensureDeferred
async def test_addresses_null_and_all_are_admitted_everywhere_when_named(allowed):
    port = await Port.open(allowed)
    assert await port.admitting("null" if allowed == "null" else "http://[::1]:3000", "h") == list(WAYS_IN)
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
    port = await Port.open()
    assert await port.admitting(origin, host) == list(WAYS_IN)
    await port.close()


@pytest.mark.parametrize("origin", [*FOREIGN, "http://127.0.0.1:3000"])
@pytest_twisted.ensureDeferred
async def test_without_any_named_other_pages_are_not(origin):
    port = await Port.open()
    assert not set(OWN_HOST).intersection(await port.admitting(origin, "app.example:8000"))
    await port.close()


@pytest_twisted.ensureDeferred
async def test_what_is_no_page_is_admitted():
    port = await Port.open("https://app.example")
    assert await port.admitting(None, "h") == [name for name in WAYS_IN if not name.startswith("token")]
    await port.close()
