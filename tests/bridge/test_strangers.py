"""Strangers keep no admitted client out, and hold nothing for long, whatever they speak."""

from __future__ import annotations

import pytest
import pytest_twisted

from tests.support.public_port import UPGRADE, PublicPort, RawClient, request

SECRET = "secret-of-admitted-clients"
ADMITTED = f"Authorization: Bearer {SECRET}"
POLLING = "/socket.io/?EIO=4&transport=polling&serviceName=s"
SOCKET = "/socket.io/?EIO=4&transport=websocket&serviceName=s"


async def answers(client: RawClient, number: int) -> bytes:
    await client.until(lambda: client.data.count(b"HTTP/1.1 ") >= number)
    return client.data


async def service_joins(port: PublicPort) -> None:
    """Let a service register by long-polling, as the shipped client does."""
    client = await port.connect(request(f"{POLLING}&token={SECRET}"))
    sid = (await answers(client, 1)).partition(b'"sid":"')[2].partition(b'"')[0].decode()
    client.transport.write(request(f"{POLLING}&sid={sid}", "Content-Length: 2", method="POST", body=b"40"))
    client.transport.write(request(f"{POLLING}&sid={sid}"))
    assert b'40{"sid":' in await answers(client, 3)


@pytest.mark.parametrize("secured", [True, False])
@pytest.mark.parametrize("limit", [{}, {"max_unadmitted": 50}])
@pytest_twisted.ensureDeferred
async def test_polling_sessions_of_one_socket_keep_no_service_out(secured, limit):
    port = await PublicPort.open(max_connections=100, api_secret=SECRET if secured else "", **limit)
    attacker = await port.connect(request(POLLING) * 300)
    await answers(attacker, 300)
    assert attacker.data.count(b"HTTP/1.1 200") == 300
    await service_joins(port)
    (dialect,) = [each for each in port.site.routes.dialects if each.name == "microstream"]
    assert len(dialect.sessions) <= limit.get("max_unadmitted", 100) + 1
    assert " 101 " in await port.ask(SOCKET, *UPGRADE, ADMITTED)
    await port.close()


@pytest.mark.parametrize("half", [b"", b"GET /health HTTP/1.1\r\nHo", request("/x", "Content-Length: 9", method="PUT")])
@pytest_twisted.ensureDeferred
async def test_half_sent_requests_keep_no_client_out(half):
    port = await PublicPort.open(max_connections=30, max_unadmitted=20, api_secret=SECRET)
    for _ in range(60):
        await port.connect(half)
    assert port.site.connections <= 30
    assert " 200 " in await port.ask("/health")
    client = await port.connect(request("/events/v1/events?channel=c&after=0", ADMITTED))
    assert await client.head() != ""
    for path in ("/owlmeans", "/thinws"):
        assert " 101 " in await (await port.connect(request(path, *UPGRADE, ADMITTED))).head()
    await port.close()


@pytest_twisted.ensureDeferred
async def test_when_all_connections_are_taken_health_is_still_told():
    port = await PublicPort.open(max_connections=3)
    for _ in range(3):
        assert " 101 " in await (await port.connect(request("/owlmeans", *UPGRADE))).head()
    silent = [await port.connect(b"") for _ in range(150)]
    assert " 503 " in await port.ask("/owlmeans", *UPGRADE)
    assert [(await port.ask(path)).split()[1] for path in ("/health", "/ready", "/about")] == ["200", "200", "503"]
    assert not all(client.lost for client in silent)
    await port.close()


@pytest.mark.parametrize("path", ["/owlmeans", "/thinws", SOCKET])
@pytest_twisted.ensureDeferred
async def test_the_deadline_for_a_credential_holds_for_sockets(path):
    port = await PublicPort.open(api_secret=SECRET, auth_deadline_seconds=0.2)
    client = await port.connect(request(path, *UPGRADE))
    assert b"\x03\xf0" in (await client.end())[-130:]  # 1008
    await port.close()


@pytest.mark.parametrize("secured", [True, False])
@pytest_twisted.ensureDeferred
async def test_the_deadline_holds_for_polling_sessions(secured):
    port = await PublicPort.open(api_secret=SECRET if secured else "", auth_deadline_seconds=0.2)
    client = await port.connect(request(POLLING))
    sid = (await answers(client, 1)).partition(b'"sid":"')[2].partition(b'"')[0].decode()
    client.transport.write(request(f"{POLLING}&sid={sid}"))
    assert (await answers(client, 2)).endswith(b"\r\n\r\n1")
    await port.close()


@pytest.mark.parametrize("held", [request("/health"), request("/events/v1/events?channel=c"), request(POLLING)])
@pytest_twisted.ensureDeferred
async def test_the_deadline_holds_for_connections_that_ask_for_nothing_more(held):
    port = await PublicPort.open(api_secret=SECRET, auth_deadline_seconds=0.2, error_delay_seconds=0.0)
    client = await port.connect(held)
    assert (await client.end()).startswith(b"HTTP/1.1 ")
    await port.close()


@pytest.mark.parametrize("path", ["/owlmeans", "/thinws"])
@pytest_twisted.ensureDeferred
async def test_who_showed_its_credential_stays(path):
    port = await PublicPort.open(api_secret=SECRET, auth_deadline_seconds=0.1)
    client = await port.connect(request(path, *UPGRADE, ADMITTED))
    await client.head()
    stranger = await port.connect(request(path, *UPGRADE))
    await stranger.end()
    assert not client.lost
    await port.close()


@pytest_twisted.ensureDeferred
async def test_clients_of_a_trusted_proxy_are_limited_each_for_itself():
    port = await PublicPort.open(trusted_proxies=("127.0.0.0/8",), max_connections_per_address=2)
    for address, status in [("203.0.113.5", "101"), ("203.0.113.5", "101"), ("203.0.113.5", "503"),
                            ("6.6.6.6, 203.0.113.5", "503"), ("203.0.113.6", "101"),
                            ("2001:db8::1", "101"), ("2001:db8::2", "101"), ("2001:db8::3", "503")]:  # fmt: skip
        client = await port.connect(request("/owlmeans", *UPGRADE, f"X-Forwarded-For: {address}"))
        assert (await client.head()).split()[1] == status
    await port.close()


@pytest_twisted.ensureDeferred
async def test_wrong_credentials_count_for_the_client_of_a_trusted_proxy():
    port = await PublicPort.open(api_secret=SECRET, trusted_proxies=("127.0.0.1",), auth_failures_per_minute=2)

    async def guess(address: str) -> str:
        lines = (*UPGRADE, f"X-Forwarded-For: {address}", "X-Api-Key: wrong")
        return (await port.ask("/ws", *lines)).split()[1]

    statuses = [await guess("203.0.113.5") for _ in range(3)]
    assert statuses[:2] == ["403", "403"]
    assert statuses[2] != "403"
    assert await guess("203.0.113.6") == "403"
    await port.close()


@pytest_twisted.ensureDeferred
async def test_this_machine_is_not_limited_by_address():
    port = await PublicPort.open(max_connections_per_address=2, max_unadmitted_per_address=2)
    clients = [await port.connect(request("/owlmeans", *UPGRADE)) for _ in range(5)]
    assert [(await client.head()).split()[1] for client in clients] == ["101"] * 5
    await port.close()
