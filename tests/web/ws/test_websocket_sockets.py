"""Links on real sockets: over TCP, TLS and unix sockets, with readers that do not read."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol

from broker.core.grace import HARD_LIMIT
from broker.interfaces import ILink
from broker.messages import HttpRequest, text_frame
from broker.web.net.sockets import buffered_bytes
from broker.web.net.transport import FrameTransport
from broker.web.ws.options import TrafficCounter, WebSocketOptions
from broker.web.ws.upgrade import WebSocketUpgrader
from tests.support.eventually import TIMEOUT, eventually
from tests.support.ws_client import WebSocket, ws_connect
from tests.web.sockets import OLD_OPENSSL_OBJECTS, Client, Scene, reactor
from tests.web.ws.frames import CLOSE, HANDSHAKE, TEXT, Session, closing, refuse, server_frames, text

REQUEST = (
    b"GET / HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in HANDSHAKE.items()).encode() + b"\r\n"
)


class Front(Protocol):
    """Reads a request and asks the upgrader to take the connection over."""

    def connectionMade(self) -> None:
        self.data = b""

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        head, found, rest = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        self.factory.enter(self.transport, {name.lower(): value for name, value in fields.items()}, rest)


class Fronts(Factory):
    protocol = Front
    noisy = False

    def __init__(self, **options: Any) -> None:
        self.traffic = TrafficCounter()
        self.upgrader = WebSocketUpgrader(WebSocketOptions(**{"ping_interval": 0} | options), reactor, self.traffic)
        self.sessions: list[Session] = []
        self.ended: Deferred[tuple[int, str]] = Deferred()

    def enter(self, transport: Any, headers: dict[str, str], rest: bytes) -> None:
        request = HttpRequest("GET", "/", "", headers, address="127.0.0.1")
        refusal = self.upgrader.upgrade(
            transport, request, cast(Any, self.session), refuse=refuse, on_closed=self.closed, rest=rest
        )
        assert refusal is None

    def session(self, link: ILink) -> Session:
        self.sessions.append(Session(link))
        return self.sessions[-1]

    def closed(self, code: int, reason: str) -> None:
        ended, self.ended = self.ended, Deferred()
        ended.callback((code, reason))


async def fronts(scene: Scene, **options: Any) -> tuple[Fronts, int]:
    scene.servers = Fronts(**options)
    port = await scene.listen("tcp:0:interface=127.0.0.1")
    return scene.servers, port.getHost().port


async def connect(port: int) -> WebSocket:
    return await ws_connect(f"ws://127.0.0.1:{port}/")


async def speak(client: Client) -> None:
    """Open, talk and close over whatever *client* is connected to."""
    client.transport.write(REQUEST + text("echo one"))
    await client.until(1)
    while not client.data.endswith(b"one"):
        await client.until(len(client.data) + 1)
    head, _, frames = bytes(client.data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert server_frames(frames) == [(TEXT, b"one")]
    client.data.clear()
    client.transport.write(text("echo " + "x" * 100_000) + closing(4000, b"bye"))
    await client.ended.addTimeout(TIMEOUT, reactor)
    assert server_frames(bytes(client.data)) == [(TEXT, b"x" * 100_000), (CLOSE, b"\x0f\xa0bye")]


@pytest.mark.parametrize("fast_path", [True, False])
@pytest_twisted.ensureDeferred
async def test_a_conversation_over_tcp(scene: Scene, fast_path: bool) -> None:
    server, port = await fronts(scene, fast_path=fast_path)
    client = await scene.connect(port)
    ended = server.ended
    await speak(client)
    scene.clients.remove(client)
    assert await ended == (4000, "bye")
    assert not server.upgrader.links


@OLD_OPENSSL_OBJECTS
@pytest_twisted.ensureDeferred
async def test_a_conversation_over_tls(scene: Scene) -> None:
    scene.servers = server = Fronts()
    port, trusting = await scene.listen_with_tls()
    client = await scene.connect(port.getHost().port, trusting)
    ended = server.ended
    await speak(client)
    scene.clients.remove(client)
    assert await ended.addTimeout(TIMEOUT, reactor) == (4000, "bye")


@pytest_twisted.ensureDeferred
async def test_a_conversation_over_a_unix_socket(scene: Scene, short_path: Path) -> None:
    scene.servers = server = Fronts()
    await scene.listen(f"unix:{short_path / 'socket'}")
    client = await scene.connect(short_path / "socket")
    ended = server.ended
    await speak(client)
    scene.clients.remove(client)
    assert await ended.addTimeout(TIMEOUT, reactor) == (4000, "bye")


@pytest_twisted.ensureDeferred
async def test_a_close_of_ours_is_seen_and_the_connection_ends_cleanly(scene: Scene) -> None:
    server, port = await fronts(scene)
    client = await connect(port)
    [link] = server.upgrader.links
    ended = server.ended
    link.send(b"last words")
    link.close(1001, "leaving")
    assert await client.receive() == "last words"
    assert await client.closed() == (1001, "leaving")
    assert await ended.addTimeout(TIMEOUT, reactor) == (1001, "leaving")


async def fan_out(server: Fronts, readers: list[WebSocket], frame: Any, rounds: int) -> int:
    """Send *frame* to every link again and again, at the pace of *readers*; return the most that waited."""
    most = 0
    for _ in range(rounds):
        for link in list(server.upgrader.links):
            link.send_frame(frame)
            if isinstance(link.transport, FrameTransport):
                most = max(most, buffered_bytes(link.transport) or 0)
        for reader in readers:
            assert await reader.receive() == frame.payload.decode()
    return most


@pytest_twisted.ensureDeferred
async def test_a_dead_reader_is_cut_off_and_the_others_get_everything(scene: Scene) -> None:
    limit = 64 * 1024
    server, port = await fronts(scene, send_queue_bytes=limit, slow_grace=2.0)
    dead = await connect(port)
    readers = [await connect(port) for _ in range(4)]
    dead.mute()
    ended = server.ended
    frame = text_frame(b"x" * 100_000)
    most = await fan_out(server, readers, frame, 150)
    assert limit < most <= HARD_LIMIT * limit + 2 * len(frame.wire) + 65536
    assert await ended.addTimeout(TIMEOUT, reactor) == (1013, "reading too slowly")
    assert server.traffic.slow_consumers == {"close": 1}
    assert len(server.upgrader.links) == 4
    assert server.traffic.messages_out >= 600
    for client in (*readers, dead):
        client.abort()
    await server.ended


def loop_iteration() -> Deferred[None]:
    done: Deferred[None] = Deferred()
    reactor.callLater(0, done.callback, None)
    return done


async def fill(link: Any, most: int) -> int:
    """Send numbered messages until more than *most* bytes wait, or the link is closed; return how many."""
    sent = 0
    while link.open and (buffered_bytes(link.transport) or 0) <= most:
        link.send(b"%06d" % sent + b"x" * 50_000)
        sent += 1
        await loop_iteration()
    return sent


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_that_wakes_up_gets_what_waited_and_then_1013(scene: Scene) -> None:
    server, port = await fronts(scene, send_queue_bytes=100_000, slow_grace=TIMEOUT)
    client = await connect(port)
    client.mute()
    [link] = server.upgrader.links
    sent = await fill(link, 1 << 40)
    assert link.paused
    client.listen()
    got = [await client.receive() for _ in range(sent)]
    assert [int(message[:6]) for message in got] == list(range(sent))
    assert await client.closed() == (1013, "reading too slowly")


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_that_wakes_up_in_time_stays(scene: Scene) -> None:
    server, port = await fronts(scene, send_queue_bytes=100_000, slow_grace=TIMEOUT)
    client = await connect(port)
    [link] = server.upgrader.links
    for _ in range(2):
        client.mute()
        sent = await fill(link, 1_000_000)
        client.listen()
        for number in range(sent):
            assert int((await client.receive())[:6]) == number
        assert link.open
    client.send("echo on")
    assert await client.receive() == "on"
    assert server.traffic.slow_consumers == {}
    client.abort()
    await server.ended


@pytest.mark.parametrize("limit", [1000, 1 << 20])
@pytest_twisted.ensureDeferred
async def test_a_session_is_called_once_when_its_client_has_read_all(scene: Scene, limit: int) -> None:
    server, port = await fronts(scene, send_queue_bytes=limit, slow_grace=TIMEOUT)
    client = await connect(port)
    [link] = server.upgrader.links
    client.mute()
    while not link.paused:
        link.send(b"x" * 1000)
        await loop_iteration()
    assert 0 < link.unsent <= HARD_LIMIT * limit
    drained: list[tuple[bool, int]] = []
    link.on_drained = lambda: drained.append((link.paused, link.unsent))
    client.listen()
    await eventually(lambda: drained)
    client.send("echo on")
    while await client.receive() != "on":
        pass
    assert drained == [(False, 0)]
    client.abort()
    await server.ended


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_is_closed_when_its_grace_is_over(scene: Scene) -> None:
    server, port = await fronts(scene, send_queue_bytes=100_000, slow_grace=0.1)
    client = await connect(port)
    client.mute()
    [link] = server.upgrader.links
    await fill(link, 200_000)
    assert link.open
    await eventually(lambda: not link.open)
    assert (buffered_bytes(link.transport) or 0) < 400_000
    assert server.traffic.slow_consumers == {"close": 1}
    client.abort()
    await server.ended


class Over:
    """Ways to connect that have no frame transport."""

    @staticmethod
    async def tls(scene: Scene) -> Client:
        port, trusting = await scene.listen_with_tls()
        return await scene.connect(port.getHost().port, trusting)

    @staticmethod
    async def unix(scene: Scene) -> Client:
        await scene.listen(f"unix:{scene.path / 'socket'}")
        return await scene.connect(scene.path / "socket")


@OLD_OPENSSL_OBJECTS
@pytest.mark.parametrize("connected", [Over.tls, Over.unix])
@pytest_twisted.ensureDeferred
async def test_a_reader_over_another_transport_has_the_same_grace(scene: Scene, connected: Any) -> None:
    scene.servers = server = Fronts(send_queue_bytes=100_000, slow_grace=TIMEOUT)
    client = await connected(scene)
    client.transport.write(REQUEST)
    await client.until(10)
    [link] = server.upgrader.links
    client.transport.pauseProducing()
    sent = await fill(link, 300_000)
    assert link.open
    client.transport.resumeProducing()
    await client.until(sent * 50_000)
    await eventually(lambda: not link.paused)
    assert link.open
    assert server.traffic.slow_consumers == {}
    client.transport.pauseProducing()
    await fill(link, 1 << 40)
    assert server.traffic.slow_consumers == {"close": 1}
    assert (buffered_bytes(link.transport) or 0) < 2_000_000


@OLD_OPENSSL_OBJECTS
@pytest_twisted.ensureDeferred
async def test_a_dead_reader_over_tls_is_cut_off(scene: Scene) -> None:
    scene.servers = server = Fronts(send_queue_bytes=100_000, slow_grace=0.1)
    client = await Over.tls(scene)
    client.transport.write(REQUEST)
    await client.until(10)
    client.transport.pauseProducing()
    [link] = server.upgrader.links
    ended = server.ended
    await fill(link, 1 << 40)
    assert server.traffic.slow_consumers == {"close": 1}
    assert await ended.addTimeout(TIMEOUT, reactor) == (1013, "reading too slowly")
