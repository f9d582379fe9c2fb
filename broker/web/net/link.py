"""What the links of WebSockets and of other connections have in common: a bounded queue of what is sent, and an end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.core.grace import HARD_LIMIT, SlowReaderGrace
from broker.core.memory import Memory
from broker.core.slices import Slices
from broker.interfaces import ISession
from broker.messages import CloseCode, HttpRequest
from broker.web.net.sockets import buffered_bytes, finally_transferred_bytes
from broker.web.net.transport import FrameTransport

log = Logger()

CLOSED, CONNECTING, CLOSING, OPEN = range(4)  # the states of a link, as Autobahn numbers them


class LinkTraffic(Protocol):
    """What links count; ``broker.observe.metrics.Metrics`` provides it."""

    def slow_consumer(self, policy: str) -> None:
        """Count a client that reads too slowly, and what was done about it."""


class LinkOptions(Protocol):
    """How links are kept; times in seconds.  ``broker.web.ws.options.WebSocketOptions`` says more of each."""

    @property
    def send_queue_bytes(self) -> int:
        """How many may wait for a client for longer than *slow_grace*."""

    @property
    def slow_grace(self) -> float:
        """For a slow client until the close, and from that to the cut."""

    @property
    def close_timeout(self) -> float:
        """For the client's part of a close."""

    @property
    def finish_timeout(self) -> float:
        """For what came before the end to be worked off."""


@implementer(IPushProducer)
class QueuedLink:
    """The half of a link that sends, to a client that may read slowly, and its end.

    Attributes:
        handshake: what opened it.
        paused: whether more than 64 KiB wait to be sent, or than the limit of the send queue if that is less.
        drains, on_drained: see ``ILink``.
    """

    options: ClassVar[Any]  # LinkOptions
    clock: ClassVar[IReactorTime]
    slices: ClassVar[Slices]
    traffic: ClassVar[Any]  # LinkTraffic
    links: ClassVar[set[Any]]
    memory: ClassVar[Memory]

    transport: Any
    handshake: HttpRequest
    session: ISession
    state: int = CONNECTING
    paused = False
    drains = 0  # how often that has ended
    transferred: tuple[int, int] | None = None  # the bytes that came and went, once it has ended, if they are known
    on_drained: Callable[[], object] | None = None
    _lost = False  # whether the connection has ended, though what was read before may not be delivered yet
    receive_rest: Callable[[], bool]  # delivers what was read before the end; whether that is all, for now
    _on_closed: Callable[[int, str], object]
    _write: Callable[[bytes], None]
    _waiting = 0  # bytes written while paused, on a transport that does not know how many wait
    _held = 0  # bytes that the session keeps for later
    _queue_limit = sys.maxsize
    _grace: SlowReaderGrace | None = None
    _finishing: Deferred[Any] | None = None  # while the session works off what came before the end

    # What a kind of link does in its own way

    def close(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        """See ``ILink.close``."""
        raise NotImplementedError

    def _close(self, code: int, reason: str, grace: float) -> None:
        """Begin to close, which the client has *grace* seconds for."""
        raise NotImplementedError

    def _drop(self, reason: str) -> None:
        """Drop the connection, whatever it is doing."""
        raise NotImplementedError

    def _ignore_client(self) -> bool:
        """Keep nothing of what the client sends from now on; False: that is so already."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Let go of what was received, and of all timers: it has ended."""
        raise NotImplementedError

    def _ending(self, reason: Failure) -> tuple[int, str]:
        """Return the close code and the words for an end."""
        raise NotImplementedError

    # ILink

    @property
    def open(self) -> bool:
        """Whether what is sent now goes out."""
        return self.state == OPEN and not self._lost

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

    def abort(self) -> None:
        """Drop the connection."""
        self._drop("aborted")

    def shed(self) -> None:
        """Close with 1013, or drop the connection when that would not free enough: too much is held for it."""
        transport, options = self.transport, self.options
        if self.state != OPEN or transport is None or not self._ignore_client():
            self._release()
            self._drop("memory is short")
            return
        log.warn(
            "{address} makes the daemon hold too much: closing with 1013",
            address=self.address,
        )
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

    def session_failed(self) -> None:
        """Log the exception and close: a fault of one session is no one else's."""
        log.failure("a session failed", address=self.handshake.address, path=self.handshake.path)
        self.close(CloseCode.INTERNAL_ERROR, "internal error")

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
        self._forget()
        self._release()
        self._end_grace()
        code, text = self._ending(reason)
        session = self.session
        # With these it would have to wait for the garbage collector.
        del self.session, self._write
        self.transferred = finally_transferred_bytes(self.transport)
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

    def _ended(self, code: int, reason: str) -> None:
        self.links.discard(self)
        on_closed = self._on_closed
        del self._on_closed
        on_closed(code, reason)

    # Slow readers

    def _use_queue(self) -> None:
        """Send by the transport, and limit what waits there."""
        transport, options = self.transport, self.options
        self._write = transport.send_frame if isinstance(transport, FrameTransport) else self._write_counting
        self._limit_queue(options.send_queue_bytes)
        if isinstance(transport, FrameTransport):
            transport.pause_above(options.send_queue_bytes)

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
