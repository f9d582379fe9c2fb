"""Ports: who begins at once, who waits, in which order, and who is dropped."""

from __future__ import annotations

import socket
from math import inf
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.logger import LogEvent

from broker.core.slices import slices_of
from broker.web.net import port as of_ports
from tests.support.logs import failures_of, lines_of
from tests.web.net.loop import Setup

PROBE = b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n"
SAID = b"GET / HTTP/1.1\r\n"


class Flood:
    """Clients that have connected, of whom the port has time to begin one an iteration."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.heard: list[bytes] = []
        self.time = 0.0
        setup.port.now = lambda: self.time
        setup.factory.on_data = lambda connection, data: self.heard.append(data)
        begin = setup.port._begin

        def slow(*arrival: Any) -> None:
            begin(*arrival)
            self.time += of_ports.SLICE

        setup.port._begin = slow

    @property
    def begun(self) -> int:
        return len(self.setup.factory.connections)

    def connect(self, *says: bytes) -> list[socket.socket]:
        clients = []
        for data in says:
            client = socket.create_connection(self.setup.port.socket.getsockname())
            client.sendall(data)
            self.setup.clients.append(client)
            clients.append(client)
        return clients

    def accept(self) -> None:
        self.setup.reactor.doIteration(0)

    def iterate(self) -> None:
        self.setup.reactor.runUntilCurrent()


def has_ended(client: socket.socket) -> bool:
    """Whether the daemon has closed the connection of *client*."""
    try:
        return client.recv(1, socket.MSG_DONTWAIT) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.fixture
def flood(setup: Setup) -> Flood:
    return Flood(setup)


def test_as_many_begin_as_there_is_time_for(flood: Flood) -> None:
    flood.connect(b"1", b"2", b"3")
    flood.accept()
    assert (flood.begun, flood.heard) == (1, [b"1"])
    flood.iterate()
    assert (flood.begun, flood.heard) == (2, [b"1", b"2"])
    flood.iterate()
    assert (flood.begun, flood.heard) == (3, [b"1", b"2", b"3"])
    assert not flood.setup.reactor.getDelayedCalls()


def test_a_probe_of_health_begins_at_once(flood: Flood) -> None:
    flood.connect(b"1", b"2", PROBE)
    flood.accept()
    assert flood.heard == [b"1", PROBE]


def test_a_part_of_a_probe_is_as_good_as_anything(flood: Flood) -> None:
    flood.connect(b"1", b"2", PROBE[:-1])
    flood.accept()
    assert flood.heard == [b"1"]


def test_a_probe_that_is_sent_late_goes_before_who_came_before(flood: Flood) -> None:
    clients = flood.connect(b"1", SAID, b"")
    flood.accept()
    clients[2].sendall(PROBE)
    flood.iterate()
    assert flood.heard == [b"1", PROBE, SAID]


def test_many_probes_keep_nobody_else_from_beginning(flood: Flood, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_ports, "ACCEPTING", 2 * of_ports.SLICE)
    flood.connect(b"1", SAID, *[PROBE] * 9)
    flood.accept()
    for _ in range(2):
        flood.iterate()
    assert SAID in flood.heard
    assert flood.heard.count(PROBE) < 9


def test_who_has_said_something_goes_before_who_is_silent(flood: Flood) -> None:
    flood.connect(b"1", b"", SAID)
    flood.accept()
    flood.iterate()
    assert (flood.heard, flood.begun) == ([b"1", SAID], 2)
    flood.iterate()
    assert flood.begun == 3


@pytest.mark.parametrize("early", [True, False])
def test_who_has_left_never_begins(flood: Flood, early: bool, logged: list[LogEvent]) -> None:
    clients = flood.connect(b"1", b"")
    if early:
        clients[1].close()
    flood.accept()
    clients[1].close()
    flood.iterate()
    flood.iterate()
    assert flood.begun == 1
    assert not flood.setup.reactor.getDelayedCalls()
    assert not lines_of(logged)  # nobody was refused


@pytest.mark.parametrize("says", [SAID, b"", PROBE])
def test_of_each_kind_only_so_many_wait(
    flood: Flood, says: bytes, monkeypatch: pytest.MonkeyPatch, logged: list[LogEvent]
) -> None:
    monkeypatch.setattr(of_ports, "MAX_WAITING", 2)
    monkeypatch.setattr(of_ports, "ACCEPTING", 2 * of_ports.SLICE)
    clients = flood.connect(b"1", *[says] * 4)
    flood.accept()
    flood.setup.run(lambda: has_ended(clients[-1]))
    flood.setup.run(lambda: not flood.setup.reactor.getDelayedCalls())
    dropped = len(clients) - flood.begun
    assert lines_of(logged) == [f"{dropped} connections were dropped: more came than can begin, and 2 of a kind waited"]


def arrivals(number: int, host: str) -> list[of_ports.Arrival]:
    return [(SimpleNamespace(fileno=lambda n=n: hash((host, n))), (host, 1)) for n in range(number)]  # type: ignore[misc]


def test_networks_take_turns() -> None:
    queue = of_ports.FairQueue()
    many, few = arrivals(3, "192.0.2.1"), arrivals(1, "2001:db8::1")
    for arrival in many + few:
        assert queue.add(arrival) is None
    assert [queue.popleft() for _ in range(4)] == [many[0], few[0], *many[1:]]
    assert not queue


def test_thousands_that_come_back_at_once_from_one_network_all_wait() -> None:
    queue = of_ports.FairQueue()
    assert not any(queue.add(arrival) for arrival in arrivals(4000, "192.0.2.1"))
    assert len(queue) == 4000


def test_one_network_keeps_no_other_from_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_ports, "MAX_WAITING", 3)
    queue = of_ports.FairQueue()
    many, few = arrivals(4, "2001:db8::1"), arrivals(3, "192.0.2.1")
    assert [queue.add(arrival) for arrival in many] == [None, None, None, many[3]]
    assert [queue.add(arrival) for arrival in few] == [many[2], few[1], few[2]]
    assert [queue.popleft() for _ in range(3)] == [many[0], few[0], many[1]]


def test_those_that_wait_begin_when_the_port_closes(flood: Flood) -> None:
    clients = flood.connect(b"1", b"2", b"3", b"")
    flood.accept()
    clients += flood.connect(b"4")  # which nobody has accepted yet
    flood.setup.port.stopListening()
    flood.iterate()
    assert [has_ended(client) for client in clients] == [False] * 5
    assert sorted(flood.heard) == [b"1", b"2", b"3", b"4"]
    assert not flood.setup.reactor.getDelayedCalls()


def test_those_for_whom_there_is_no_time_are_closed_with_the_port(
    flood: Flood, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_ports, "LAST", 0.0)
    clients = flood.connect(b"1", b"2", b"3", b"4", b"")
    flood.accept()
    flood.setup.port.stopListening()
    flood.iterate()
    assert [has_ended(client) for client in clients][-1]
    assert not flood.setup.reactor.getDelayedCalls()


def test_a_connection_that_can_not_begin_is_no_one_elses_fault(flood: Flood, logged: list[LogEvent]) -> None:
    def fail(address: Any) -> Any:
        raise ZeroDivisionError

    flood.setup.factory.buildProtocol = fail  # type: ignore[method-assign, assignment]
    [client] = flood.connect(b"")
    flood.accept()
    assert client.recv(1) == b""
    del flood.setup.factory.buildProtocol
    flood.connect(b"2")
    flood.setup.run(lambda: flood.heard == [b"2"])
    assert [type(failure) for failure in failures_of(logged)] == [ZeroDivisionError]


def test_the_descriptor_of_one_that_fails_as_it_begins_can_be_had_again(flood: Flood, logged: list[LogEvent]) -> None:
    def fail(connection: Any, data: bytes) -> None:
        raise ZeroDivisionError

    flood.setup.factory.on_data = fail
    [client] = flood.connect(b"x")
    flood.setup.run(lambda: has_ended(client))
    assert flood.begun == 0  # it was told of its end
    flood.setup.factory.on_data = lambda connection, data: flood.heard.append(data)
    [client] = flood.connect(b"2")
    flood.setup.run(lambda: flood.heard == [b"2"])
    client.sendall(b"3")
    flood.setup.run(lambda: flood.heard == [b"2", b"3"])
    assert [type(failure) for failure in failures_of(logged)] == [ZeroDivisionError]


def test_what_was_sent_before_a_connection_began_is_handled_in_a_slice(flood: Flood) -> None:
    ends: list[float] = []
    flood.setup.factory.on_data = lambda connection, data: ends.append(slices_of(flood.setup.reactor).end)
    flood.connect(b"1", b"2")
    flood.accept()
    flood.iterate()
    assert len(ends) == 2
    assert inf not in ends
    assert slices_of(flood.setup.reactor).end == inf
