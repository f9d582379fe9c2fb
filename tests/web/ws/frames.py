"""WebSocket frames as bytes, and a link on a fake wire."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, cast

import attrs
import pytest
from twisted.internet.error import ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from broker.core.memory import Memory
from broker.interfaces import ILink
from broker.messages import HttpRequest, Response
from broker.web.ws.link import WebSocketLink
from broker.web.ws.options import TrafficCounter, WebSocketOptions
from broker.web.ws.upgrade import WebSocketUpgrader

MASK = b"\x37\xfa\x21\x3d"  # that of the examples in RFC 6455, 5.7
HANDSHAKE = {
    "host": "broker.test",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
}
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10


def client_frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: bytes | None = None,
    mask: bytes = MASK,
) -> bytes:
    """Return a frame as a client sends it, or as it should not; *length* replaces the extended length."""
    size = len(payload)
    if length is not None:
        short, extended = (126 if len(length) == 2 else 127), length
    elif size < 126:
        short, extended = size, b""
    elif size < 65536:
        short, extended = 126, struct.pack("!H", size)
    else:
        short, extended = 127, struct.pack("!Q", size)
    header = bytes((fin << 7 | rsv << 4 | opcode, masked << 7 | short)) + extended
    if not masked:
        return header + payload
    return header + mask + bytes(byte ^ mask[i & 3] for i, byte in enumerate(payload))


def text(words: str) -> bytes:
    return client_frame(TEXT, words.encode())


def closing(code: int | None = None, reason: bytes = b"") -> bytes:
    return client_frame(CLOSE, b"" if code is None else struct.pack("!H", code) + reason)


def server_frames(sent: bytes) -> list[tuple[int, bytes]]:
    """Return opcode and payload of each frame in *sent*, all of which must be whole and unmasked."""
    frames = []
    while sent:
        assert sent[0] & 0xF0 == 0x80, sent[:10]
        size, start = sent[1], 2
        if size == 126:
            size, start = struct.unpack("!H", sent[2:4])[0], 4
        elif size == 127:
            size, start = struct.unpack("!Q", sent[2:10])[0], 10
        assert size < 1 << 32, "the frame is masked"
        assert len(sent) >= start + size
        frames.append((sent[0] & 0x0F, sent[start : start + size]))
        sent = sent[start + size :]
    return frames


class Wire(StringTransport):
    """A connection of a test; what it was told to do can be seen."""

    protocol: Any
    aborted = False

    def abortConnection(self) -> None:
        self.aborted = True

    @property
    def ended(self) -> bool:
        return self.aborted or self.disconnecting

    def unregisterProducer(self) -> None:
        # Unlike its parent, and like real transports, without objection when there is none.
        self.producer = None

    def feed(self, data: bytes, step: int = 0) -> None:
        """Deliver *data*, *step* bytes at a time, as far as it is still wanted."""
        for start in range(0, len(data), step or len(data) or 1):
            if self.ended:
                return
            self.protocol.dataReceived(data[start : start + step] if step else data)

    def lose(self, reason: Exception | None = None) -> None:
        """Let the connection end."""
        self.producer = None
        self.protocol.connectionLost(Failure(reason or ConnectionDone()))


@attrs.define(eq=False)
class Session:
    """A session with behaviour: some messages make it do something."""

    link: ILink
    log: list[Any] = attrs.field(factory=list)
    work: Callable[[], object] = lambda: None  # for each message

    def opened(self) -> None:
        self.log.append("opened")

    def received(self, data: bytes, binary: bool) -> None:
        self.log.append((data, binary))
        self.work()
        if data.startswith(b"echo "):
            self.link.send(data[5:])
        elif data == b"bye":
            self.link.close(4001, "as you wish")
        elif data == b"wait":
            self.link.pause_receiving()
        elif data == b"drop":
            self.link.abort()
        elif data == b"fail":
            raise ValueError("a session's own fault")

    def closed(self, code: int, reason: str) -> None:
        self.log.append(("closed", code, reason))

    @property
    def messages(self) -> list[tuple[bytes, bool]]:
        return [entry for entry in self.log if isinstance(entry, tuple) and isinstance(entry[0], bytes)]


@attrs.define(eq=False)
class Bench:
    """One link with everything around it."""

    clock: Clock
    wire: Wire
    upgrader: WebSocketUpgrader
    traffic: TrafficCounter
    link: WebSocketLink
    session: Session
    ended: list[tuple[int, str]]

    @property
    def sent(self) -> list[tuple[int, bytes]]:
        return server_frames(self.wire.value())

    def timers(self) -> list[Any]:
        """Return the timers that are left once the heartbeat has looked around."""
        self.clock.advance(0.1)
        return list(self.clock.getDelayedCalls())


# The three ways in which frames are read.
WAYS: dict[str, dict[str, Any]] = {"compiled": {}, "fast": {"speedups": "off"}, "plain": {"fast_path": False}}
each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


def handshake(**headers: str) -> HttpRequest:
    fields = HANDSHAKE | {name.replace("_", "-"): value for name, value in headers.items()}
    return HttpRequest("GET", "/ws", "", fields, address="192.0.2.1", id="req-1")


def refuse(failure: Failure) -> Response:
    return Response(500, failure.getErrorMessage().encode())


def open_link(memory: Memory | None = None, **options: Any) -> Bench:
    """Return an open link on a fake wire from which the 101 has been read."""
    clock, wire, traffic = Clock(), Wire(), TrafficCounter()
    upgrader = WebSocketUpgrader(WebSocketOptions(**options), clock, traffic, memory)
    ended: list[tuple[int, str]] = []
    sessions: list[Session] = []

    def session(link: ILink) -> Session:
        sessions.append(Session(link))
        return sessions[0]

    refusal = upgrader.upgrade(
        wire,
        handshake(),
        cast(Any, session),
        refuse=refuse,
        on_closed=lambda code, reason: ended.append((code, reason)),
    )
    assert refusal is None
    wire.clear()
    return Bench(clock, wire, upgrader, traffic, wire.protocol, sessions[0], ended)
