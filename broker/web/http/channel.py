"""The HTTP/1.1 channel of the public port.

twisted.web's costs ten times as much per request.  ``parser`` turns bytes into requests,
``response`` turns responses into bytes; the channel does what lies between: order, time
limits, back-pressure, and cancellation when a client disconnects.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.access.addresses import Forwarded
from broker.core.deadlines import Deadlines
from broker.core.memory import Memory
from broker.core.slices import Slices
from broker.messages import HttpRequest, Response
from broker.web.http.head import request_id
from broker.web.http.parser import Arrival, Limits, Phase, RequestParser
from broker.web.http.response import CONTINUE, NO_BODY, Dates, render
from broker.web.http.states import (
    ANSWERING,
    ANSWERING_BLOCKED,
    AWAIT,
    BLOCKED,
    CLOSE,
    CLOSED,
    DETACH,
    FLUSHING,
    IS_ANSWERING,
    IS_ENDING,
    LINGER,
    LINGERING,
    PAUSE,
    READY,
    RESULT,
    RESUME,
    TRANSITIONS,
)
from broker.web.http.streaming import StreamedAnswer, framing_of, is_stream, length_of, source_of, stop
from broker.web.http.timeouts import STALLED, Timeout, Times
from broker.web.net.sockets import (
    close_below,
    expect_no_probe,
    has_unread,
    limit_unacknowledged,
    peer_is_gone,
    unacknowledged_bytes,
    writer_for,
)
from broker.web.net.transport import FrameTransport

__all__ = ["HttpChannel", "HttpSite", "Times"]

log = Logger()

SHORT = 512  # bytes of a body that is handled at once, however long others have taken
MIN_BODY_RATE = 1024  # bytes a second, below which a client that is not admitted is too slow
MIN_COUNTED = 4096  # bytes of a body, from which on it is counted while the connection holds it


class HttpSite(typing.Protocol):
    """What a channel needs of the site that answers its requests."""

    limits: Limits
    times: Times
    dates: Dates
    deadlines: Deadlines[HttpChannel]
    slices: Slices
    memory: Memory

    def answer(self, request: HttpRequest) -> Coroutine[Any, Any, Response]:
        """Return the answer; the coroutine is cancelled when the client disconnects."""

    def upgrade(self, request: HttpRequest, channel: HttpChannel, rest: bytes) -> Response | None:
        """Take the connection of *channel* over and return None, or return a refusal.

        *rest* is what was received after the request.
        """

    def serves_half_closed(self, request: HttpRequest) -> bool:
        """Whether *request*, whose answer is awaited, goes on when its client shuts down its side."""

    def refusal(self, status: int, message: str, request: HttpRequest | None) -> Response:
        """Return the response that refuses *request*, which is None when it could not be read."""

    def streaming(self, request: HttpRequest, channel: HttpChannel) -> Callable[[], object]:
        """Note that the body of the answer to *request* is sent while it is made; return what to call at its end."""

    def gone(self, channel: HttpChannel) -> None:
        """Forget *channel*: its connection is lost."""

    def on_admitted(self, channel: HttpChannel) -> None:
        """Note that a request of an admitted client was answered on *channel*."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class HttpChannel(Protocol):
    """One connection that speaks HTTP/1.1, until it is upgraded or closed.

    Requests are answered one after the other, in the order in which they came.
    While an answer is awaited, reading goes on, so that a client that disconnects is
    noticed and its request cancelled; it is paused while the queue is full.

    Its state is one of :class:`State` and changes by :data:`TRANSITIONS` only; a pair
    that is not in there can not happen and raises ``KeyError``.

    Attributes:
        address: the client's IP address, or that of the proxy that speaks for it; "" for a unix socket.
        secure: whether it came over TLS.
        too_slow: whether it was dropped since the client did not take what was sent.

    Args:
        site: answers its requests.
        address: see above.
        forwarded: of a trusted proxy, returns what the headers of a request say.
    """

    transport: Any
    too_slow = False

    def __init__(
        self, site: HttpSite, address: str, forwarded: Callable[[dict[str, str]], Forwarded] | None = None
    ) -> None:
        self.address = address
        self._forwarded = forwarded
        self._admitted = False
        self._reached = (0, 0)  # answers, and bytes of a body, when its client was last found not admitted
        self.secure = False
        self._site = site
        self._state = READY
        self._pending: Deferred[Any] | None = None  # what the answer under way awaits
        self._stream: StreamedAnswer | None = None  # its body, which is sent while it is made
        self._request: HttpRequest | None = None  # whose answer that is
        self._keep_alive = site.times.advertised  # seconds, or 0 when the next answer is the last
        self._reading = True
        self._served = 0  # answers, and pieces of those that are streams
        self._timeout: Timeout | None = None
        self._timed_phase: Phase | None = None
        self._mark: object = None  # how far the client had come at the last check
        self._bucket: dict[HttpChannel, float] | None = None  # of the deadlines
        self._checks = 0  # without progress until the limit has passed
        self._postponed = False  # what has arrived waits for a later slice of the reactor's time
        self._holds = False  # whether ``memory`` knows that it does

    # IProtocol

    def connectionMade(self) -> None:
        """Register as producer and start the first timeout."""
        self.secure = ISSLTransport.providedBy(self.transport)
        self._parser = RequestParser(self._site.limits, self.address, self.secure, self._forwarded)
        self._write = writer_for(self.transport)
        self.transport.registerProducer(self, True)
        self._set_timeout(Timeout.SILENT)

    def dataReceived(self, data: bytes) -> None:
        """Parse *data* and answer the requests it completes; the transport coalesces the answers."""
        if self._state in IS_ENDING:
            return
        parser = self._parser
        parser.receive(data)
        self._process_requests()
        if parser.body_bytes >= MIN_COUNTED or parser.unparsed or self._holds:
            self._count_received()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel the request under way."""
        self._detach()
        request = self._request
        stream, self._stream = self._stream, None  # which knows this channel
        if self._pending is not None:
            self._pending.cancel()
        if stream is not None:
            stream.cancel()
        if request is not None:
            request.body = b""  # a traceback may keep the request until the garbage collector comes
        self._site.gone(self)
        if self._holds:
            self._release()

    # IHalfCloseableProtocol

    def readConnectionLost(self) -> None:
        """Answer what the client asked before it shut down its side, then close."""
        if self._state in IS_ENDING:
            self.transport.loseConnection()
            return
        parser = self._parser
        parser.end()
        if not parser.arrived and self._state not in IS_ANSWERING:
            self._close(lingering=False)
        elif peer_is_gone(self.transport) or (self._request and not self._site.serves_half_closed(self._request)):
            self.abort()
        else:
            if parser.arrived:
                parser.arrived[-1].keep_alive = False
            else:
                self._keep_alive = 0
            self._process_requests()

    def writeConnectionLost(self) -> None:
        """No-op: our side was shut down by ``_close``."""

    # IPushProducer

    def pauseProducing(self) -> None:
        """The client reads too slowly: answer nothing more for now."""
        self._state = TRANSITIONS[self._state, PAUSE]
        self._update_timeout()
        if self._stream is not None:
            self._stream.pause()

    def resumeProducing(self) -> None:
        """The send buffer is empty again: continue."""
        self._state = TRANSITIONS[self._state, RESUME]
        self._timed_phase = None
        if self._holds:
            self._site.memory.send_queue.hold(self, 0)
        self._process_requests()
        if self._stream is not None:
            self._stream.resume()

    def stopProducing(self) -> None:
        """No-op: ``connectionLost`` follows."""

    @property
    def request(self) -> HttpRequest | None:
        """The request that is being answered, or None."""
        return self._request

    # Called by the site and its deadlines

    def finish(self) -> None:
        """Close after the answer under way, or now when there is none."""
        self._keep_alive = 0
        if self._stream is not None:
            self._stream.drain()
        parser = self._parser
        idle = self._state in (READY, BLOCKED) and not parser.arrived and parser.phase is Phase.IDLE
        # A request that has come is answered, though nobody has read it yet.
        if idle and not has_unread(self.transport):
            self._close(lingering=False)

    def abort(self) -> None:
        """Drop the connection."""
        self.transport.abortConnection()

    def shed(self) -> None:
        """Refuse the body under way, or drop the connection: too much is held for it."""
        if self._state is READY and self._parser.phase is Phase.BODY:
            self._parser.refuse(503, "Too much is being uploaded at once.")
            self._process_requests()
            self._release()
        else:
            self.abort()
            self._release()

    def expired(self) -> None:
        """A check of the running time limit is due: enforce it, or schedule the next check."""
        timeout, transport = self._timeout, self.transport
        self._timeout = None
        if self._state is LINGERING and not unacknowledged_bytes(transport):
            self.abort()  # the client has got the refusal
        elif self.secure and self._state is FLUSHING and not unacknowledged_bytes(transport):
            close_below(transport)  # without a reset: what it has got, it may not have read
        elif timeout is Timeout.HALF_CLOSED and peer_is_gone(transport):
            # Nothing is read from it any more, so that the reactor does not report a reset.
            self.abort()
        elif timeout is not None and self._is_over(timeout):
            self._enforce(timeout)

    def _is_over(self, timeout: Timeout) -> bool:
        """Return whether the limit has passed without progress; if not, schedule the next check."""
        checks, delay = self._site.times.checks[timeout]
        progress = self._progress(timeout)
        if progress != self._mark:
            self._mark, self._checks = progress, checks
        else:
            self._checks -= 1
        if self._checks <= 0:
            return True
        self._timeout = timeout
        self._bucket = self._site.deadlines.add(self, delay)
        return False

    def _progress(self, timeout: Timeout) -> object:
        """Return a value that differs from the last one when *timeout* is to begin anew."""
        parser = self._parser
        if timeout is STALLED:
            return unacknowledged_bytes(self.transport)
        if timeout is not Timeout.HALF_CLOSED and (self._state in IS_ANSWERING or parser.arrived):
            return object()  # it is for us to act, not for the client
        # Cheaper than a new deadline for each request.
        return parser.begun + self._served + parser.body_bytes

    def _enforce(self, timeout: Timeout) -> None:
        """End what has taken too long."""
        if timeout is Timeout.LINGER:
            self._set_timeout(STALLED)  # a client that reads may go on
        elif timeout is STALLED or timeout is Timeout.HALF_CLOSED:
            self.too_slow = timeout is STALLED and unacknowledged_bytes(self.transport) > 0
            self.abort()
        elif self._parser.phase is Phase.IDLE:
            self._close(lingering=False)
        else:
            self._parser.time_out()
            self._process_requests()

    # Unadmitted

    @property
    def admitted(self) -> bool:
        """Whether a request of an admitted client was answered, or is being answered, on it."""
        return self._admitted or (self._request is not None and _is_admitted(self._request))

    @property
    def evictable(self) -> bool:
        """Whether no answer is due: one that is awaited ends by itself."""
        return self._state not in IS_ANSWERING and not self._parser.arrived

    def evict(self) -> None:
        """Drop the connection."""
        self.abort()

    def overdue(self, seconds: float) -> bool:
        """Close the connection, unless something was answered in the last *seconds*, or a body comes quickly."""
        then, body_bytes = self._reached
        self._reached = self._served, self._parser.body_bytes
        if self._state is not READY or self._parser.arrived or self._served > then:
            return True
        if self._parser.phase is Phase.BODY and self._parser.body_bytes >= body_bytes + seconds * MIN_BODY_RATE:
            return True
        if self._parser.phase is Phase.IDLE:
            self._close(lingering=False)
        else:
            self._parser.time_out()
            self._process_requests()
        return False

    # Memory

    def _count_received(self) -> None:
        """Count what was received, and what is being answered, as far as it is more than a little."""
        request = self._request
        size = self._parser.held_bytes() + (len(request.body) if request is not None else 0)
        if size < MIN_COUNTED:
            size = 0
        memory = self._site.memory
        self._holds = size > 0 or memory.send_queue.of(self) > 0
        memory.upload.hold(self, size)
        memory.unadmitted.hold(self, 0 if self.admitted else memory.upload.of(self))  # it may have been shed

    def _release(self) -> None:
        self._holds = False
        memory = self._site.memory
        for account in (memory.upload, memory.send_queue, memory.unadmitted):
            account.hold(self, 0)

    # Requests

    def _process_requests(self) -> None:
        """Answer the queued requests until one has to wait or the client stops reading."""
        parser = self._parser
        arrived = parser.arrived
        while self._state is READY and not self._postponed:
            if arrived:
                request = arrived[0].request
                size = len(request.body) if request is not None else 0
                if size > SHORT and not self._site.slices.allows(size):
                    self._postpone(message=True)
                    break
                self._handle(arrived.popleft())
                if (arrived or parser.unparsed) and self._site.slices.over():
                    self._postpone()
            elif parser.unparsed:
                parser.receive_more()
            else:
                break
        if self._state in IS_ENDING:
            return
        if parser.expects and not arrived and self._state not in IS_ANSWERING:
            parser.expects = False
            self._write(CONTINUE)
        if arrived or parser.unparsed or not self._reading:
            self._set_reading(parser.has_room())
        if parser.phase is not self._timed_phase:
            self._update_timeout()

    def _postpone(self, *, message: bool = False) -> None:
        """Go on in a later slice: others have waited long enough, or would have to; see ``Slices.add``."""
        self._postponed = True
        self._site.slices.add(self._go_on, message=message)

    def _go_on(self) -> None:
        self._postponed = False
        self._process_or_abort()

    def _process_or_abort(self) -> None:
        try:
            self._process_requests()
        except Exception:
            log.failure("an HTTP connection failed")
            self.abort()

    def _set_reading(self, reading: bool) -> None:
        if reading is not self._reading:
            self._reading = reading
            if reading:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    # Responses

    def _handle(self, arrival: Arrival) -> None:
        site, request = self._site, arrival.request
        if arrival.status or request is None:
            self._respond(site.refusal(arrival.status, arrival.message, request), arrival)
            return
        if arrival.upgrade:
            self._upgrade(request, arrival)
            return
        self._step(site.answer(request), arrival)

    def _step(self, answer: Coroutine[Any, Any, Response], arrival: Arrival, result: object = None) -> None:
        """Run *answer* until it returns or awaits something.

        Most answers are ready at once or wait once: this costs a tenth of a
        ``Deferred.fromCoroutine`` and does the same.
        """
        try:
            awaited = result.throwExceptionIntoGenerator(answer) if isinstance(result, Failure) else answer.send(result)
        except StopIteration as end:
            self._respond(end.value, arrival)
        except CancelledError as error:
            if self._state is not CLOSED:
                self._answer_failed(Failure(), arrival)
            # By its traceback, what it has passed would wait for the garbage collector: the request, the connection.
            error.__traceback__ = None
            if isinstance(result, Failure):
                result.tb = None
        except Exception:
            self._answer_failed(Failure(), arrival)
        else:
            self._state = TRANSITIONS[self._state, AWAIT]
            self._pending, self._request = awaited, arrival.request
            request = arrival.request
            if self._holds or (request is not None and len(request.body) >= MIN_COUNTED):
                if request is not None and request.method == "GET":
                    # RFC 9110, 9.3.1: "content received in a GET request has no generally defined semantics".
                    request.body = b""  # of a poll, it would be kept for as long as that waits
                self._count_received()
            awaited.addBoth(self._resume, answer, arrival)

    def _resume(self, result: object, answer: Coroutine[Any, Any, Response], arrival: Arrival) -> None:
        self._state = TRANSITIONS[self._state, RESULT]
        self._pending = self._request = None
        try:
            self._step(answer, arrival, result)
            self._process_requests()
        except Exception:
            log.failure("an HTTP connection failed")
            self.abort()
        if self._holds and self._state is not CLOSED:
            self._count_received()

    def _upgrade(self, request: HttpRequest, arrival: Arrival) -> None:
        if self._parser.phase is Phase.ENDED:
            self._respond(self._site.refusal(400, "A WebSocket needs a client that sends.", request), arrival)
            return
        rest = self._parser.rest + self._parser.unparsed
        self._set_reading(True)
        self._set_timeout(None)
        refusal = self._site.upgrade(request, self, rest)
        if refusal is None:
            self._detach()
        else:
            # What follows a handshake was not parsed as requests: the connection can not go on.
            self._respond(attrs.evolve(refusal, close=True), arrival)

    def _answer_failed(self, failure: Failure, arrival: Arrival) -> None:
        log.failure("answering a request failed", failure)
        self._respond(self._site.refusal(500, "Internal error.", arrival.request), arrival)

    def _respond(self, response: Response, arrival: Arrival) -> None:
        if isinstance(response, Response) and type(response.body) is not bytes and is_stream(response.body):
            self._begin_stream(response, arrival)
            return
        if self._state is CLOSED:
            return
        request = arrival.request
        id, head = (request.id, request.method == "HEAD") if request is not None else (request_id(), False)
        date = self._site.dates.line()
        try:
            keep_alive = arrival.keep_alive and not response.close and self._keep_alive
            wire = render(response, id, head, keep_alive, date)
        except Exception:
            # The body is not logged: it may be confidential.
            path = request.path if request is not None else ""
            log.failure("the answer to {path} can not be rendered", path=path, req_id=id)
            response, keep_alive = self._site.refusal(500, "Internal error.", None), 0
            wire = render(response, id, head, keep_alive, date)
        self._served += 1
        if not self._admitted and request is not None and _is_admitted(request):
            self._note_admitted()
        self._write(wire)
        if self._state is BLOCKED:
            self._count_unsent(len(wire))
        if not keep_alive and self._state is not CLOSED:  # it may have been shed
            self._close(lingering=arrival.status != 0 or response.close)

    def _note_admitted(self) -> None:
        self._admitted = True
        self._site.on_admitted(self)
        expect_no_probe(self.transport)

    def _count_unsent(self, size: int) -> None:
        """Count *size* bytes that wait for a client which does not read, unless the transport does so itself."""
        if not isinstance(self.transport, FrameTransport):
            self._holds = True
            self._site.memory.send_queue.hold(self, self._site.memory.send_queue.of(self) + size)

    # Bodies that are sent while they are made

    def _begin_stream(self, response: Response, arrival: Arrival) -> None:
        """Send the head of *response*, and let the source of its body begin."""
        request, site = arrival.request, self._site
        source = source_of(response.body, site.slices)
        release = site.streaming(request, self) if request is not None else int
        if self._state is CLOSED or request is None:
            stop(source, release)
            return
        length = length_of(source) if response.length is None else response.length
        framing, bodiless = framing_of(request.version, length), request.method == "HEAD" or response.status in NO_BODY
        keep_alive = arrival.keep_alive and not response.close and self._keep_alive
        if not (bodiless or framing.delimits):
            keep_alive = 0
        # RFC 9110, 9.3.2, of HEAD: "a server MAY omit header fields for which a value is determined only while
        # generating the content."
        field = b"" if bodiless and length is None else framing.field
        try:
            wire = render(response, request.id, False, keep_alive, site.dates.line(), field)
        except Exception:
            log.failure("the answer to {path} can not be rendered", path=request.path, req_id=request.id)
            stop(source, release)
            self._respond(attrs.evolve(site.refusal(500, "Internal error.", None), close=True), arrival)
            return
        self._state = TRANSITIONS[self._state, AWAIT]
        self._request = request
        self._stream = stream = StreamedAnswer(
            source, framing, self._send_piece, partial(self._end_stream, keep_alive, response.close), release
        )
        if not self._admitted and _is_admitted(request):
            self._note_admitted()
        # One that has gone without a word would not be noticed before the buffers are full.  Then it is for
        # ``STALLED`` to drop it, which is counted.
        limit_unacknowledged(self.transport, 2 * site.times.stalled)
        self._send_piece(wire)
        if bodiless:
            stream.skip()
        else:
            stream.start(paused=self._state is not ANSWERING)

    def _send_piece(self, wire: bytes) -> None:
        self._served += 1
        self._write(wire)
        if self._state is ANSWERING_BLOCKED:
            self._count_unsent(len(wire))

    def _end_stream(self, keep_alive: int, lingering: bool, stream: StreamedAnswer, complete: bool) -> None:
        """Go on with the next request, or close; drop the connection when the client has not got all."""
        self._stream = self._request = None
        if self._state is CLOSED:
            return
        if not complete:
            self.abort()  # and answer nothing more: it goes on as if that answer was awaited
            return
        self._state = TRANSITIONS[self._state, RESULT]
        if self._holds:
            self._count_received()
        if not (keep_alive and self._keep_alive):
            self._close(lingering)
        elif stream.started:  # else whoever has begun it goes on
            self._process_or_abort()

    def _close(self, lingering: bool) -> None:
        """Close when everything is sent.

        RFC 9112, 9.6: "If a server performs an immediate close of a TCP connection, there is a
        significant risk that the client will not be able to read the last HTTP response":
        *lingering* shuts down the write side only, and for a while discards what is received.
        """
        lingering = lingering and not self.secure and self._parser.phase is not Phase.ENDED
        self._state = TRANSITIONS[self._state, LINGER if lingering else CLOSE]
        self._parser.close()
        self.transport.unregisterProducer()
        self._set_reading(True)
        if lingering:
            self._set_timeout(Timeout.LINGER)
            self.transport.loseWriteConnection()
        else:
            # RFC 8446, 6.1: "Both parties need not wait to receive a "close_notify" alert".  The transport does, and
            # many clients send none until they use the connection again.
            self._set_timeout(Timeout.LINGER if self.secure else STALLED)
            self.transport.loseConnection()

    def _detach(self) -> None:
        self._state = TRANSITIONS[self._state, DETACH]
        self._parser.close()
        self._set_timeout(None)

    # Time limits

    def _update_timeout(self) -> None:
        """Start the timeout that applies now, unless it is running already."""
        self._timed_phase = self._parser.phase
        blocked = self._state is BLOCKED or self._state is ANSWERING_BLOCKED
        timeout = STALLED if blocked else TIMEOUT_OF_PHASE[self._timed_phase]
        if timeout is not self._timeout:
            self._set_timeout(timeout)

    def _set_timeout(self, timeout: Timeout | None) -> None:
        site, parser = self._site, self._parser
        if self._timeout is not None:
            site.deadlines.drop(self, self._bucket)
        self._timeout = timeout
        if timeout is not None:
            blocked = timeout is STALLED
            self._mark = (
                unacknowledged_bytes(self.transport) if blocked else parser.begun + self._served + parser.body_bytes
            )
            self._checks, delay = site.times.checks[timeout]
            self._bucket = site.deadlines.add(self, delay)


def _is_admitted(request: HttpRequest) -> bool:
    return request.peer is not None and request.peer.admitted


TIMEOUT_OF_PHASE = {
    Phase.IDLE: Timeout.IDLE,
    Phase.HEAD: Timeout.HEAD,
    Phase.BODY: Timeout.BODY,
    Phase.CLOSED: Timeout.IDLE,
    Phase.ENDED: Timeout.HALF_CLOSED,
}
