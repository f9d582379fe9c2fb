"""Header fields that HTTP wants in answers of the port, whichever dialect makes them, and in handshakes."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.support.public_port import UPGRADE, PublicPort, request

BEARER = 'Bearer realm="txbroker"'
SECRET = 'Secret realm="ganomede-events"'  # of which ganomede has its own
POST = {"method": "POST", "body": b"{}"}
JSON = ("Content-Type: application/json", "Content-Length: 2")


@pytest_twisted.async_yield_fixture
async def port():
    port = await PublicPort.open(api_secret="secret", auth="required")
    yield port
    await port.close()


@pytest.mark.parametrize(
    ("challenge", "path", "lines", "more"),
    [
        (SECRET, "/events/v1/events?secret=wrong&clientId=a&channel=b", (), {}),
        (SECRET, "/events/v1/events", JSON, POST),
        (SECRET, "/latest?channel=b", (), {}),
        (SECRET, "/events/v1/indices", JSON, POST),
        (BEARER, "/token/websocket", JSON, POST),
        (BEARER, "/owlmeans?token=wrong", UPGRADE, {}),
        (BEARER, "/owlmeans", (*UPGRADE, "Authorization: Bearer wrong"), {}),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_401_has_one_challenge(port, challenge, path, lines, more):
    head = await port.ask(path, *lines, **more)
    assert head.startswith("HTTP/1.1 401 ")
    assert head.count(f"\r\nWWW-Authenticate: {challenge}\r\n") == head.lower().count("www-authenticate") == 1


@pytest.mark.parametrize(
    ("path", "lines"),
    [
        ("/owlmeans", ()),
        ("/thinws", ()),
        ("/ws", ()),
        ("/owlmeans", ("Connection: close",)),
        ("/owlmeans", (*UPGRADE[:2], "Sec-WebSocket-Version: 8", UPGRADE[3])),
        ("/owlmeans", ("Connection: keep-alive", *UPGRADE[1:])),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_426_says_what_to_upgrade_to(port, path, lines):
    head = await port.ask(path, *lines)
    assert head.startswith("HTTP/1.1 426 ")
    assert "\r\nUpgrade: websocket\r\n" in head
    [connection] = [line for line in head.split("\r\n") if line.startswith("Connection: ")]
    assert connection.startswith("Connection: Upgrade, ")


@pytest.mark.parametrize(
    "lines",
    [
        ("Connection: Upgrade, close",),
        ("Connection: close, Upgrade",),
        ("Connection: keep-alive, Upgrade",),
        ("Connection: Upgrade,Keep-Alive",),
        ("connection: UPGRADE , Close",),
        ("Connection: close", "Connection: Upgrade"),
        ("Connection: keep-alive", "Connection: close, upgrade"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_handshake_may_say_more_of_its_connection(port, lines):
    client = await port.connect(request("/thinws", *lines, *UPGRADE[1:]) + b"\x89\x80\0\0\0\0")
    assert (await client.head()).startswith("HTTP/1.1 101 ")
    await client.until(lambda: client.data.endswith(b"\x8a\x00"))  # the pong
    assert not client.lost
