"""What is said at the start leads to where the daemon listens."""

from pathlib import Path

import pytest
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from zope.interface import implementer

from broker.app.greeting import example
from broker.config.addresses import url_of
from broker.interfaces import IHttpDialect, IWebSocketDialect


@pytest.mark.parametrize(
    ("endpoint", "address", "url"),
    [
        ("tcp:80", IPv4Address("TCP", "0.0.0.0", 80), "http://127.0.0.1:80"),
        ("tcp:80:interface=10.0.0.1", IPv4Address("TCP", "10.0.0.1", 80), "http://10.0.0.1:80"),
        ("tcp6:80", IPv6Address("TCP", "::", 80), "http://[::1]:80"),
        ("ssl:443:privateKey=k.pem", IPv4Address("TCP", "127.0.0.1", 443), "https://127.0.0.1:443"),
        ("unix:/run/s", UNIXAddress("/run/s"), "unix:/run/s"),
    ],
)
def test_address_is_one_that_clients_here_can_use(endpoint, address, url):
    assert url_of(endpoint, address) == url


@implementer(IHttpDialect)
class Http:  # type: ignore[misc]
    example: str
    http_paths = ("/a", "/b")


@implementer(IWebSocketDialect)
class WebSocket:  # type: ignore[misc]
    websocket_paths = ("/ws",)


def test_http_dialect_is_tried_with_curl():
    assert example(Http(), "http://h:1") == "curl http://h:1/a"


def test_websocket_dialect_is_tried_with_a_client_that_is_installed():
    assert example(WebSocket(), "https://h:1").endswith("websockets wss://h:1/ws")


@pytest.mark.parametrize(("here", "client"), [("/opt/x", "bin/websockets"), ("/", "/opt/x/bin/websockets")])
def test_the_client_is_named_as_one_types_it_there(monkeypatch, here, client):
    monkeypatch.setattr("sys.executable", "/opt/x/bin/python")
    monkeypatch.setattr("pathlib.Path.cwd", lambda: Path(here))
    assert example(WebSocket(), "http://h:1") == f"{client} ws://h:1/ws"


def test_dialect_may_know_better():
    dialect = Http()
    dialect.example = "curl -d '{\"a\":1}' {http}/b"
    assert example(dialect, "http://h:1") == "curl -d '{\"a\":1}' http://h:1/b"
