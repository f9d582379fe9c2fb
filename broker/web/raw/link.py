"""One connection of a stream dialect, as dialects and the core see it."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IReactorTime, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.core.memory import Memory
from broker.core.slices import slices_of
from broker.errors import Timeout
from broker.interfaces import Coro, ILink, ISession
from broker.messages import CloseCode, Frame, HttpRequest
from broker.sessions import OrderedSession
from broker.web.net.link import CLOSED, CLOSING, CONNECTING, OPEN, QueuedLink
from broker.web.net.sockets import limit_unacknowledged
from broker.web.refusals import ThrottledLogger
from broker.web.ws.options import Traffic, WebSocketOptions

log = Logger()

# What a web page can make a browser send anywhere begins so; other methods need the consent of the server first.
WEB_REQUEST = re.compile(rb"(GET|HEAD|POST|OPTIONS) (/|\*)")
PROBES = 3  # that the client's system may leave unanswered

Make = Callable[["RawLink"], Coro[ISession]]


@implementer(ILink)
class RawLink(QueuedLink, Protocol):
    """One connection of bytes; of a class made by :func:`raw_link_class`.

    What its client sends is handed to the session as it comes, in pieces of any length, and what the session sends is
    written as it is.

    Args:
        handshake: a request without method and path, whose address is that of the client.
        make: makes the session.
        on_closed: called exactly once when all is over, after ``session.closed``.
        judged: whether what begins as a browser would is refused.
    """

    options: ClassVar[WebSocketOptions]
    throttled: ClassVar[ThrottledLogger]

    max_message_bytes: int
    transport: Any
    receiving = True
    _closed_as: tuple[int, str] | None = None  # by this side
    _kept = b""  # what came before the session was made, or while it did not want to receive
    _making: Deferred[Any] | None = None
    _timer: IDelayedCall | None = None

    def __init__(
        self, handshake: HttpRequest, make: Make, on_closed: Callable[[int, str], object], *, judged: bool = False
    ) -> None:
        self.handshake = handshake
        self.max_message_bytes = self.options.max_message_bytes
        self._make: Make | None = make
        self._on_closed = on_closed
        self._judged = judged

    # IProtocol

    def connectionMade(self) -> None:
        """Have the session made; what comes meanwhile waits."""
        transport = self.transport
        self.links.add(self)
        self.handshake.secure = ISSLTransport.providedBy(transport)
        transport.registerProducer(self, True)
        self._use_queue()
        self._notice_silence()
        make, self._make = self._make, None
        assert make is not None
        self._making = making = Deferred.fromCoroutine(make(self))
        making.addCallbacks(self._ready, self._refused)
        making.addErrback(self._broken)
        if self.state == CONNECTING:
            self._timer = self.clock.callLater(self.options.open_timeout, self._late)

    def _notice_silence(self) -> None:
        """Let the system ask a client that is silent whether it is there: there are no pings."""
        options = self.options
        if not options.ping_interval:
            return
        handle = getattr(getattr(self.transport, "transport", self.transport), "socket", None)
        if handle is None or handle.family not in (socket.AF_INET, socket.AF_INET6):
            return
        limit_unacknowledged(self.transport, options.ping_interval + options.pong_timeout)
        seconds = (options.ping_interval, options.pong_timeout / PROBES)
        idle, pause = (max(1, round(each)) for each in seconds)
        with suppress(OSError):
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, pause)
            handle.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, PROBES)

    def dataReceived(self, data: bytes) -> None:
        """Hand *data* to the session, or keep it until that may receive."""
        self.traffic.bytes_in += len(data)
        if self.state not in (CONNECTING, OPEN):
            return  # discarded: it is closing
        if self._judged:
            self._judged = False
            if WEB_REQUEST.match(data):
                text = "{address} sent an HTTP request to a port that is none for HTTP"
                self.throttled.log("request", text, address=self.address)
                self._drop("an HTTP request")
                return
        if self.state == OPEN and self.receiving and not self._kept:
            self._deliver(data)
            return
        self._kept += data
        self._count_kept()
        self.transport.pauseProducing()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End the session, or the making of it."""
        if self.state != CONNECTING:
            if self.state != CLOSED:  # else it was refused
                super().connectionLost(reason)
            return
        self.state, self._lost = CLOSED, True
        if self._making is not None:
            self._making.cancel()
        self._end_unopened(CloseCode.ABNORMAL, reason.getErrorMessage())

    # The session is made

    def _ready(self, session: ISession) -> None:
        if self.state != CONNECTING:  # made in spite of the cancellation
            session.closed(CloseCode.ABNORMAL, "")
            return
        self._cancel_timer()
        self._making = None
        self.session, self.state = session, OPEN
        if isinstance(session, OrderedSession) and session.slices is None:
            session.slices = self.slices  # one client may send thousands of frames at once
        try:
            session.opened()
        except Exception:
            self.session_failed()
        if self.receiving:
            self._receive_again()

    def _refused(self, failure: Failure) -> None:
        if self.state == CONNECTING:
            self._refuse(CloseCode.POLICY_VIOLATION, failure.getErrorMessage())
        elif not failure.check(CancelledError):
            log.failure("a session failed after it was cancelled", failure)

    def _broken(self, failure: Failure) -> None:
        log.failure("a connection could not be opened", failure)
        self.transport.abortConnection()

    def _late(self) -> None:
        self._timer = None
        self.close(CloseCode.TRY_AGAIN_LATER, str(Timeout("handshake")))

    def _refuse(self, code: int, reason: str) -> None:
        """Close without a session: nobody knows the words of the dialect for it."""
        transport = self.transport
        self.state = CLOSED
        self._end_unopened(code, reason)
        transport.unregisterProducer()
        transport.loseConnection()

    def _end_unopened(self, code: int, reason: str) -> None:
        self._forget()
        self._release()
        self._end_grace()
        self._ended(code, reason)

    # ILink

    def allow_messages(self, max_bytes: int) -> None:
        """Let a session that splits what it gets take frames of up to *max_bytes*."""
        self.max_message_bytes = max_bytes

    def send(self, payload: bytes) -> None:
        """Send *payload* as it is."""
        if self.state != OPEN:
            return
        self._write(payload)
        traffic = self.traffic
        traffic.messages_out += 1
        traffic.bytes_out += len(payload)

    send_binary = send

    def send_frame(self, frame: Frame) -> None:
        """Send the payload of *frame*."""
        self.send(frame.payload)

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """Say the last words of the session, and close when they are sent."""
        if self.state == OPEN:
            self._close(code, reason, self.options.slow_grace if self.paused else self.options.close_timeout)
        elif self.state == CONNECTING:
            making = self._making
            self._refuse(code, reason)
            if making is not None:
                making.cancel()

    def pause_receiving(self) -> None:
        """Read nothing more, so that TCP makes the client wait."""
        if self.receiving and self.state in (CONNECTING, OPEN):
            self.receiving = False
            self.transport.pauseProducing()

    def resume_receiving(self) -> None:
        """Read again: first, in an iteration of its own, what was read before the pause."""
        if not self.receiving:
            self.receiving = True
            self.clock.callLater(0, self._receive_again)

    def _receive_again(self) -> None:
        if not self._receives():
            return
        kept, self._kept = self._kept, b""
        self._count_kept()
        if kept:
            self._deliver(kept)
        if self._receives() and not self._lost:
            self.transport.resumeProducing()

    def _receives(self) -> bool:
        return self.receiving and self.state == OPEN

    def _deliver(self, data: bytes) -> None:
        try:
            self.session.received(data, True)
        except Exception:
            self.session_failed()

    def _count_kept(self) -> None:
        peer, size = self.handshake.peer, len(self._kept)
        upload = self.memory.upload
        upload.hold(self, size)  # it may be shed by that
        self.memory.unadmitted.hold(self, 0 if peer is None or peer.admitted else upload.of(self))

    # Its end, see QueuedLink

    def receive_rest(self) -> bool:
        """Deliver what was read before a pause: the connection has ended."""
        kept, self._kept = self._kept, b""
        if self.state == OPEN and kept:
            self.receiving = True
            self._deliver(kept)
        return True

    def _close(self, code: int, reason: str, grace: float) -> None:
        if self.state != OPEN:
            return
        self._closed_as = code, reason
        last_words = getattr(self.session, "last_words", None)
        if last_words is not None:
            try:
                self._write(last_words(code, reason))
            except Exception:
                log.failure("a session failed at its last words", address=self.address)
        self.state, self._kept = CLOSING, b""
        transport, lingering = self.transport, not self.handshake.secure
        transport.unregisterProducer()
        transport.resumeProducing()  # what it sends is discarded, until it has read what it was sent
        if lingering and hasattr(transport, "loseWriteConnection"):
            transport.loseWriteConnection()
        else:
            transport.loseConnection()
        self._timer = self.clock.callLater(grace, self._cut)

    def _cut(self) -> None:
        self._timer = None
        if self.transport is not None:
            self.transport.abortConnection()

    def _drop(self, reason: str) -> None:
        if self._closed_as is None:
            self._closed_as = CloseCode.ABNORMAL, reason
        if self.transport is not None:
            self.transport.abortConnection()
        elif self._finishing is not None:
            self._finishing.cancel()

    def _ignore_client(self) -> bool:
        self._kept = b""
        return True

    def _forget(self) -> None:
        self._kept = b""
        self._cancel_timer()

    def _ending(self, reason: Failure) -> tuple[int, str]:
        if self._closed_as is not None:
            return self._closed_as
        if reason.check(ConnectionDone):
            return CloseCode.NORMAL, ""
        return CloseCode.ABNORMAL, reason.getErrorMessage()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def raw_link_class(
    options: WebSocketOptions, clock: IReactorTime, traffic: Traffic, links: set[Any], memory: Memory
) -> type[RawLink]:
    """Return the class of links with these options; see ``ws.link.link_class``."""
    state = {
        "options": options,
        "clock": clock,
        "slices": slices_of(clock),
        "traffic": traffic,
        "links": links,
        "memory": memory,
        "throttled": ThrottledLogger(log, clock),
    }
    return type("RawLink", (RawLink,), state)
