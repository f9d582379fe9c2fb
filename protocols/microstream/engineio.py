"""Engine.IO v4 without I/O: packets in, events out.

A packet is one digit and its data: ``0`` open, ``1`` close, ``2`` ping, ``3`` pong,
``4`` message, ``5`` upgrade, ``6`` noop.  On WebSocket each is a frame of its own,
and a binary message is a binary frame without a digit; in long-polling, packets
are joined by the byte 0x1E and a binary message is ``b`` and its base64.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Iterable
from enum import Enum

import attrs
from twisted.internet.interfaces import IReactorTime

from broker.messages import CloseCode

SEPARATOR = b"\x1e"
CLOSE, PING, PONG, UPGRADE, NOOP = b"1", b"2", b"3", b"5", b"6"
PROBE, PROBED = b"2probe", b"3probe"
KNOWN = frozenset(b"0123456")
MESSAGE = ord("4")
LATE = 0.5  # seconds that a timer may be late without the client being the worse for it


@attrs.frozen
class Times:
    """What the client is told at the handshake, and how long it may take; in seconds.

    Attributes:
        ping_interval: from the last sign of life after a ping to the next ping.
        ping_timeout: for a sign of life after a ping.
        upgrade_timeout: for moving to WebSocket.
        max_payload: bytes of one message, or of the body of one request.
    """

    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    upgrade_timeout: float = 10.0
    max_payload: int = 1_000_000


class Malformed(Exception):
    """The client broke the protocol: its session ends.

    Attributes:
        code: for the WebSocket close frame.
    """

    def __init__(self, reason: str, code: int = 1002) -> None:
        super().__init__(reason)
        self.code = code


class State(Enum):
    """How packets travel."""

    POLLING = "polling"
    UPGRADING = "upgrading"  # still polling, but a WebSocket is there
    PROBED = "probed"  # as before, and that WebSocket has been found good
    WEBSOCKET = "websocket"
    CLOSED = "closed"


# One is made for every message: not frozen, which would triple its price.
@attrs.define
class Message:
    """A message came."""

    data: bytes
    binary: bool = False


@attrs.frozen
class Alive:
    """The sign of life came that a ping has asked for."""


@attrs.frozen
class Probed:
    """The WebSocket works: answer ``3probe`` on it and end the waiting GET."""


@attrs.frozen
class Upgraded:
    """Packets travel over the WebSocket from now on."""


@attrs.frozen
class Closed:
    """The client has said good-bye."""


Event = Message | Alive | Probed | Upgraded | Closed
Packet = tuple[bytes, bool]  # the data of a frame, digit included; whether it is a binary one

ALIVE, PROBED_EVENT, UPGRADED, CLOSED = Alive(), Probed(), Upgraded(), Closed()


def open_packet(sid: str, times: Times, *, upgrades: bool) -> bytes:
    """Return the packet that answers the handshake."""
    about = {
        "sid": sid,
        "upgrades": ["websocket"] if upgrades else [],
        "pingInterval": round(times.ping_interval * 1000),
        "pingTimeout": round(times.ping_timeout * 1000),
        "maxPayload": times.max_payload,
    }
    return b"0" + json.dumps(about, separators=(",", ":")).encode("ascii")


def decode_payload(body: bytes) -> list[Packet]:
    """Return the packets of a request's body.

    Raises:
        Malformed: one of them is no packet.
    """
    try:
        if not body.isascii():
            body.decode()
        return [_unpack(part) for part in body.split(SEPARATOR)]
    except (UnicodeDecodeError, Base64Error) as error:
        raise Malformed(f"payload: {type(error).__name__}") from None


def encode_payload(packets: Iterable[Packet]) -> bytes:
    """Return *packets* as the body of an answer."""
    return SEPARATOR.join(b"b" + b64encode(data) if binary else data for data, binary in packets)


def _unpack(part: bytes) -> Packet:
    if part[:1] == b"b":
        return b64decode(part[1:], validate=True), True
    if not part or part[0] not in KNOWN:
        raise Malformed("unknown packet")
    return part, False


class Engine:
    """One session.

    Give it what comes (``receive_payload``, ``receive_frame``, ``receive_probe``) and
    act on the events it returns; ask it what is to be sent (``poll``, ``frames``).
    Every receiving method raises :class:`Malformed` when the session must end.

    Args:
        times: see :class:`Times`.
        clock: gives the time.
        websocket: whether it begins on WebSocket rather than by polling.

    Attributes:
        awaiting: whether a ping awaits a sign of life.
        due: when ``ring`` must be called, in seconds of the clock.
        queued: bytes that wait to be sent.
    """

    __slots__ = ("_clock", "_queue", "_times", "awaiting", "due", "queued", "state")

    def __init__(self, times: Times, clock: IReactorTime, *, websocket: bool) -> None:
        self.state = State.WEBSOCKET if websocket else State.POLLING
        self.awaiting = False
        self.queued = 0
        self._times = times
        self._clock = clock
        self._queue: list[Packet] = []
        self.due = clock.seconds() + times.ping_interval

    # In

    def receive_payload(self, body: bytes) -> list[Event]:
        """Take the body of a POST, all of it or nothing."""
        if len(body) > self._times.max_payload:
            raise Malformed("payload too large", CloseCode.MESSAGE_TOO_BIG)
        events: list[Event] = []
        for data, binary in decode_payload(body):
            events += self._packet(data, binary)
        return events

    def is_plain(self, data: bytes) -> bool:
        """Whether the text frame *data* is a message and means nothing beyond that.

        Then ``data[1:]`` is what ``receive_frame`` would return, and it need not be asked.
        """
        return not self.awaiting and data[:1] == b"4" and len(data) <= self._times.max_payload

    def receive_frame(self, data: bytes, binary: bool) -> list[Event]:
        """Take a WebSocket frame, once packets travel that way."""
        if len(data) > self._times.max_payload:
            raise Malformed("message too large", CloseCode.MESSAGE_TOO_BIG)
        if not binary and (not data or data[0] not in KNOWN):
            raise Malformed("unknown packet")
        return self._packet(data, binary)

    def receive_probe(self, data: bytes, binary: bool) -> list[Event]:
        """Take a frame of a WebSocket that the session may move to.

        Malformed ends that WebSocket only.
        """
        if data == PROBE and not binary and self.state is State.UPGRADING:
            self.state = State.PROBED
            return [PROBED_EVENT]
        if data == UPGRADE and not binary and self.state is State.PROBED:
            self.state = State.WEBSOCKET
            return [UPGRADED]
        raise Malformed("no probe")

    def _packet(self, data: bytes, binary: bool) -> list[Event]:
        if self.awaiting:
            # Whatever it is that came, there is somebody who sent it.
            self.awaiting = False
            self.due = self._clock.seconds() + self._times.ping_interval
            return [ALIVE, *self._packet(data, binary)]
        if binary:
            return [Message(data, True)]
        kind = data[0]
        if kind == MESSAGE:
            return [Message(data[1:])]
        if kind == CLOSE[0]:
            return [CLOSED]
        if kind == PING[0]:
            raise Malformed("a ping from the client")
        return []  # pong, noop, and an upgrade or open without a meaning

    # Out

    def send(self, data: bytes, binary: bool = False) -> None:
        """Queue a message."""
        self._put(data if binary else b"4" + data, binary)

    def poll(self) -> bytes:
        """Return what a GET is answered; b"" when it must wait.

        "waiting GET (and any GET arriving before '5') answered at once with 6"
        """
        if self._queue:
            return encode_payload(self.frames())
        return NOOP if self.state is State.PROBED else b""

    def frames(self) -> list[Packet]:
        """Return what is to be sent over the WebSocket, in order."""
        queue, self._queue, self.queued = self._queue, [], 0
        return queue

    def last_payload(self, packet: bytes) -> bytes:
        """Return what is queued and *packet* after it: the last answer to a GET."""
        return encode_payload([*self.frames(), (packet, False)])

    def _put(self, data: bytes, binary: bool) -> None:
        if self.state is not State.CLOSED:
            self._queue.append((data, binary))
            self.queued += len(data)

    # Time

    def ping(self) -> bool:
        """Ask for a sign of life; say whether that was not under way already."""
        if self.awaiting:
            return False
        self.awaiting = True
        self.due = self._clock.seconds() + self._times.ping_timeout
        self._put(PING, False)
        return True

    def ring(self) -> bool:
        """The time ``due`` has come: ping, or say False if the last ping was in vain.

        "No packet within pingTimeout of the ping: session closed."
        """
        if self.awaiting:
            return False
        due = self.due
        self.ping()
        # After a pause of the whole machine the client gets its full time;
        # else the time is what it was told at the handshake.
        if self._clock.seconds() - due < LATE:
            self.due = due + self._times.ping_timeout
        return True

    # Transports

    @property
    def polling(self) -> bool:
        """Whether packets travel by requests."""
        return self.state in (State.POLLING, State.UPGRADING, State.PROBED)

    def begin_upgrade(self) -> bool:
        """A WebSocket has come; say whether the session may move to it."""
        if self.state is not State.POLLING:
            return False
        self.state = State.UPGRADING
        return True

    def abandon_upgrade(self) -> None:
        """That WebSocket has gone, or taken too long: polling goes on."""
        if self.state in (State.UPGRADING, State.PROBED):
            self.state = State.POLLING

    def close(self) -> None:
        """Nothing is sent any more."""
        self.state = State.CLOSED
