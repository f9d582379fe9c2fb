"""Endpoints and real sockets: which transports they get, and that every byte arrives."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError, ConnectionLost
from twisted.internet.task import Clock

from broker.web.net import listening
from broker.web.net.listening import FrameReactor, listen, unsupported
from broker.web.net.port import FramePort
from broker.web.net.transport import FrameTransport, Outbox
from tests.support.eventually import TIMEOUT
from tests.web.sockets import OLD_OPENSSL_OBJECTS, Client, Scene, Server, Servers, reactor


@pytest_twisted.ensureDeferred
async def test_tcp_endpoints_get_frame_transports(scene: Scene) -> None:
    port = await scene.listen("tcp:0:interface=127.0.0.1", backlog=77)
    client = await scene.connect(port.getHost().port)
    client.transport.write(b"hello")
    assert await client.until(5) == b"hello"
    [server] = scene.servers.connections
    assert isinstance(server.transport, FrameTransport)
    assert server.transport.getTcpNoDelay()
    assert port.backlog == 77


@pytest_twisted.ensureDeferred
async def test_a_longer_backlog_of_the_endpoint_stands(scene: Scene) -> None:
    port = await scene.listen("tcp:0:interface=127.0.0.1:backlog=99", backlog=77)
    assert port.backlog == 99


@pytest_twisted.ensureDeferred
async def test_ipv6_gets_frame_transports(scene: Scene) -> None:
    port = await scene.listen("tcp6:0:interface=\\:\\:1")
    assert isinstance(port, FramePort)


@pytest_twisted.ensureDeferred
async def test_unix_sockets_work_with_plain_transports(scene: Scene) -> None:
    path = scene.path / "socket"
    await scene.listen(f"unix:{path}")
    client = await scene.connect(path)
    client.transport.write(b"hello")
    assert await client.until(5) == b"hello"
    assert not isinstance(scene.servers.connections[0].transport, FrameTransport)


@OLD_OPENSSL_OBJECTS
@pytest_twisted.ensureDeferred
async def test_tls_works_with_plain_transports(scene: Scene) -> None:
    port, trusting = await scene.listen_with_tls()
    client = await scene.connect(port.getHost().port, trusting)
    client.transport.write(b"hello")
    assert await client.until(5) == b"hello"
    assert scene.servers.connections[0].transport.getTcpNoDelay()


@pytest_twisted.ensureDeferred
async def test_a_socket_from_systemd_gets_frame_transports(scene: Scene) -> None:
    opened = socket.create_server(("127.0.0.1", 0))
    opened.setblocking(False)
    # What the endpoint of "systemd:domain=INET:index=0" does with the descriptor it finds.
    port = FrameReactor(reactor, scene.outbox, 50).adoptStreamPort(opened.fileno(), socket.AF_INET, scene.servers)
    scene.ports.append(port)
    client = await scene.connect(opened.getsockname()[1])
    opened.close()
    client.transport.write(b"hello")
    assert await client.until(5) == b"hello"
    assert isinstance(scene.servers.connections[0].transport, FrameTransport)


@pytest_twisted.ensureDeferred
async def test_a_unix_socket_from_systemd_gets_a_plain_port(scene: Scene) -> None:
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(str(scene.path / "socket"))
    opened.listen()
    opened.setblocking(False)
    port = FrameReactor(reactor, scene.outbox, 50).adoptStreamPort(opened.fileno(), socket.AF_UNIX, scene.servers)
    scene.ports.append(port)
    opened.close()
    assert not isinstance(port, FramePort)


@pytest_twisted.ensureDeferred
async def test_an_endpoint_that_is_no_string_is_used_as_it_is(scene: Scene) -> None:
    port = await scene.listen(TCP4ServerEndpoint(reactor, 0, interface="127.0.0.1"))
    client = await scene.connect(port.getHost().port)
    client.transport.write(b"hello")
    assert await client.until(5) == b"hello"
    assert not isinstance(port, FramePort)


@pytest_twisted.ensureDeferred
async def test_an_address_in_use_is_told(scene: Scene) -> None:
    port = await scene.listen("tcp:0:interface=127.0.0.1")
    with pytest.raises(CannotListenError):
        await scene.listen(f"tcp:{port.getHost().port}:interface=127.0.0.1")


def test_a_string_that_is_no_endpoint_is_told() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        listen(reactor, "nonsense:1", Servers(), Outbox(reactor))


def test_a_reactor_of_another_kind_is_unfit() -> None:
    assert unsupported(reactor) == ""
    assert "task.Clock is none of" in unsupported(Clock())


@pytest_twisted.ensureDeferred
async def test_without_twisteds_private_names_connections_are_plain(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listening, "PRIVATE_NAMES", ("_tempDataBuffer", "_renamed"))
    assert "has no _renamed; tested with Twisted" in unsupported(reactor)
    port = await scene.listen("tcp:0:interface=127.0.0.1")
    client = await scene.connect(port.getHost().port)
    client.transport.write(b"hello")
    assert await client.until(5) == b"hello"
    [server] = scene.servers.connections
    assert type(server.transport) is tcp.Server
    assert server.transport.getTcpNoDelay()


def test_a_plain_socket_from_systemd_is_left_to_the_reactor(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Clock):
        def adoptStreamPort(self, *args: Any) -> Any:
            return args

    adopted: Any = FrameReactor(Other(), Outbox(Clock()), 50).adoptStreamPort(7, socket.AF_INET, Servers())
    assert adopted[:2] == (7, socket.AF_INET)


async def connected(scene: Scene) -> tuple[Client, Server]:
    port = await scene.listen("tcp:0:interface=127.0.0.1")
    client = await scene.connect(port.getHost().port)
    client.transport.write(b"x")
    await client.until(1)
    client.data.clear()
    return client, scene.servers.connections[-1]


@pytest_twisted.ensureDeferred
async def test_twelve_megabytes_reach_a_client_that_reads_late(scene: Scene) -> None:
    client, server = await connected(scene)
    client.transport.pauseProducing()
    pieces = [os.urandom(1 << 16) for _ in range(192)]
    for number, piece in enumerate(pieces):
        (server.transport.write if number % 5 == 0 else server.send)(piece)
    waited: Deferred[None] = Deferred()
    reactor.callLater(0.05, waited.callback, None)
    await waited
    assert server.transport.dataBuffer
    server.send(b"the end")
    server.transport.loseConnection()
    client.transport.resumeProducing()
    await client.ended.addTimeout(TIMEOUT, reactor)
    scene.clients.remove(client)
    assert bytes(client.data) == b"".join(pieces) + b"the end"


@pytest_twisted.ensureDeferred
async def test_frames_from_timers_and_threads_arrive(scene: Scene) -> None:
    client, server = await connected(scene)
    reactor.callLater(0, server.send, b"timer ")
    assert await client.until(6) == b"timer "
    reactor.callInThread(reactor.callFromThread, server.send, b"thread")
    assert await client.until(12) == b"timer thread"


@pytest_twisted.ensureDeferred
async def test_a_client_that_leaves_makes_others_hear_of_it(scene: Scene) -> None:
    client, server = await connected(scene)
    other = await scene.connect(scene.ports[0].getHost().port)
    other.transport.write(b"x")
    await other.until(1)
    leaving = scene.servers.connections[-1]
    leaving.connectionLost = lambda reason: server.send(b"it left")  # type: ignore[assignment, misc]
    other.transport.abortConnection()
    assert await client.until(7) == b"it left"


@pytest_twisted.ensureDeferred
async def test_a_connection_that_was_reset_ends_in_a_flush(scene: Scene) -> None:
    client, server = await connected(scene)
    lost: Deferred[Any] = Deferred()
    server.connectionLost = lambda reason: lost.callback(reason.value)  # type: ignore[assignment, misc]
    server.transport.stopReading()
    client.transport.abortConnection()
    await client.ended
    for _ in range(3):
        server.send(b"a" * 1000)
        scene.outbox.flush()
    reason = await lost.addTimeout(TIMEOUT, reactor)
    assert isinstance(reason, ConnectionLost)


@pytest_twisted.ensureDeferred
async def test_a_client_that_ends_its_half_is_answered_all_the_same(scene: Scene) -> None:
    # An ordinary protocol ends with the first half: what the same iteration had sent has left by then.
    client, _ = await connected(scene)
    client.transport.write(b"last words")
    client.transport.loseWriteConnection()
    assert await client.until(10) == b"last words"
    await client.ended.addTimeout(TIMEOUT, reactor)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        ("tcp:8011:interface=127.0.0.1 tcp:8012:interface=127.0.0.1", "separated by ';'"),
        ("tcp", "missing"),
        ("tcp:8011:nonsense=1", "unknown"),
        ("tcp:x", "int"),
        ("ssl:0:privateKey=/nowhere/key.pem", "/nowhere/key.pem"),
    ],
)
def test_what_is_no_endpoint_is_said_so(endpoint: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        listen(reactor, endpoint, Servers(), Outbox(reactor))
