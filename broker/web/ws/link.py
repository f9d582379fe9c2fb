"""One WebSocket connection, as dialects and the core see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from autobahn.util import encode_truncate
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.core.memory import Memory
from broker.core.slices import slices_of
from broker.interfaces import ILink, ISession
from broker.messages import SHORT, TEXT_HEADERS, CloseCode, Frame, HttpRequest, wire_frame
from broker.speedups import speedups
from broker.web.net.link import QueuedLink
from broker.web.net.sockets import hand_over
from broker.web.ws.autobahn import CLOSED, CONNECTING, OPEN, autobahn_state
from broker.web.ws.heartbeat import Heartbeat, Monitored
from broker.web.ws.opening import Opening
from broker.web.ws.options import Traffic, WebSocketOptions
from broker.web.ws.reader import FAST_NAMES, MAX_FAST_BYTES, FrameReader

log = Logger()

PING = b"\x89\x00"
MAX_REASON_BYTES = 123  # bytes: what a close frame holds beside the code

# Header fields of the handshake itself: of no use once the connection is open.
HANDSHAKE_FIELDS = frozenset(
    (
        "accept-encoding",
        "cache-control",
        "connection",
        "pragma",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-version",
        "upgrade",
    )
)


@implementer(ILink)
class WebSocketLink(QueuedLink, FrameReader):
    """One WebSocket connection; of a class made by :func:`link_class`.

    Attributes:
        handshake: the request that opened it; once open, without the header
            fields of the handshake itself.
        opening: the protocol of the connection until it is open; then None.
        pinged, bucket: see ``heartbeat.Monitored``.
    """

    options: ClassVar[WebSocketOptions]
    clock: ClassVar[IReactorTime]
    heartbeat: ClassVar[Heartbeat]

    opening: Opening | None = None
    state: int = CONNECTING
    pinged = False
    bucket: dict[Monitored, float] | None = None

    def __init__(self, transport: Any, handshake: HttpRequest, on_closed: Callable[[int, str], object]) -> None:
        self.transport = transport
        self.handshake = handshake
        self._on_closed = on_closed

    # ILink

    @property
    def max_message_bytes(self) -> int:
        """How long a message may be."""
        return self.maxMessagePayloadSize

    def allow_messages(self, max_bytes: int) -> None:
        """Receive messages of up to *max_bytes*, instead of what the options allow."""
        self.maxFramePayloadSize = self.maxMessagePayloadSize = max_bytes

    def send(self, payload: bytes) -> None:
        """Send one text message."""
        if self.state != OPEN:
            return
        size = len(payload)
        self._write(TEXT_HEADERS[size] + payload if size < SHORT else wire_frame(payload))
        traffic = self.traffic
        traffic.messages_out += 1
        traffic.bytes_out += size

    def send_binary(self, payload: bytes) -> None:
        """Send one binary message."""
        if self.state != OPEN:
            return
        self._write(wire_frame(payload, True))
        traffic = self.traffic
        traffic.messages_out += 1
        traffic.bytes_out += len(payload)

    def send_frame(self, frame: Frame) -> None:
        """Send a message that was built once for many receivers."""
        if self.state != OPEN:
            return
        self._write(frame.wire)
        traffic = self.traffic
        traffic.messages_out += 1
        traffic.bytes_out += frame.size

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Begin the closing handshake; a client that does not answer it in time is dropped."""
        if self.opening is not None:
            self.opening.cancel()
        elif self.state == OPEN:
            # What was sent before needs more time on a slow network.
            self._close(code, reason, self.options.slow_grace if self.paused else self.options.close_timeout)

    # Called by Opening and by Heartbeat

    def opened(self, acceptance: bytes, session: ISession, rest: bytes) -> None:
        """Begin to speak WebSocket: send the 101 in *acceptance*, then read *rest*."""
        transport = self.transport
        self.opening = None
        self.session = session
        headers = self.handshake.headers
        self.handshake.headers = {name: headers[name] for name in headers if name not in HANDSHAKE_FIELDS}
        self.state = OPEN
        self._use_queue()
        hand_over(transport, self)
        transport.registerProducer(self, True)
        self.heartbeat.add(self)
        self._write(acceptance)
        try:
            session.opened()
        except Exception:
            self.session_failed()
        if rest:
            self.dataReceived(rest)

    def refused(self, code: int, reason: str) -> None:
        """The upgrade was refused; *code* is the HTTP status of the answer, or 1006."""
        self.state = CLOSED
        self.opening = None
        self.transport = None
        self._ended(code, reason)

    def ping(self) -> None:
        """Send a ping."""
        if self.state == OPEN:
            self._write(PING)

    def on_timeout(self) -> None:
        """Drop the connection: see ``heartbeat.Monitored``."""
        if not self.receiving or self.postponed:  # its answer to the ping was not read
            self.pinged = False
            self.heartbeat.add(self)
            return
        self._drop("ping timeout")

    # Called by FrameReader and by Autobahn

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Send Autobahn's own frames in order with ours."""
        self._write(data)

    def _fail_connection(self, code: int = CloseCode.GOING_AWAY, reason: str = "") -> None:
        if self.failedByMe:
            return
        self.failedByMe = True
        if self.state == OPEN:
            self._close(code, reason, self.options.close_timeout)

    def _max_message_size_exceeded(self, msg_size: int, max_msg_size: int, reason: str) -> None:
        log.info(
            "{address} sent a message of {size} bytes; TXBROKER_MAX_MESSAGE_BYTES, or its dialect, allows {limit}",
            address=self.handshake.address,
            size=msg_size,
            limit=max_msg_size,
        )
        self._fail_connection(CloseCode.MESSAGE_TOO_BIG, reason)

    def _closeConnection(self, abort: bool = False) -> None:
        if abort and (self.paused or not self.wasClean):
            self.transport.abortConnection()
            return
        # RFC 6455, 7.1.1: "an endpoint cleanly closes the TCP connection", so that the client can
        # read what is under way.  One that never reads must not keep it open.
        self.transport.loseConnection()
        self._cancel_timeout()
        self.closeHandshakeTimeoutCall = self.clock.callLater(
            self.options.close_timeout, self.slices.add, self.transport.abortConnection
        )

    # Its end, see QueuedLink

    def _forget(self) -> None:
        self.data, self.message_data = b"", None
        self._cancel_timeout()
        self.heartbeat.remove(self)

    def _ignore_client(self) -> bool:
        if self.failedByMe:
            return False
        self.failedByMe, self.message_data = True, None
        return True

    def _ending(self, reason: Failure) -> tuple[int, str]:
        if self.closedByMe:
            return self.localCloseCode, (self.localCloseReason or b"").decode()
        if self.wasClean:
            return self.remoteCloseCode or CloseCode.NO_STATUS, self.remoteCloseReason or ""
        return CloseCode.ABNORMAL, self.wasNotCleanReason or reason.getErrorMessage()

    def _close(self, code: int, reason: str, grace: float) -> None:
        self.resume_receiving()  # the client's close frame
        self.closeHandshakeTimeout = grace
        self.sendCloseFrame(code, encode_truncate(reason, MAX_REASON_BYTES))

    def _drop(self, reason: str) -> None:
        if self.opening is not None:
            self.opening.abort()
        elif self.state != CLOSED:
            self.wasNotCleanReason = reason
            self.data = b""  # may wait for a later slice
            self.dropConnection(abort=True)
        elif self.transport is not None:
            self.transport.abortConnection()
        elif self._finishing is not None:
            self._finishing.cancel()

    def _cancel_timeout(self) -> None:
        call: IDelayedCall | None = self.closeHandshakeTimeoutCall
        self.closeHandshakeTimeoutCall = None
        if call is not None and call.active():
            call.cancel()


OWN_NAMES = {*vars(WebSocketLink), *vars(QueuedLink)}  # that Autobahn's do not replace


def link_class(
    base: type[WebSocketLink],
    options: WebSocketOptions,
    clock: IReactorTime,
    traffic: Traffic,
    links: set[Any],
    memory: Memory,
) -> type[WebSocketLink]:
    """Return the class of links with these options.

    Args:
        base: WebSocketLink, or a class of it that adds something.
        options: of the links.
        clock: the reactor, or a ``task.Clock``.
        traffic: where bytes and messages are counted.
        links: from which a link goes when it has ended.
        memory: where it is counted what the links hold.
    """
    state = autobahn_state(options, clock)
    fast_path = options.fast_path and state.keys() >= FAST_NAMES
    if fast_path != options.fast_path:
        log.warn("this version of Autobahn is not known: every frame takes the slow path, as with fast_path off")
    namespace = {name: value for name, value in state.items() if name not in OWN_NAMES}
    namespace.update(
        options=options,
        clock=clock,
        slices=slices_of(clock),
        traffic=traffic,
        links=links,
        memory=memory,
        heartbeat=Heartbeat(clock, options.ping_interval, options.pong_timeout),
        fast_path=fast_path,
        fast=fast_path,
        read_frames=getattr(speedups(options.speedups), "read_frames", None),
        max_fast_bytes=min(MAX_FAST_BYTES, options.max_message_bytes),
    )
    return type(base.__name__, (base,), namespace)
