"""Iterations of a real epoll reactor of our own, with real sockets."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from broker.core.slices import READ_SLICE, slices_of
from broker.web.net import transport as of_transports
from broker.web.net.probes import is_probe
from broker.web.net.sockets import expect_no_probe
from broker.web.net.transport import FrameTransport, Outbox, ReactorLoop
from tests.support.logs import failures_of, logging
from tests.web.net.loop import Connection, CountingSocket, Setup


def test_what_several_connections_cause_leaves_in_one_send(setup: Setup) -> None:
    _, service = setup.connect()
    counting = CountingSocket(service.transport.socket)  # type: ignore[union-attr]
    service.transport.socket = counting  # type: ignore[union-attr]
    callers = [setup.connect()[0] for _ in range(3)]
    heard: list[bytes] = []

    def forward(connection: Connection, data: bytes) -> None:
        heard.append(data)
        service.transport.send_frame(data)  # type: ignore[union-attr]

    setup.factory.on_data = forward
    for number, caller in enumerate(callers):
        caller.sendall(b"%d" % number)
    setup.run(lambda: len(heard) == 3)
    assert b"".join(counting.pieces) == b"".join(heard)
    assert len(counting.pieces) == 1


def test_each_gets_its_own_answer(setup: Setup) -> None:
    setup.factory.on_data = lambda connection, data: connection.transport.send_frame(data.upper())  # type: ignore[union-attr]
    clients = [setup.connect()[0] for _ in range(5)]
    for number, client in enumerate(clients):
        client.sendall(b"client %d" % number)
    for _ in range(20):
        setup.reactor.doIteration(0.01)
    assert [client.recv(100) for client in clients] == [b"CLIENT %d" % number for number in range(5)]


def test_a_client_that_leaves_is_noticed(setup: Setup) -> None:
    client, _ = setup.connect()
    client.close()
    setup.run(lambda: not setup.factory.connections)


def test_a_fault_of_one_connection_ends_that_one_only(setup: Setup) -> None:
    bad, _ = setup.connect()
    good, _ = setup.connect()

    def handle(connection: Connection, data: bytes) -> None:
        if data == b"bad":
            raise ValueError("a bug")
        connection.transport.send_frame(data)  # type: ignore[union-attr]

    setup.factory.on_data = handle
    with logging(LogLevel.critical) as events:
        bad.sendall(b"bad")
        good.sendall(b"good")
        setup.run(lambda: len(setup.factory.connections) == 1)
        for _ in range(5):
            setup.reactor.doIteration(0.01)
    assert [str(failure) for failure in failures_of(events)] == ["a bug"]
    assert good.recv(10) == b"good"


def test_what_can_be_written_later_is_written(setup: Setup) -> None:
    client, connection = setup.connect()
    big = b"x" * 8_000_000
    connection.transport.send_frame(big)  # type: ignore[union-attr]
    client.settimeout(0.01)
    got = 0
    for _ in range(100_000):
        setup.reactor.runUntilCurrent()
        setup.reactor.doIteration(0)
        try:
            got += len(client.recv(1 << 20))
        except TimeoutError:
            continue
        if got == len(big):
            break
    assert got == len(big)


def test_connections_are_read_by_the_loop_itself(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = setup.connect()
    heard: list[bytes] = []
    setup.factory.on_data = lambda connection, data: heard.append(data)
    monkeypatch.setattr(setup.reactor, "_doReadOrWrite", lambda *event: pytest.fail("the slow path"))
    client.sendall(b"x")
    setup.run(lambda: heard)
    assert isinstance(setup.factory.connections[0].transport, FrameTransport)


def test_a_reactor_that_is_not_known_is_left_alone() -> None:
    clock = Clock()
    loop = ReactorLoop(clock, Outbox(clock))
    assert not loop.install()
    loop.remove()
    assert "doIteration" not in vars(clock)


def test_removing_gives_the_reactor_its_own_iteration_back(setup: Setup) -> None:
    assert "doIteration" in vars(setup.reactor)
    setup.loop.remove()
    setup.loop.remove()
    assert "doIteration" not in vars(setup.reactor)
    assert setup.loop.install()


def test_connections_that_close_at_once_end_in_slices(setup: Setup) -> None:
    ends = [setup.connect() for _ in range(5)]
    slices = slices_of(setup.reactor)
    slices.now = lambda: inf  # every slice is over at once
    for client, _ in ends:
        client.close()
    setup.run(lambda: not setup.factory.connections)
    assert slices.pauses == 5


def test_connections_that_are_aborted_at_once_end_in_slices(setup: Setup) -> None:
    ends = [setup.connect() for _ in range(5)]
    slices = slices_of(setup.reactor)
    for _, connection in ends:
        connection.transport.abortConnection()
        connection.transport.abortConnection()
    assert slices.pauses == 5
    slices.now = lambda: inf
    setup.reactor.runUntilCurrent()
    assert len(setup.factory.connections) == 4
    setup.run(lambda: not setup.factory.connections)


def late_setup(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[bytes]]:
    """Return clients, and what is read of them: each uses up the time of its iteration."""
    monkeypatch.setattr(of_transports, "CHECKED", 1)
    clients = [setup.connect()[0] for _ in range(6)]
    heard: list[bytes] = []
    slices_of(setup.reactor).now = lambda: len(heard) * READ_SLICE

    def on_data(connection: Connection, data: bytes) -> None:
        heard.append(data)

    setup.factory.on_data = on_data
    return clients, heard


def test_what_an_iteration_has_no_time_for_goes_first_in_the_next(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    clients, heard = late_setup(setup, monkeypatch)
    for number, client in enumerate(clients):
        client.sendall(b"%d" % number)
    setup.reactor.doIteration(0)
    [first] = heard
    clients[int(first)].sendall(b"again")
    setup.run(lambda: len(heard) == len(clients) + 1)
    assert heard[-1] == b"again"
    assert sorted(heard[:-1]) == [b"%d" % number for number in range(len(clients))]


def test_a_probe_of_health_is_read_though_the_time_is_over(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    clients, heard = late_setup(setup, monkeypatch)
    for client in clients[:-1]:
        client.sendall(b"x")
    clients[-1].sendall(b"GET /health HTTP/1.1\r\n\r\n")
    setup.reactor.doIteration(0)
    assert heard == [b"x", b"GET /health HTTP/1.1\r\n\r\n"]


def test_many_probes_of_health_have_to_wait(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_transports, "MAX_PROBES", 2)
    clients, heard = late_setup(setup, monkeypatch)
    for client in clients:
        client.sendall(b"HEAD /ready?x HTTP/1.1\r\n\r\n")
    setup.reactor.doIteration(0)
    assert len(heard) == 3


def test_who_is_late_again_is_not_looked_at_again(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    clients, heard = late_setup(setup, monkeypatch)
    looks: list[object] = []
    monkeypatch.setattr(of_transports, "peek", lambda connection: looks.append(connection))
    for client in clients:
        client.sendall(b"x")
    setup.run(lambda: len(heard) == len(clients))
    assert len(looks) == len(clients) - 1


def test_who_has_used_a_dialect_is_not_looked_at(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    clients, heard = late_setup(setup, monkeypatch)
    setup.run(lambda: len(setup.factory.connections) == len(clients))
    for connection in setup.factory.connections:
        expect_no_probe(connection.transport)
    monkeypatch.setattr(of_transports, "peek", lambda connection: pytest.fail("it was looked at"))
    for client in clients:
        client.sendall(b"x")
    setup.run(lambda: len(heard) == len(clients))


@pytest.mark.parametrize(
    "head", [b"GET /healthz HTTP/1.1\r\n\r\n", b"GET /health HTTP/1.1\r\n", b"get /health \r\n\r\n"]
)
def test_what_only_looks_like_a_probe_is_none(head: bytes) -> None:
    assert not is_probe(head)
