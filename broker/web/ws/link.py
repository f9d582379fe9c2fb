"""One WebSocket connection, as dialects and the core see it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar

from autobahn.util import encode_truncate
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.core.grace import HARD_LIMIT, SlowReaderGrace
from broker.core.memory import Memory
from broker.core.slices import slices_of
from broker.interfaces import ILink, ISession
from broker.messages import SHORT, TEXT_HEADERS, CloseCode, Frame, HttpRequest, wire_frame
from broker.web.net.sockets import buffered_bytes, hand_over
from broker.web.net.transport import FrameTransport
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


@implementer(ILink, IPushProducer)
class WebSocketLink(FrameReader):
    """One WebSocket connection; of a class made by :func:`link_class`.

    Attributes:
        handshake: the request that opened it; once open, without the header
            fields of the handshake itself.
        paused: whether more than 64 KiB wait to be sent, or than the limit of the send queue if that is less.
        on_drained: see ``ILink``.
        opening: the protocol of the connection until it is open; then None.
        pinged, bucket: see ``heartbeat.Monitored``.
    """

    options: ClassVar[WebSocketOptions]
    clock: ClassVar[IReactorTime]
    heartbeat: ClassVar[Heartbeat]
    links: ClassVar[set[WebSocketLink]]

    opening: Opening | None = None
    state: int = CONNECTING
    _lost = False  # whether the connection has ended, though what was read before may not be delivered yet
    paused = False
    drains = 0  # how often that has ended
    on_drained: Callable[[], object] | None = None
    pinged = False
    bucket: dict[Monitored, float] | None = None
    _write: Callable[[bytes], None]
    _waiting = 0  # bytes written while paused, on a transport that does not know how many wait
    _held = 0  # bytes that the session keeps for later
    _grace: SlowReaderGrace | None = None
    _finishing: Deferred[Any] | None = None  # while the session works off what came before the end

    def __init__(self, transport: Any, handshake: HttpRequest, on_closed: Callable[[int, str], object]) -> None:
        self.transport = transport
        self.handshake = handshake
        self._on_closed = on_closed

    # ILink

    @property
    def open(self) -> bool:
        """Whether what is sent now goes out."""
        return self.state == OPEN and not self._lost

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

    @property
    def address(self) -> str:
        """Where the client comes from."""
        return self.handshake.address

    @property
    def unsent(self) -> int:
        """How many bytes wait for the client."""
        return self._unsent()

    def hold(self, change: int) -> None:
        """Count *change* bytes more, or fewer, that the session keeps for later."""
        if self.state != CLOSED:
            self._held = max(0, self._held + change)
            self.memory.held.hold(self, self._held)

    def shed(self) -> None:
        """Close with 1013, or drop the connection when that would not free enough: too much is held for it."""
        transport, options = self.transport, self.options
        if self.state != OPEN or transport is None or self.failedByMe:
            self._release()
            self._drop("memory is short")
            return
        log.warn(
            "{address} makes the daemon hold too much: closing with 1013",
            address=self.address,
        )
        self.failedByMe = True  # what it sends now is not kept
        self.message_data = None
        self._release()
        self._limit_queue(sys.maxsize)  # the close frame is no overflow
        left = transport.drop_frames() if isinstance(transport, FrameTransport) else buffered_bytes(transport) or 0
        if left > options.send_queue_bytes:
            self._drop("memory is short")
        else:
            self._close(CloseCode.TRY_AGAIN_LATER, "too much waits", options.close_timeout)

    def _release(self) -> None:
        memory = self.memory
        self._held = self._waiting = 0
        for account in (memory.held, memory.upload, memory.send_queue, memory.unadmitted):
            account.hold(self, 0)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Begin the closing handshake; a client that does not answer it in time is dropped."""
        if self.opening is not None:
            self.opening.cancel()
        elif self.state == OPEN:
            # What was sent before needs more time on a slow network.
            self._close(code, reason, self.options.slow_grace if self.paused else self.options.close_timeout)

    def abort(self) -> None:
        """Drop the connection."""
        self._drop("aborted")

    # IPushProducer

    def pauseProducing(self) -> None:
        """Set ``paused``: bytes wait for the client."""
        self.paused = True

    def resumeProducing(self) -> None:
        """Clear ``paused``: everything was sent."""
        self.paused = False
        self.drains += 1
        if self._waiting:
            self._waiting = 0
            self.memory.send_queue.hold(self, 0)
        if self._grace is not None:
            self._recovered()
        on_drained = self.on_drained
        if on_drained is not None and self.state == OPEN:
            self.on_drained = None
            try:
                on_drained()
            except Exception:
                self.session_failed()

    def stopProducing(self) -> None:
        """No-op: ``connectionLost`` follows."""

    # Called by Opening and by Heartbeat

    def opened(self, acceptance: bytes, session: ISession, rest: bytes) -> None:
        """Begin to speak WebSocket: send the 101 in *acceptance*, then read *rest*."""
        transport = self.transport
        self.opening = None
        self.session = session
        headers = self.handshake.headers
        self.handshake.headers = {name: headers[name] for name in headers if name not in HANDSHAKE_FIELDS}
        self.state = OPEN
        self._write = transport.send_frame if isinstance(transport, FrameTransport) else self._write_counting
        self._limit_queue(self.options.send_queue_bytes)
        hand_over(transport, self)
        if isinstance(transport, FrameTransport):
            transport.pause_above(self.options.send_queue_bytes)
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

    def session_failed(self) -> None:
        """Log the exception and close: a fault of one session is no one else's."""
        log.failure("a session failed", address=self.handshake.address, path=self.handshake.path)
        self.close(CloseCode.INTERNAL_ERROR, "internal error")

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

    # The end

    def connectionLost(self, reason: Failure) -> None:
        """Deliver what was read before, end the session, then call what the maker of the link wants to be called."""
        self._lost = True
        if self.receive_rest():
            self._end(reason)
        else:
            self.slices.add(lambda: self.connectionLost(reason), message=True)  # after what was read

    def _end(self, reason: Failure) -> None:
        self.state = CLOSED
        self.data, self.message_data = b"", None
        self._release()
        self._cancel_timeout()
        self._end_grace()
        self.heartbeat.remove(self)
        code, text = self._ending(reason)
        session = self.session
        # With these it would have to wait for the garbage collector.
        del self.session, self._write
        self.transport = self.on_drained = None
        try:
            finishing: Any = session.closed(code, text)
            if finishing is not None:
                # Not for ever: until what came before the end is worked off.
                self._finishing = ensureDeferred(finishing).addTimeout(self.options.finish_timeout, self.clock)
        except Exception:
            log.failure("a session failed at its end", address=self.handshake.address)
        if self._finishing is None:
            self._ended(code, text)
        else:
            self._finishing.addErrback(self._unfinished).addBoth(lambda _: self._ended(code, text))

    def _unfinished(self, failure: Failure) -> None:
        if failure.check(TookTooLong):
            log.warn("{address} has gone, and what it sent before was not done in time", address=self.handshake.address)
        elif not failure.check(CancelledError):
            log.failure("a session failed at its end", failure, address=self.handshake.address)

    def _ending(self, reason: Failure) -> tuple[int, str]:
        if self.closedByMe:
            return self.localCloseCode, (self.localCloseReason or b"").decode()
        if self.wasClean:
            return self.remoteCloseCode or CloseCode.NO_STATUS, self.remoteCloseReason or ""
        return CloseCode.ABNORMAL, self.wasNotCleanReason or reason.getErrorMessage()

    def _ended(self, code: int, reason: str) -> None:
        self.links.discard(self)
        on_closed = self._on_closed
        del self._on_closed
        on_closed(code, reason)

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

    # Slow readers

    def _write_counting(self, data: bytes) -> None:
        """Write to a transport that does not itself notice when too much waits."""
        self.transport.write(data)
        if self.paused:
            if self._unsent() > self._queue_limit:
                self._overflowed()
            self._waiting += len(data)
            self.memory.send_queue.hold(self, self._waiting)

    def _unsent(self) -> int:
        """Return how many bytes wait for the client."""
        known = buffered_bytes(self.transport)
        return self._waiting if known is None else known

    def _limit_queue(self, limit: int) -> None:
        """Have ``_overflowed`` called when more than *limit* bytes wait."""
        transport = self.transport
        if isinstance(transport, FrameTransport):
            transport.queue_limit = limit
            transport.overflowed = self._overflowed
        else:
            self._queue_limit = limit

    def _overflowed(self) -> None:
        """Begin the grace: too much waits for the client; or end it: far too much does."""
        options = self.options
        if self.state != OPEN:
            return
        if self._grace is not None or options.slow_grace <= 0:
            self._too_slow()
            return
        self._limit_queue(HARD_LIMIT * options.send_queue_bytes)
        self._grace = SlowReaderGrace(
            self._unsent, options.send_queue_bytes, options.slow_grace, self._recovered, self._too_slow, self.clock
        )
        self._grace.start()

    def _recovered(self) -> None:
        self._end_grace()
        self._limit_queue(self.options.send_queue_bytes)

    def _end_grace(self) -> None:
        grace, self._grace = self._grace, None
        if grace is not None:
            grace.stop()

    def _too_slow(self) -> None:
        self._end_grace()
        if self.state != OPEN:
            return
        log.warn(
            "{address} reads too slowly: more than TXBROKER_SEND_QUEUE_BYTES={limit} waited for it for "
            "TXBROKER_SLOW_GRACE_SECONDS, or {hard} times as much at once; closing with 1013",
            address=self.handshake.address,
            limit=self.options.send_queue_bytes,
            hard=HARD_LIMIT,
        )
        self.traffic.slow_consumer("close")
        self._limit_queue(sys.maxsize)  # the close frame is no overflow
        self._close(CloseCode.TRY_AGAIN_LATER, "reading too slowly", self.options.slow_grace)


def link_class(
    base: type[WebSocketLink],
    options: WebSocketOptions,
    clock: IReactorTime,
    traffic: Traffic,
    links: set[WebSocketLink],
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
    namespace = {name: value for name, value in state.items() if name not in vars(WebSocketLink)}
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
        max_fast_bytes=min(MAX_FAST_BYTES, options.max_message_bytes),
    )
    return type(base.__name__, (base,), namespace)
