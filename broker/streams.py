"""What a dialect's own session may begin with, whose client gets what is sent as the body of an HTTP answer.

For bodies that do not end by themselves: server-sent events, lines of JSON, a long download of what is yet to come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure

from broker.core.grace import HARD_LIMIT, SlowReaderGrace
from broker.interfaces import IPeer
from broker.messages import CloseCode
from broker.sessions import BaseSession

# Closed so, the client has not got all that was for it; otherwise the body ends as if that was its end.
INCOMPLETE = (CloseCode.TRY_AGAIN_LATER, CloseCode.INTERNAL_ERROR)

WRITE_BYTES = 1 << 14  # from which on what waits is written for itself


@attrs.define(eq=False)
class StreamSession(BaseSession):
    """A session that is the body of a ``Response``: what is sent to it goes to the client of that request.

    Subscribe or watch, bind it to the peer, and return it::

        peer.subscribe(topic)
        session = Listener(peer)
        peer.bind(session)
        return Response(200, session, "text/event-stream")

    When the body has ended, :meth:`closed` is called, with 1006 when the client has gone, and the port closes the peer.
    When more than ``TXBROKER_SEND_QUEUE_BYTES`` wait for the client for longer than
    ``TXBROKER_SLOW_GRACE_SECONDS``, or 16 times as much does, the connection is dropped.  The body is ended when the
    daemon stops, and when the broker disconnects the client.

    It is an attrs class, and so must be those built upon it.

    Attributes:
        heartbeat: sent every *heartbeat_seconds*, so that proxies keep the connection, and a client
            that has gone is noticed; b"": nothing is.
        peer: of the client.
        ended: whether nothing more is sent.
        paused: whether what is sent has to wait: the client has not read what was sent before, or the body has not
            begun.
        waiting: bytes that wait for the client.
    """

    heartbeat: ClassVar[bytes] = b""
    heartbeat_seconds: ClassVar[float] = 15.0

    peer: IPeer
    ended: bool = attrs.field(default=False, init=False)
    paused: bool = attrs.field(default=True, init=False)
    waiting: int = attrs.field(default=0, init=False)
    _pieces: deque[bytes] = attrs.field(factory=deque, init=False, repr=False)
    _consumer: Any = attrs.field(default=None, init=False, repr=False)
    _done: Deferred[None] | None = attrs.field(default=None, init=False, repr=False)
    _paused: bool = attrs.field(default=False, init=False)
    _grace: SlowReaderGrace | None = attrs.field(default=None, init=False, repr=False)
    _timer: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)

    # For the dialect

    def send(self, data: bytes) -> None:
        """Send *data* to the client; a no-op once it has ended."""
        if self.paused:
            self._keep(data)
        else:
            self._consumer.write(data)

    def end(self) -> None:
        """End the body when what waits is sent.  Idempotent."""
        self.ended = True
        if self._done is not None and not self._pieces:
            self._finish()

    def drained(self) -> None:
        """Send what was held back while it was ``paused``: nothing waits any more.  By default there is nothing."""

    # For the core

    def disconnect(self, code: int, reason: str) -> None:
        """End the body because the broker says so; see ``IPeer.disconnect``."""
        self._drop()
        self.ended = True
        if self._done is not None:
            self._finish(code, reason)

    # BodyProducer

    def startProducing(self, consumer: Any) -> Deferred[Any]:
        """Send what waits, and what comes, to *consumer*; fire at the end of the body."""
        self._consumer = consumer
        done: Deferred[None] = Deferred()
        self._done = done
        if self.heartbeat:
            self._timer = self.peer.clock.callLater(self.heartbeat_seconds, self._beat)
        self.resumeProducing()
        return done

    def pauseProducing(self) -> None:
        """Keep what is sent from now on."""
        self._paused = self.paused = True

    def resumeProducing(self) -> None:
        """Send what was kept."""
        self._paused = False
        while self._pieces and not self._paused:
            self._consumer.write(self._next_pieces())
        self.paused = self._paused or bool(self._pieces)
        if not self.ended and not self.paused:
            self.drained()
        if self.ended and not self._pieces and self._done is not None:
            self._finish()

    def stopProducing(self) -> Awaitable[object] | None:
        """Send nothing more: the client has gone."""
        self._drop()
        self.ended, self._done = True, None
        return self._close(CloseCode.ABNORMAL, "")

    def drain(self) -> None:
        """End the body: the daemon stops."""
        self.end()

    # The end

    def _finish(self, code: int = CloseCode.NORMAL, reason: str = "") -> None:
        done, self._done = self._done, None
        if done is not None:
            closing = maybeDeferred(self._close, code, reason)
            if code in INCOMPLETE:
                closing.addCallback(lambda _: Failure(CancelledError()))
            closing.addBoth(done.callback)

    def _close(self, code: int, reason: str) -> Awaitable[object] | None:
        self._consumer, self.paused = None, True
        self._end_grace()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return self.closed(code, reason)

    def _beat(self) -> None:
        self._timer = self.peer.clock.callLater(self.heartbeat_seconds, self._beat)
        if not self.paused:
            self._consumer.write(self.heartbeat)

    # Slow readers

    def _keep(self, data: bytes) -> None:
        """Keep *data* for later, within the bounds of slow readers."""
        if self.ended:
            return
        self._pieces.append(data)
        self._count(len(data))
        limit = self.peer.send_queue_bytes
        if self.waiting <= limit:
            return
        if self._grace is None and self.peer.slow_grace_seconds > 0:
            self._grace = SlowReaderGrace(
                lambda: self.waiting,
                limit,
                self.peer.slow_grace_seconds,
                self._end_grace,
                self._too_slow,
                self.peer.clock,
            )
            self._grace.start()
        if self._grace is None or self.waiting > HARD_LIMIT * limit:
            self._too_slow()

    def _next_pieces(self) -> bytes:
        """Return what was kept first: of thousands of small pieces as many at once as are worth a write."""
        pieces, size = [], 0
        while self._pieces and size < WRITE_BYTES:
            pieces.append(self._pieces.popleft())
            size += len(pieces[-1])
        self._count(-size)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _too_slow(self) -> None:
        self.peer.slow_consumer()
        self.disconnect(CloseCode.TRY_AGAIN_LATER, "reading too slowly")

    def _end_grace(self) -> None:
        grace, self._grace = self._grace, None
        if grace is not None:
            grace.stop()

    def _count(self, change: int) -> None:
        self.waiting += change
        self.peer.hold(change)

    def _drop(self) -> None:
        self._pieces.clear()
        self._count(-self.waiting)
