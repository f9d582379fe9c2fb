"""Turns of a real epoll reactor of our own, with real sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock
from twisted.logger import LogLevel

from broker.web.net.outbox import Outbox
from broker.web.net.reactor_loop import ReactorLoop
from broker.web.net.transport import FrameTransport, listen
from tests.support.eventually import TIMEOUT
from tests.support.logs import failures_of, logging


class Talker(Protocol):
    """Hands what it reads to the test's function."""

    factory: Hall

    def connectionMade(self) -> None:
        self.factory.talkers.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.factory.heard(self, data)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.talkers.remove(self)


class Hall(Factory):
    protocol = Talker  # type: ignore[assignment]

    def __init__(self) -> None:
        self.talkers: list[Talker] = []
        self.heard: Callable[[Talker, bytes], object] = lambda talker, data: None


class CountingSocket:
    """A socket that remembers each piece it was given to send."""

    def __init__(self, inner: socket.socket) -> None:
        self._inner = inner
        self.pieces: list[bytes] = []

    def send(self, data: bytes) -> int:
        self.pieces.append(bytes(data))
        return self._inner.send(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class House:
    """A reactor, a port, and clients that are plain sockets."""

    def __init__(self) -> None:
        self.reactor: Any = EPollReactor()
        outbox = Outbox(self.reactor)
        self.turn = ReactorLoop(self.reactor, outbox)
        assert self.turn.install()
        self.hall = Hall()
        ports: list[Any] = []
        listen(self.reactor, "tcp:0:interface=127.0.0.1", self.hall, outbox).addCallback(ports.append)
        self.port = ports[0]
        self.clients: list[socket.socket] = []

    def run(self, until: Callable[[], object]) -> None:
        for _ in range(1000):
            if until():
                return
            self.reactor.runUntilCurrent()
            self.reactor.doIteration(0.01)
        raise AssertionError("it did not come to that")

    def connect(self) -> tuple[socket.socket, Talker]:
        count = len(self.hall.talkers)
        client = socket.create_connection(self.port.socket.getsockname())
        client.settimeout(TIMEOUT)
        self.clients.append(client)
        self.run(lambda: len(self.hall.talkers) > count)
        return client, self.hall.talkers[-1]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.run(lambda: not self.hall.talkers)
        self.port.stopListening()
        self.reactor.runUntilCurrent()
        self.turn.remove()
        self.reactor.removeAll()
        self.reactor.waker.connectionLost(None)
        self.reactor._poller.close()


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.close()


def test_what_several_connections_cause_leaves_in_one_send(house: House) -> None:
    _, service = house.connect()
    counting = CountingSocket(service.transport.socket)  # type: ignore[union-attr]
    service.transport.socket = counting  # type: ignore[union-attr]
    callers = [house.connect()[0] for _ in range(3)]
    heard: list[bytes] = []

    def forward(talker: Talker, data: bytes) -> None:
        heard.append(data)
        service.transport.send_frame(data)  # type: ignore[union-attr]

    house.hall.heard = forward
    for number, caller in enumerate(callers):
        caller.sendall(b"%d" % number)
    house.run(lambda: len(heard) == 3)
    assert b"".join(counting.pieces) == b"".join(heard)
    assert len(counting.pieces) == 1


def test_each_gets_its_own_answer(house: House) -> None:
    house.hall.heard = lambda talker, data: talker.transport.send_frame(data.upper())  # type: ignore[union-attr]
    clients = [house.connect()[0] for _ in range(5)]
    for number, client in enumerate(clients):
        client.sendall(b"client %d" % number)
    for _ in range(20):
        house.reactor.doIteration(0.01)
    assert [client.recv(100) for client in clients] == [b"CLIENT %d" % number for number in range(5)]


def test_a_client_that_leaves_is_noticed(house: House) -> None:
    client, _ = house.connect()
    client.close()
    house.run(lambda: not house.hall.talkers)


def test_a_fault_of_one_connection_ends_that_one_only(house: House) -> None:
    bad, _ = house.connect()
    good, _ = house.connect()

    def handle(talker: Talker, data: bytes) -> None:
        if data == b"bad":
            raise ValueError("a bug")
        talker.transport.send_frame(data)  # type: ignore[union-attr]

    house.hall.heard = handle
    with logging(LogLevel.critical) as events:
        bad.sendall(b"bad")
        good.sendall(b"good")
        house.run(lambda: len(house.hall.talkers) == 1)
        for _ in range(5):
            house.reactor.doIteration(0.01)
    assert [str(failure) for failure in failures_of(events)] == ["a bug"]
    assert good.recv(10) == b"good"


def test_what_can_be_written_later_is_written(house: House) -> None:
    client, talker = house.connect()
    big = b"x" * 8_000_000
    talker.transport.send_frame(big)  # type: ignore[union-attr]
    client.settimeout(0.01)
    got = 0
    for _ in range(100_000):
        house.reactor.runUntilCurrent()
        house.reactor.doIteration(0)
        try:
            got += len(client.recv(1 << 20))
        except TimeoutError:
            continue
        if got == len(big):
            break
    assert got == len(big)


def test_connections_are_read_by_the_turn_itself(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = house.connect()
    heard: list[bytes] = []
    house.hall.heard = lambda talker, data: heard.append(data)
    monkeypatch.setattr(house.reactor, "_doReadOrWrite", lambda *event: pytest.fail("the long way"))
    client.sendall(b"x")
    house.run(lambda: heard)
    assert isinstance(house.hall.talkers[0].transport, FrameTransport)


def test_a_reactor_that_is_not_known_is_left_alone() -> None:
    clock = Clock()
    turn = ReactorLoop(clock, Outbox(clock))
    assert not turn.install()
    turn.remove()
    assert "doIteration" not in vars(clock)


def test_removing_gives_the_reactor_its_own_turns_back(house: House) -> None:
    assert "doIteration" in vars(house.reactor)
    house.turn.remove()
    house.turn.remove()
    assert "doIteration" not in vars(house.reactor)
    assert house.turn.install()
