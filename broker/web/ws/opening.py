"""A WebSocket connection before it is open: its session is being made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.core.eager import eager_start
from broker.errors import Refused, Timeout, Unavailable
from broker.interfaces import ISession
from broker.messages import CloseCode, Response
from broker.web.http.response import Dates, render
from broker.web.net.sockets import hand_over, writer_for
from broker.web.refusals import retry_header
from broker.web.ws.options import WebSocketOptions

log = Logger()

MAX_EARLY_BYTES = 65536  # that a client may send before the answer; then it is read no further


@attrs.define(eq=False)
class Opening:
    """The protocol of a connection from its upgrade request to the answer.

    Attributes:
        transport: what it goes over.
        request_id: the ``X-Request-Id`` of a refusal; "" for none.
        refuse: makes the answer to a failure.
        opened: called with the session and the bytes that came meanwhile, when the session is ready.
        refused: called instead, with the HTTP status of the answer, or 1006 when
            the client has gone, and the reason.  One of the two is called, once.
        dates: for the header of a refusal.
        options: ``open_timeout`` and ``close_timeout`` count here.
        clock: the reactor, or a ``task.Clock``.
    """

    transport: Any
    request_id: str
    refuse: Callable[[Failure], Response]
    opened: Callable[[ISession, bytes], object]
    refused: Callable[[int, str], object]
    dates: Dates
    options: WebSocketOptions
    clock: IReactorTime
    _making: Deferred[ISession] | None = None
    _timeout: IDelayedCall | None = None
    _over: bool = False  # it is answered, or the client has gone
    _dropped: bool = False
    _kept: bytes = b""
    _full: bool = False

    def start(self, make: Callable[[], Awaitable[ISession] | ISession], rest: bytes) -> None:
        """Take the connection over and call *make* for the session; *rest* is kept for it."""
        self._kept = rest
        self.transport.unregisterProducer()
        hand_over(self.transport, self)
        try:
            made: Any = make()
            if isinstance(made, Coroutine):
                made = eager_start(made)
        except Exception:
            self._failed(Failure())
            return
        if not isinstance(made, Deferred):
            self._ready(made)
            return
        self._making = made
        made.addCallbacks(self._ready, self._failed)
        made.addErrback(self._broken)
        if not self._over:
            self._timeout = self.clock.callLater(self.options.open_timeout, self._late)

    # Called by the transport

    def dataReceived(self, data: bytes) -> None:
        """Keep *data* for the session, a bounded amount of it."""
        if self._over:
            return
        self._kept += data
        if len(self._kept) > MAX_EARLY_BYTES:
            self._full = True
            self.transport.pauseProducing()

    def connectionLost(self, reason: Failure) -> None:
        """Cancel the making of the session: the client has gone."""
        self._cancel_timeout()
        if not self._over:
            self._give_up()
            self.refused(CloseCode.ABNORMAL, reason.getErrorMessage())

    # Called by the link

    def cancel(self) -> None:
        """Refuse with ``Unavailable``: the link was closed meanwhile."""
        self._refuse(Failure(Unavailable("server", message="The server is going away.")))
        self._give_up()

    def abort(self) -> None:
        """Drop the connection, whatever becomes of the session, without an answer."""
        self._dropped = True
        self.transport.abortConnection()

    # How it ends

    def _ready(self, session: ISession) -> None:
        if self._over:
            # The client has gone, and the session was made in spite of the cancellation.
            session.closed(CloseCode.ABNORMAL, "")
            return
        self._over = True
        self._cancel_timeout()
        self.opened(session, self._kept)
        if self._full:
            self.transport.resumeProducing()

    def _failed(self, failure: Failure) -> None:
        if self._dropped:
            return
        if not self._over:
            self._refuse(failure)
        elif not failure.check(CancelledError):
            log.failure("a session failed after it was cancelled", failure)

    def _broken(self, failure: Failure) -> None:
        log.failure("a connection could not be opened", failure)
        self.transport.abortConnection()

    def _late(self) -> None:
        self._refuse(Failure(Timeout("handshake")))
        self._give_up()

    def _give_up(self) -> None:
        self._over = True
        if self._making is not None:
            self._making.cancel()

    def _refuse(self, failure: Failure) -> None:
        """Send the answer to *failure* and close."""
        self._over = True
        self._cancel_timeout()
        response = self._answer_to(failure)
        if not self.request_id:
            response = attrs.evolve(response, plain=True)
        wire = render(response, self.request_id, head=False, keep_alive=False, date=self.dates.line())
        writer_for(self.transport)(wire)
        self.transport.loseConnection()
        # A client that does not read must not keep the connection.
        self._timeout = self.clock.callLater(self.options.close_timeout, self.transport.abortConnection)
        self.refused(response.status, failure.getErrorMessage())

    def _answer_to(self, failure: Failure) -> Response:
        error = failure.value
        if isinstance(error, Refused):
            headers = retry_header(error.status, error.retry_after)
            return Response(error.status, error.body or error.message.encode(), error.content_type, headers)
        try:
            return self.refuse(failure)
        except Exception:
            log.failure("no answer to a failure")
            return Response(500, b"", "")

    def _cancel_timeout(self) -> None:
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()
        self._timeout = None
