"""Ports that several processes accept from, here several ports in one process."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock

from broker.web.net.listening import FrameReactor
from broker.web.net.sharing import ABSENT, BATCH, PAUSE, RECHECK, AcceptShare, SharedCounts
from broker.web.net.transport import Outbox
from tests.support.eventually import eventually


class FakePort:
    """A port of Twisted in whose queue ``queued`` connections wait."""

    def __init__(self) -> None:
        self.connected, self.disconnecting = 1, False
        self.queued = self.accepted = 0
        self.reading = True

    def doRead(self) -> None:
        taken = min(self.queued, getattr(self, "max_accepts", 1000))
        self.queued -= taken
        self.accepted += taken

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True


class Scene:
    def __init__(self) -> None:
        self.clock, self.counts, self.port = Clock(), SharedCounts.make(3), FakePort()
        self.share = AcceptShare(self.clock, self.counts, 0, lambda: self.port.accepted)
        self.share.join(self.port)


@pytest.fixture
def scene():
    return Scene()


def test_numbers_are_the_same_for_all_who_have_the_descriptor():
    one = SharedCounts.make(3)
    other = SharedCounts(one.descriptor, 3)
    assert one.fewest_of_others(0) == ABSENT
    one[0], other[2] = 7, 4
    assert (other[0], one[2], other[1]) == (7, 4, ABSENT)
    assert (one.fewest_of_others(0), one.fewest_of_others(2)) == (4, 7)


def test_one_alone_accepts_all_in_batches(scene):
    scene.port.queued = 3 * BATCH
    for _ in range(3):
        scene.port.doRead()
    assert (scene.port.accepted, scene.counts[0]) == (3 * BATCH, 3 * BATCH)


def test_one_with_more_gives_way_for_a_moment_and_then_accepts(scene):
    scene.counts[1] = 0
    scene.port.queued = BATCH + 1
    scene.port.doRead()
    scene.port.doRead()
    assert (scene.port.accepted, scene.port.reading) == (BATCH, False)
    scene.clock.advance(PAUSE)
    assert scene.port.reading
    scene.port.doRead()  # nobody else has
    assert scene.port.accepted == BATCH + 1


def test_one_with_as_many_gives_way_to_nobody(scene):
    scene.counts[1], scene.counts[2] = BATCH, 3 * BATCH
    scene.port.queued = 2 * BATCH
    scene.port.doRead()
    scene.port.doRead()
    assert scene.port.accepted == 2 * BATCH


def test_one_that_is_withdrawn_accepts_nobody_while_another_does(scene):
    scene.counts[1] = 50
    scene.share.withdraw()
    scene.port.queued = 1
    for _ in range(3):
        scene.port.doRead()
        scene.clock.advance(RECHECK)
    assert (scene.port.accepted, scene.counts[0]) == (0, ABSENT)
    scene.counts[1] = ABSENT  # they all stop: who connects is told so
    scene.port.doRead()
    assert scene.port.accepted == 1


def test_before_it_closes_it_accepts_the_rest(scene):
    scene.counts[1] = 0
    scene.port.queued = 5 * BATCH
    scene.port.doRead()
    scene.port.accept_rest()
    assert scene.port.accepted == 5 * BATCH


def test_a_port_that_was_closed_meanwhile_is_left_alone(scene):
    scene.counts[1] = 0
    scene.port.accepted = 1
    scene.port.doRead()
    scene.port.disconnecting = True
    scene.clock.advance(PAUSE)
    assert not scene.port.reading


@pytest_twisted.async_yield_fixture
async def listening() -> AsyncIterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as made:
        made.setblocking(False)
        yield made


@pytest.mark.parametrize("plain", [False, True])
@pytest_twisted.ensureDeferred
async def test_real_ports_of_one_socket_have_as_many_connections(listening, plain):
    counts, made, shares = SharedCounts.make(2), ([], []), []
    ports = []
    for number in (0, 1):

        class Noted(Protocol):
            mine = made[number]

            def connectionMade(self) -> None:
                self.mine.append(self)

            def connectionLost(self, reason: object = None) -> None:
                self.mine.remove(self)

        share = AcceptShare(reactor, counts, number, made[number].__len__)
        shares.append(share)
        share.note()
        frames = FrameReactor(reactor, Outbox(reactor), 512, plain=plain)
        ports.append(share.join(frames.adoptStreamPort(listening.fileno(), socket.AF_INET, Factory.forProtocol(Noted))))
    clients = [socket.create_connection(listening.getsockname()) for _ in range(100)]
    await eventually(lambda: sum(map(len, made)) == 100)
    assert abs(len(made[0]) - len(made[1])) <= 2 * BATCH
    for client in clients:
        client.close()
    await eventually(lambda: not any(made))
    for port in ports:
        await port.stopListening()
    with socket.create_connection(listening.getsockname()):
        pass  # the socket is still listened on, for the others
