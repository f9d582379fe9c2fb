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

SEPARATOR = b"\x1e"  # between the packets of a long-polling payload
CLOSE, PING, UPGRADE, NOOP = b"1", b"2", b"5", b"6"
PROBE, PROBED = b"2probe", b"3probe"
PACKET_TYPES = frozenset(b"0123456")
MESSAGE = ord("4")
MAX_PACKETS = 20_000  # of the body of one POST
TIMER_TOLERANCE = 0.5  # seconds; a timer later than that leaves the client its full ping timeout


@attrs.frozen
class Times:
    """The timers and limits of a session; all but the third are told to the client by the open packet.

    Attributes:
        ping_interval: seconds from the first packet after a ping to the next ping.
        ping_timeout: seconds from a ping to the packet that must follow.
        upgrade_timeout: seconds for the move from long-polling to WebSocket.
        max_payload: bytes of one WebSocket message, or of the body of one POST.
    """

    ping_interval: float = 25.0
    ping_timeout: float = 20.0
    upgrade_timeout: float = 10.0
    max_payload: int = 1_000_000


class ProtocolError(Exception):
    """The client violated Engine.IO or Socket.IO: its session ends.

    Attributes:
        code: of the WebSocket close frame.
    """

    def __init__(self, reason: str, code: int = CloseCode.PROTOCOL_ERROR) -> None:
        super().__init__(reason)
        self.code = code


class State(Enum):
    """Which transport carries the packets of a session."""

    POLLING = "polling"
    UPGRADING = "upgrading"  # polling, with a WebSocket open that has not sent its probe
    PROBED = "probed"  # polling, with a WebSocket that has; every GET is answered at once
    WEBSOCKET = "websocket"
    CLOSED = "closed"


# One is made for every message: a frozen attrs class takes three times as long to make.
@attrs.define
class Message:
    """A message was received.

    Attributes:
        data: without the digit of the packet.
        binary: whether it is bytes rather than UTF-8 text.
    """

    data: bytes
    binary: bool = False


@attrs.frozen
class Alive:
    """A packet, of any type, was received after a ping: the client is alive."""


@attrs.frozen
class Probed:
    """``2probe`` was received on the WebSocket: answer ``3probe`` there, and end the waiting GET."""


@attrs.frozen
class Upgraded:
    """``5`` was received: from now on the WebSocket carries the packets."""


@attrs.frozen
class Closed:
    """The close packet was received."""


Event = Message | Alive | Probed | Upgraded | Closed
Packet = tuple[bytes, bool]  # the data of a frame, digit included unless binary; whether it is binary

# One of each is enough: they have no data.
ALIVE, PROBED_EVENT, UPGRADED, CLOSED = Alive(), Probed(), Upgraded(), Closed()


def open_packet(sid: str, times: Times, *, upgrades: bool) -> bytes:
    """Return the open packet, the answer to a handshake: ``0{"sid":…,"upgrades":…,…}``."""
    handshake = {
        "sid": sid,
        "upgrades": ["websocket"] if upgrades else [],
        "pingInterval": round(times.ping_interval * 1000),
        "pingTimeout": round(times.ping_timeout * 1000),
        "maxPayload": times.max_payload,
    }
    return b"0" + json.dumps(handshake, separators=(",", ":")).encode("ascii")


def decode_payload(body: bytes) -> list[Packet]:
    """Return the packets of the body of a POST.

    Raises:
        ProtocolError: the text is not UTF-8, a part of it is not a packet, or there are too many.
    """
    return [_unpack(part) for part in _split_payload(body)]


def _split_payload(body: bytes) -> list[bytes]:
    if body.count(SEPARATOR) >= MAX_PACKETS:
        raise ProtocolError("too many packets", CloseCode.MESSAGE_TOO_BIG)
    try:
        if not body.isascii():
            body.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError(f"payload: {type(error).__name__}") from None
    return body.split(SEPARATOR)


def encode_payload(packets: Iterable[Packet]) -> bytes:
    """Return *packets* as the body of a response to a GET."""
    return SEPARATOR.join(b"b" + b64encode(data) if binary else data for data, binary in packets)


def _unpack(part: bytes) -> Packet:
    if part[:1] == b"b":
        try:
            return b64decode(part[1:], validate=True), True
        except Base64Error as error:
            raise ProtocolError(f"payload: {type(error).__name__}") from None
    if not part or part[0] not in PACKET_TYPES:
        raise ProtocolError("unknown packet")
    return part, False


class Engine:
    """The protocol state of one session.

    Pass received data to ``receive_payload``, ``receive_frame`` or ``receive_probe`` and
    act on the events they return; get what is to be sent from ``poll`` or ``frames``.
    The receiving methods raise :class:`ProtocolError` when the session must end.

    Args:
        times: timers and limits.
        clock: source of the time.
        websocket: whether the session starts on WebSocket rather than by polling.

    Attributes:
        state: the transport.
        ping_unanswered: whether no packet has been received since the last ping.
        due: when ``heartbeat`` must be called, in seconds of the clock.
        queued: bytes in the send queue.
    """

    __slots__ = ("_clock", "_queue", "_times", "due", "ping_unanswered", "queued", "state")

    def __init__(self, times: Times, clock: IReactorTime, *, websocket: bool) -> None:
        self.state = State.WEBSOCKET if websocket else State.POLLING
        self.ping_unanswered = False
        self.queued = 0
        self._times = times
        self._clock = clock
        self._queue: list[Packet] = []
        self.due = clock.seconds() + times.ping_interval

    # Receiving

    def receive_payload(self, body: bytes) -> list[Event]:
        """Return the events of the body of a POST; a malformed packet refuses all of it."""
        events: list[Event] = []
        for part in self.parts(body):
            events += self.receive_part(part)
        return events

    def parts(self, body: bytes) -> list[bytes]:
        """Return the encoded packets of the body of a POST, for ``receive_part``."""
        if len(body) > self._times.max_payload:
            raise ProtocolError("payload too large", CloseCode.MESSAGE_TOO_BIG)
        return _split_payload(body)

    def receive_part(self, part: bytes) -> list[Event]:
        """Return the events of one of ``parts``."""
        return self._packet(*_unpack(part))

    def is_plain(self, data: bytes) -> bool:
        """Return whether the text frame *data* is a message and no ping is unanswered.

        It is the fast path: ``receive_frame`` would return just ``Message(data[1:])``.
        """
        return not self.ping_unanswered and data[:1] == b"4" and len(data) <= self._times.max_payload

    def receive_frame(self, data: bytes, binary: bool) -> list[Event]:
        """Return the events of a WebSocket frame, in the state ``WEBSOCKET``."""
        if len(data) > self._times.max_payload:
            raise ProtocolError("message too large", CloseCode.MESSAGE_TOO_BIG)
        if not binary and (not data or data[0] not in PACKET_TYPES):
            raise ProtocolError("unknown packet")
        return self._packet(data, binary)

    def receive_probe(self, data: bytes, binary: bool) -> list[Event]:
        """Return the events of a frame on the WebSocket that the session is upgrading to.

        Raises:
            ProtocolError: close that WebSocket only; polling goes on.
        """
        if data == PROBE and not binary and self.state is State.UPGRADING:
            self.state = State.PROBED
            return [PROBED_EVENT]
        if data == UPGRADE and not binary and self.state is State.PROBED:
            self.state = State.WEBSOCKET
            return [UPGRADED]
        raise ProtocolError("no probe")

    def _packet(self, data: bytes, binary: bool) -> list[Event]:
        if self.ping_unanswered:
            # "Any inbound packet while waiting counts once as life."
            self.ping_unanswered = False
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
            raise ProtocolError("a ping from the client")
        return []  # pong and noop; upgrade and open, which mean nothing here

    # Sending

    def send(self, data: bytes, binary: bool = False) -> None:
        """Append a message to the send queue."""
        self._enqueue(data if binary else b"4" + data, binary)

    def poll(self) -> bytes:
        """Return the body that answers a GET now, emptying the send queue; b"" when the GET must wait.

        "waiting GET (and any GET arriving before '5') answered at once with 6"
        """
        if self._queue:
            return encode_payload(self.frames())
        return NOOP if self.state is State.PROBED else b""

    def frames(self) -> list[Packet]:
        """Return the send queue, in order, and empty it."""
        queue, self._queue, self.queued = self._queue, [], 0
        return queue

    def last_payload(self, packet: bytes) -> bytes:
        """Return the send queue and *packet* after it: the body of the last response to a GET."""
        return encode_payload([*self.frames(), (packet, False)])

    def _enqueue(self, data: bytes, binary: bool) -> None:
        if self.state is not State.CLOSED:
            self._queue.append((data, binary))
            self.queued += len(data)

    # Heartbeat

    def ping(self) -> bool:
        """Queue a ping; return False, and queue none, while another is unanswered."""
        if self.ping_unanswered:
            return False
        self.ping_unanswered = True
        self.due = self._clock.seconds() + self._times.ping_timeout
        self._enqueue(PING, False)
        return True

    def heartbeat(self) -> bool:
        """Queue the ping that is due; return False if the last one was not answered in time.

        "No packet within pingTimeout of the ping: session closed."
        """
        if self.ping_unanswered:
            return False
        due = self.due
        self.ping()
        # After a pause of the whole machine the client gets its full ping timeout;
        # otherwise it counts from when the ping was due, as the handshake announced.
        if self._clock.seconds() - due < TIMER_TOLERANCE:
            self.due = due + self._times.ping_timeout
        return True

    # Transports

    @property
    def polling(self) -> bool:
        """Whether HTTP requests carry the packets."""
        return self.state in (State.POLLING, State.UPGRADING, State.PROBED)

    def begin_upgrade(self) -> bool:
        """Return whether the session can move to a WebSocket that has just opened, and expect its probe if so."""
        if self.state is not State.POLLING:
            return False
        self.state = State.UPGRADING
        return True

    def abandon_upgrade(self) -> None:
        """Return to polling: that WebSocket has closed, or has taken too long."""
        if self.state in (State.UPGRADING, State.PROBED):
            self.state = State.POLLING

    def close(self) -> None:
        """End the session: nothing more is queued."""
        self.state = State.CLOSED
