"""The HTTP/1.1 channel of the public port.

twisted.web's costs ten times as much per request, and long polls over HTTP are
part of what this daemon is for.  The parser is llhttp (see ``http_parser``);
what an answer looks like on the wire is in ``http_response``; here is what
happens in between: order, time limits, back-pressure, and clients that go away.
"""

from __future__ import annotations

from collections.abc import Coroutine
from enum import Enum
from typing import Any
from typing import Protocol as Seam

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer, ISSLTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.core.deadlines import Deadlines
from broker.messages import HttpRequest, Response
from broker.web.http.head import request_id
from broker.web.http.parser import Arrival, Limits, Phase, RequestParser
from broker.web.http.response import CONTINUE, Dates, render
from broker.web.net.transport import writer_for

log = Logger()

SLICE = 8192  # bytes parsed at once: bounds how far a pipeline overshoots
PIPELINE = 16  # requests waiting for their turn; beyond, nothing more is parsed
AHEAD = 65536  # bytes a client may send before its upgrade is answered, or of bodies that wait for their turn


@attrs.frozen
class Times:
    """How long a client may take, in seconds.

    Attributes:
        silent: before the first byte of a new connection.
        head: from a request's first byte to the end of its header.
        body: from the end of the header to the end of the body.
        idle: between two requests; twice that may pass.
        stalled: for reading an answer that does not fit into the socket's buffer.
        linger: for reading a refusal while still sending.
    """

    silent: float = 10.0
    head: float = 10.0
    body: float = 60.0
    idle: float = 30.0
    stalled: float = 60.0
    linger: float = 2.0


class Waiting(Enum):
    """What a channel has its deadline for."""

    SILENT = "silent"
    HEAD = "head"
    BODY = "body"
    IDLE = "idle"
    STALLED = "stalled"
    LINGER = "linger"


class HttpSite(Seam):
    """What a channel needs of the one that answers."""

    limits: Limits
    times: Times
    dates: Dates
    deadlines: Deadlines[HttpChannel]

    def answer(self, request: HttpRequest) -> Coroutine[Any, Any, Response]:
        """Return the answer; cancelled when the client goes away."""

    def upgrade(self, request: HttpRequest, channel: HttpChannel, rest: bytes) -> Response | None:
        """Take the connection of *channel* over and return None, or return why not.

        *rest* is what came behind the request.
        """

    def refusal(self, status: int, message: str, request: HttpRequest | None) -> Response:
        """Return how to say that *request* is refused."""

    def gone(self, channel: HttpChannel) -> None:
        """Forget *channel*."""


@implementer(IPushProducer)
class HttpChannel(Protocol):
    """One connection that speaks HTTP/1.1, until it is upgraded or closed.

    Requests are answered one after the other, in the order in which they came.
    While an answer is awaited, reading goes on, so that a client that leaves is
    noticed and its request cancelled; it stops when too much waits for its turn.

    Attributes:
        address: the client's IP address or socket path.
        secure: whether it came over TLS.
    """

    transport: Any

    def __init__(self, site: HttpSite, address: str) -> None:
        self.address = address
        self.secure = False
        self._site = site
        self._busy: Deferred[Any] | None = None
        self._held = b""  # came, and is not parsed before its turn
        self._reading = True
        self._blocked = False  # the client does not read what it asked for
        self._finishing = False
        self._ended = False  # nothing more is answered
        self._gone = False
        self._served = 0
        self._mark = 0
        self._waiting: Waiting | None = None
        self._watched: Phase | None = None
        self._bucket = 0.0

    # What Twisted calls.

    def connectionMade(self) -> None:
        """Begin to wait for a request."""
        self.secure = ISSLTransport.providedBy(self.transport)
        self._parser = RequestParser(self._site.limits, self.address, self.secure)
        self._write = writer_for(self.transport)
        self.transport.registerProducer(self, True)
        self._wait(Waiting.SILENT)

    def dataReceived(self, data: bytes) -> None:
        """Parse and answer what came; the transport sends the answers together."""
        if self._ended:
            return
        self._take(data)
        self._work()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Cancel what the client asked for and no longer waits for."""
        self._leave()
        if self._busy is not None:
            self._busy.cancel()
        self._site.gone(self)

    # What the transport calls, of which this is the producer.

    def pauseProducing(self) -> None:
        """The client does not read: answer nothing more for now."""
        self._blocked = True
        self._watch()

    def resumeProducing(self) -> None:
        """The client has read everything: go on."""
        self._blocked = False
        self._watched = None
        self._work()

    def stopProducing(self) -> None:
        """The connection is lost, which is told by ``connectionLost`` as well."""

    # What the site calls.

    def finish(self) -> None:
        """Close as soon as what was asked is answered."""
        self._finishing = True
        idle = self._busy is None and not self._parser.arrived and self._parser.phase is Phase.IDLE
        if idle and not self._ended:
            self._close(lingering=False)

    def abort(self) -> None:
        """Drop the connection."""
        self.transport.abortConnection()

    def expired(self) -> None:
        """The deadline has come: give up what took too long."""
        waiting, self._waiting = self._waiting, None
        parser = self._parser
        if waiting is Waiting.STALLED or waiting is Waiting.LINGER:
            self.abort()
        elif self._busy is not None or parser.arrived or self._mark != parser.begun + self._served:
            # Cheaper than a new deadline for each request: it is looked at again.
            self._watch()
        elif parser.phase is Phase.IDLE:
            self._close(lingering=False)
        else:
            parser.time_out()
            self._work()

    # In.

    def _take(self, data: bytes) -> None:
        """Parse *data*, or hold it while enough waits for its turn."""
        parser = self._parser
        if self._held:
            self._held += data
        elif len(data) <= SLICE and not self._is_full():
            parser.feed(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), SLICE):
                if self._is_full():
                    self._held = bytes(view[start:])
                    break
                parser.feed(view[start : start + SLICE])

    def _work(self) -> None:
        """Answer what has arrived, as far as the client takes it."""
        parser = self._parser
        arrived = parser.arrived
        while self._busy is None and not (self._blocked or self._ended):
            if arrived:
                self._handle(arrived.popleft())
            elif self._held:
                held, self._held = self._held, b""
                self._take(held)
            else:
                break
        if self._ended:
            return
        if parser.expects and self._busy is None and not arrived:
            parser.expects = False
            self._write(CONTINUE)
        if arrived or self._held or not self._reading:
            self._read(not self._held and not self._is_full() and len(parser.rest) < AHEAD)
        if parser.phase is not self._watched:
            self._watch()

    def _is_full(self) -> bool:
        """Whether enough waits for its turn."""
        arrived = self._parser.arrived
        if not arrived:
            return False
        return len(arrived) >= PIPELINE or sum(len(one.request.body) for one in arrived if one.request) > AHEAD

    def _read(self, reading: bool) -> None:
        if reading is not self._reading:
            self._reading = reading
            if reading:
                self.transport.resumeProducing()
            else:
                self.transport.pauseProducing()

    # Out.

    def _handle(self, arrival: Arrival) -> None:
        site, request = self._site, arrival.request
        if arrival.status or request is None:
            self._respond(site.refusal(arrival.status, arrival.message, request), arrival)
            return
        if arrival.upgrade:
            self._upgrade(request, arrival)
            return
        self._run(site.answer(request), arrival)

    def _run(self, answer: Coroutine[Any, Any, Response], arrival: Arrival, result: object = None) -> None:
        """Let *answer* go on until it is done or has to wait.

        Most answers are ready at once or wait once: this costs a tenth of a
        ``Deferred.fromCoroutine`` and does the same.
        """
        self._busy = None
        try:
            waiting = result.throwExceptionIntoGenerator(answer) if isinstance(result, Failure) else answer.send(result)
        except StopIteration as end:
            self._respond(end.value, arrival)
        except Exception:
            self._broke(Failure(), arrival)
        else:
            self._busy = waiting
            waiting.addBoth(self._go_on, answer, arrival)

    def _go_on(self, result: object, answer: Coroutine[Any, Any, Response], arrival: Arrival) -> None:
        try:
            self._run(answer, arrival, result)
            self._work()
        except Exception:
            log.failure("an HTTP connection is given up")
            self.abort()

    def _upgrade(self, request: HttpRequest, arrival: Arrival) -> None:
        rest = self._parser.rest + self._held
        self._read(True)
        self._wait(None)
        refusal = self._site.upgrade(request, self, rest)
        if refusal is None:
            self._leave()
        else:
            # Nothing behind the handshake was read as a request: the end.
            self._respond(attrs.evolve(refusal, close=True), arrival)

    def _broke(self, failure: Failure, arrival: Arrival) -> None:
        if not (self._gone and failure.check(CancelledError)):
            log.failure("answering a request failed", failure)
            self._respond(self._site.refusal(500, "Internal error.", arrival.request), arrival)

    def _respond(self, response: Response, arrival: Arrival) -> None:
        if self._gone:
            return
        request = arrival.request
        id, head = (request.id, request.method == "HEAD") if request is not None else (request_id(), False)
        date = self._site.dates.line()
        try:
            keep_alive = arrival.keep_alive and not response.close and not self._finishing
            wire = render(response, id, head, keep_alive, date)
        except Exception:
            # Not what it says: that may be for the client alone.
            path = request.path if request is not None else ""
            log.failure("an answer to {path} can not be sent", path=path, req_id=id)
            response, keep_alive = self._site.refusal(500, "Internal error.", None), False
            wire = render(response, id, head, keep_alive, date)
        self._served += 1
        self._write(wire)
        if not keep_alive:
            self._close(lingering=arrival.status != 0 or response.close)

    def _close(self, lingering: bool) -> None:
        """Close when everything is sent.

        RFC 9112, 9.6: "If a server performs an immediate close of a TCP connection, there is a
        significant risk that the client will not be able to read the last HTTP response":
        *lingering* closes the way out only, and drops what still comes for a while.
        """
        self._ended = True
        self._parser.close()
        self._held = b""
        self.transport.unregisterProducer()
        self._read(True)
        if lingering and not self.secure:
            self._wait(Waiting.LINGER)
            self.transport.loseWriteConnection()
        else:
            self._wait(Waiting.STALLED)
            self.transport.loseConnection()

    def _leave(self) -> None:
        self._gone = self._ended = True
        self._parser.close()
        self._held = b""
        self._wait(None)

    # Time.

    def _watch(self) -> None:
        """Have the deadline that fits what is going on."""
        self._watched = self._parser.phase
        waiting = Waiting.STALLED if self._blocked else _WAITING[self._watched]
        if waiting is not self._waiting and not self._ended:
            self._wait(waiting)

    def _wait(self, waiting: Waiting | None) -> None:
        deadlines = self._site.deadlines
        if self._waiting is not None:
            deadlines.drop(self, self._bucket)
        self._waiting = waiting
        self._mark = self._parser.begun + self._served
        if waiting is not None:
            self._bucket = deadlines.add(self, getattr(self._site.times, waiting.value))


_WAITING = {
    Phase.IDLE: Waiting.IDLE,
    Phase.HEAD: Waiting.HEAD,
    Phase.BODY: Waiting.BODY,
    Phase.OVER: Waiting.IDLE,
}
