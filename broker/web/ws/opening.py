"""A WebSocket connection before it is open: its session is being made."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from broker.errors import Refused, Timeout, Unavailable
from broker.interfaces import ILink, ISession
from broker.messages import CloseCode, Response
from broker.web.http.response import Dates, render
from broker.web.net.transport import hand_over, writer_for

if TYPE_CHECKING:
    from broker.web.ws.link import WebSocketLink

log = Logger()

KEEP = 65536  # bytes a client may send ahead before it is read no further


@attrs.define(eq=False)
class Opening:
    """The protocol of a connection from its upgrade request to the answer.

    Attributes:
        link: the connection to be.
        transport: what it goes over.
        acceptance: the 101.
        refuse: makes the answer to a failure.
        dates: for the header of a refusal.
    """

    link: WebSocketLink
    transport: Any
    acceptance: bytes
    refuse: Callable[[Failure], Response]
    dates: Dates
    _making: Deferred[ISession] | None = None
    _timeout: IDelayedCall | None = None
    _over: bool = False
    _kept: bytes = b""
    _full: bool = False

    def start(self, session_factory: Callable[[ILink], Awaitable[ISession] | ISession], rest: bytes) -> None:
        """Take the connection and make the session; *rest* is kept for it."""
        self._kept = rest
        self.transport.unregisterProducer()
        hand_over(self.transport, self)
        try:
            made: Any = session_factory(self.link)
        except Exception:
            self._failed(Failure())
            return
        if isinstance(made, Coroutine):
            made = Deferred.fromCoroutine(made)
        if not isinstance(made, Deferred):
            self._ready(made)
            return
        self._making = made
        made.addCallbacks(self._ready, self._failed)
        made.addErrback(self._broken)
        if not self._over:
            self._timeout = self.link.clock.callLater(self.link.options.open_timeout, self._late)

    # Called by the transport

    def dataReceived(self, data: bytes) -> None:
        """Keep *data* for the session, a bounded amount of it."""
        if self._over:
            return
        self._kept += data
        if len(self._kept) > KEEP:
            self._full = True
            self.transport.pauseProducing()

    def connectionLost(self, reason: Failure) -> None:
        """Give the session up: the client has gone."""
        self._cancel_timeout()
        if not self._over:
            self._give_up()
            self.link.refused(CloseCode.ABNORMAL, reason.getErrorMessage())

    # Called by the link

    def cancel(self) -> None:
        """Tell the client to come back later."""
        self._refuse(Failure(Unavailable("server", message="The server is going away.")))
        self._give_up()

    def abort(self) -> None:
        """Drop the connection."""
        self.transport.abortConnection()

    # How it ends

    def _ready(self, session: ISession) -> None:
        if self._over:
            # The client has gone, and the session was made in spite of the cancellation.
            session.closed(CloseCode.ABNORMAL, "")
            return
        self._over = True
        self._cancel_timeout()
        self.link.opened(session, self.acceptance, self._kept)
        if self._full:
            self.transport.resumeProducing()

    def _failed(self, failure: Failure) -> None:
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
        request_id = self.link.handshake.id
        if not request_id:
            response = attrs.evolve(response, plain=True)
        writer_for(self.transport)(render(response, request_id, head=False, keep_alive=False, date=self.dates.line()))
        self.transport.loseConnection()
        # A client that does not read must not keep the connection.
        self._timeout = self.link.clock.callLater(self.link.options.close_timeout, self.transport.abortConnection)
        self.link.refused(response.status, failure.getErrorMessage())

    def _answer_to(self, failure: Failure) -> Response:
        error = failure.value
        if isinstance(error, Refused):
            return Response(error.status, error.body or error.message.encode(), error.content_type)
        try:
            return self.refuse(failure)
        except Exception:
            log.failure("no answer to a failure")
            return Response(500, b"", "")

    def _cancel_timeout(self) -> None:
        if self._timeout is not None and self._timeout.active():
            self._timeout.cancel()
        self._timeout = None
