"""Nodes behind real balancers: shipped clients of all dialects work, and limits count the addresses of clients."""

from __future__ import annotations

import json
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.threads import deferToThread

from broker.observe.lag import TOLD
from tests.faults.restart import ENVIRON, KEY, KINDS, SECRET
from tests.support.balancers import CONTRIB, PROXY_LINE, Balanced, path_of
from tests.support.eventually import TIMEOUT, eventually
from tests.support.http_client import post
from tests.support.node import Node
from tests.support.processes import Program
from tests.web.net.test_certificates import pem_files, trusting

pytestmark = [pytest.mark.processes, pytest.mark.unmeasured]
BALANCERS = [pytest.param(name, marks=pytest.mark.skipif(not path_of(name), reason=f"there is no {name}"))
             for name in ("haproxy", "nginx")]  # fmt: skip
LIMITS = {"TXBROKER_MAX_CONNECTIONS_PER_ADDRESS": "1"}
HANDSHAKE = (
    f"GET /owlmeans?token={SECRET} HTTP/1.1\r\nHost: broker.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


@pytest_twisted.async_yield_fixture(scope="module", params=BALANCERS)
async def balanced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Balanced]:
    balanced = Balanced(request.param, pem_files(tmp_path_factory.mktemp("pem")), **ENVIRON, **LIMITS)
    try:
        yield await balanced.start()  # type: ignore[misc]
    finally:
        await balanced.end()


def test_a_loop_that_was_blocked_for_a_moment_takes_no_node_away() -> None:
    text = (CONTRIB / "haproxy" / "haproxy.cfg").read_text()
    checks = re.findall(r"inter (\d+)ms fall (\d+)", text)
    assert len(checks) == 4
    assert all(int(interval) / 1000 * (int(fall) - 1) > TOLD for interval, fall in checks)
    assert "    timeout check 2s\n" in text  # else a late answer is none


def root_file(directory: Path) -> str:
    path = directory / "root.pem"
    path.write_text("".join(map(ssl.DER_cert_to_PEM_cert, trusting().get_ca_certs(binary_form=True))))
    return str(path)


def ports_with_tls(balanced: Balanced) -> list[str]:
    """Return where TLS is: HAProxy ends it itself, or lets the nodes end it."""
    return ["https", "through"] if balanced.balancer == "haproxy" else ["https"]


@pytest_twisted.ensureDeferred
async def test_shipped_clients_of_all_dialects_work_over_tls(balanced: Balanced, tmp_path: Path, node: Node) -> None:
    trust = {"NODE_EXTRA_CA_CERTS": root_file(tmp_path)}
    kinds, programs = ",".join(KINDS), []
    for index, port in enumerate(ports_with_tls(balanced)):
        words = (f"https://localhost:{balanced.ports[port]}", SECRET, KEY, str(10 * index), str(len(KINDS)), kinds)
        programs.append(node.start("restart_clients.js", *words, **trust))
    while not all(kinds_that_work(one) == set(KINDS) for one in programs):
        for number in range(10):  # the channels that the readers of ganomede read
            event = {"clientId": "w", "secret": SECRET, "channel": f"restart-{number}", "from": "w", "type": "mark"}
            assert (await post(f"{balanced.url}/events/v1/events", event)).status == 200
        assert all(one.status is None for one in programs), [one.report() for one in programs]


def kinds_that_work(clients: Program) -> set[str]:
    return {line[1] for line in map(json.loads, clients.lines) if line[0] == "up"}


def dial(balanced: Balanced, port: str, address: str) -> socket.socket:
    """Return a connection to the balancer that comes from *address*, by the word of a balancer before that one."""
    plain = socket.create_connection(("127.0.0.1", balanced.ports[f"{port}-told"]), TIMEOUT)
    plain.sendall(PROXY_LINE.format(address).encode())
    return plain if port == "http" else trusting("http/1.1").wrap_socket(plain, server_hostname="localhost")


def upgraded(connection: socket.socket) -> str:
    connection.sendall(HANDSHAKE)
    return connection.recv(12).decode().removeprefix("HTTP/1.1 ")


@pytest.mark.parametrize("port", ["http", "https", "through"])
@pytest_twisted.ensureDeferred
async def test_limits_count_the_addresses_of_clients(balanced: Balanced, port: str) -> None:
    if port not in ("http", *ports_with_tls(balanced)):
        pytest.skip("nginx has no such port")
    mine, other = f"203.0.113.{len(port)}", "198.51.100.7"

    def statuses() -> list[str]:
        with ExitStack() as stack:
            found = []
            for address in (*(mine,) * 4, other):
                try:
                    found.append(upgraded(stack.enter_context(dial(balanced, port, address))))
                except (OSError, ssl.SSLError):
                    found.append("closed")
            return found

    first, *more, last = await deferToThread(statuses)
    assert (first, last) == ("101", "101")
    assert set(more) <= {"101", "503", "closed"}
    assert more.count("101") <= 1  # on the other node
    # Once for some time, whichever of these tests comes first.
    await eventually(
        lambda: re.search(
            r"refused 203\.0\.113\.\d: UNAVAILABLE .* see TXBROKER_MAX_CONNECTIONS_PER_ADDRESS",
            balanced.output,
        )
    )


@pytest_twisted.ensureDeferred
async def test_a_client_can_not_say_that_it_is_another(balanced: Balanced) -> None:
    lie = b"X-Forwarded-For: 192.0.2.66\r\nForwarded: for=192.0.2.66\r\n"

    def ask() -> bytes:
        with dial(balanced, "http", "203.0.113.66") as connection:
            connection.sendall(b"GET /events/v1/events?secret=wrong&channel=c&clientId=x HTTP/1.1\r\n"
                               b"Host: broker.example\r\nConnection: close\r\n" + lie + b"\r\n")  # fmt: skip
            return connection.recv(65536)

    assert b" 401 " in (await deferToThread(ask)).partition(b"\r\n")[0]
    told: Callable[[], bool] = lambda: "203.0.113.66" in balanced.output  # noqa: E731
    await eventually(told)
    assert "192.0.2.66" not in balanced.output
