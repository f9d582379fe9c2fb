"""Clients that come again the moment they are refused do not come often."""

from __future__ import annotations

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults

from broker.web.late_refusals import MAX_HELD_PER_ADDRESS
from protocols.thinws.dialect import ThinWs
from tests.support.public_port import UPGRADE, PublicPort, request

DELAY = 0.1  # seconds, instead of three
FOREIGN = (*UPGRADE, "Origin: https://evil.example")


@pytest.fixture(autouse=True)
def short_delay(monkeypatch):
    monkeypatch.setattr(ThinWs, "refusal_delay", DELAY)


async def insist(port: PublicPort, times: int, *lines: str) -> list[str]:
    """Ask for a ThinWS connection again and again, each time at once; return the answers."""
    return [(await port.ask("/thinws", *lines))[9:12] for _ in range(times)]


async def seconds_of_ten(port: PublicPort, status: str, *lines: str) -> float:
    """Let ten clients be refused three times each; return how long that took."""
    began = reactor.seconds()
    answers = await gatherResults([Deferred.fromCoroutine(insist(port, 3, *lines)) for _ in range(10)])
    assert answers == [[status] * 3] * 10
    return reactor.seconds() - began


@pytest_twisted.ensureDeferred
async def test_pages_of_another_origin_are_refused_late():
    port = await PublicPort.open()
    assert await seconds_of_ten(port, "403", *FOREIGN) > 3 * DELAY
    await port.close()


@pytest.mark.parametrize("limit", ["max_connections", "max_connections_per_address"])
@pytest_twisted.ensureDeferred
async def test_clients_over_a_limit_are_refused_late(limit):
    port = await PublicPort.open(**{limit: 1}, trusted_proxies=("127.0.0.1",))
    client = (*UPGRADE, "X-Forwarded-For: 203.0.113.5")
    assert " 101 " in await (await port.connect(request("/thinws", *client))).head()
    assert await seconds_of_ten(port, "503", *client) > 3 * DELAY
    await port.close()


@pytest_twisted.ensureDeferred
async def test_clients_without_a_peer_are_refused_late(monkeypatch):
    def refuse(dialect, address):
        raise ZeroDivisionError("deliberate")

    port = await PublicPort.open()
    monkeypatch.setattr(port.site, "_attach", refuse)
    assert await seconds_of_ten(port, "500", *UPGRADE) > 3 * DELAY
    await port.close()


@pytest_twisted.ensureDeferred
async def test_with_too_many_refused_the_others_of_the_address_are_dropped_unanswered(monkeypatch):
    monkeypatch.setattr(ThinWs, "refusal_delay", 60.0)
    port = await PublicPort.open()
    held = [await port.connect(request("/thinws", *FOREIGN)) for _ in range(MAX_HELD_PER_ADDRESS)]
    for _ in range(3):
        assert await (await port.connect(request("/thinws", *FOREIGN))).end() == b""
    assert " 101 " in await (await port.connect(request("/thinws", *UPGRADE))).head()
    assert not any(client.data or client.lost for client in held)
    await port.close()


@pytest_twisted.ensureDeferred
async def test_over_a_limit_and_with_too_many_refused_nothing_is_read(monkeypatch):
    monkeypatch.setattr(ThinWs, "refusal_delay", 60.0)
    port = await PublicPort.open(max_connections=1)
    assert " 101 " in await (await port.connect(request("/thinws", *UPGRADE))).head()
    held = [await port.connect(request("/thinws", *UPGRADE)) for _ in range(MAX_HELD_PER_ADDRESS)]
    assert await (await port.connect(b"")).end() == b""
    assert not any(client.data or client.lost for client in held)
    await port.close()


@pytest.mark.parametrize("path", ["/owlmeans", "/ws", "/socket.io/?EIO=4&transport=websocket"])
@pytest_twisted.ensureDeferred
async def test_dialects_whose_clients_wait_by_themselves_are_refused_at_once(path, monkeypatch):
    monkeypatch.setattr(ThinWs, "refusal_delay", 60.0)
    port = await PublicPort.open(max_connections=1)
    client = await port.connect(request("/thinws", *UPGRADE))
    await client.head()
    assert " 503 " in await port.ask(path, *UPGRADE)
    await port.close()
