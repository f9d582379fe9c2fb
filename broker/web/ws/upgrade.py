"""The WebSocket door: takes a connection over once its upgrade request was read.

``handshake`` checks the request and writes the answer, ``opening`` waits for the
session, ``link`` is the open connection, ``heartbeat`` finds out who has gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from broker.interfaces import ILink, ISession
from broker.messages import HttpRequest, Response
from broker.web.http.response import Dates
from broker.web.ws.compression import CompressedLink, agree
from broker.web.ws.handshake import acceptance, objection
from broker.web.ws.link import WebSocketLink, link_class
from broker.web.ws.opening import Opening


class Traffic(Protocol):
    """What the door counts; ``broker.observe.metrics`` has it for real."""

    bytes_in: int
    bytes_out: int
    messages_out: int

    def slow_consumer(self, policy: str) -> None:
        """Count a client that reads too slowly, and what was done about it."""


@attrs.define(eq=False)
class Tally:
    """The simplest :class:`Traffic`."""

    bytes_in: int = 0
    bytes_out: int = 0
    messages_out: int = 0
    slow_consumers: dict[str, int] = attrs.field(factory=dict)

    def slow_consumer(self, policy: str) -> None:
        """Count a client that reads too slowly, and what was done about it."""
        self.slow_consumers[policy] = self.slow_consumers.get(policy, 0) + 1


@attrs.frozen
class WebSocketOptions:
    """How connections are kept; times in seconds.

    Attributes:
        max_message_bytes: of one incoming message; a larger one ends in 1009.
        send_queue_bytes: that may wait for a client that does not read.
        slow_grace: between the 1013 of a slow client and the cut.
        ping_interval: between two pings; 0 sends none.
        pong_timeout: without a sign of life after a ping; then the cut.
        open_timeout: for the session to be ready; then 503.
        close_timeout: for the client's part of the closing handshake.
        finish_timeout: for what came before the end to be worked off; see ``ISession.closed``.
        fast_path: whether complete data frames are taken without Autobahn.
        compression: whether permessage-deflate is agreed to.
        server: value of the ``Server`` header; "" sends none.
    """

    max_message_bytes: int = 1 << 20
    send_queue_bytes: int = 1 << 20
    slow_grace: float = 5.0
    ping_interval: float = 25.0
    pong_timeout: float = 20.0
    open_timeout: float = 10.0
    close_timeout: float = 1.0
    finish_timeout: float = 10.0
    fast_path: bool = True
    compression: bool = False
    server: str = "txbroker"


class WebSocketUpgrader:
    """Turns connections that asked for it into WebSocket links.

    Attributes:
        links: every connection that was taken over and has not ended.

    Args:
        options: of all its links.
        clock: the reactor, or a ``task.Clock``.
        traffic: where bytes and messages are counted.
    """

    def __init__(self, options: WebSocketOptions, clock: IReactorTime, traffic: Traffic | None = None) -> None:
        self.links: set[WebSocketLink] = set()
        self._options = options
        self._dates = Dates(clock)
        common = (options, clock, traffic or Tally(), self.links)
        self._plain = link_class(WebSocketLink, *common)
        self._compressed = link_class(CompressedLink, *common) if options.compression else None

    def upgrade(
        self,
        transport: Any,
        request: HttpRequest,
        session_factory: Callable[[ILink], Awaitable[ISession] | ISession],
        *,
        refuse: Callable[[Failure], Response],
        on_closed: Callable[[int, str], object],
        rest: bytes = b"",
        subprotocol: str = "",
        headers: Sequence[tuple[str, str]] = (),
        max_message_bytes: int = 0,
    ) -> Response | None:
        """Take over *transport*, whose upgrade *request* was read already.

        If the request is no good WebSocket handshake (RFC 6455, 4.2.1), nothing
        happens but that the answer is returned: the caller sends it and goes
        on with HTTP; neither *session_factory* nor *on_closed* is called.

        Otherwise None is returned and *transport* now belongs to a new link,
        which is ``transport.protocol`` (over TLS ``wrappedProtocol``): the caller
        hears nothing of it any more, must have written whatever it
        wanted to write, have no timer running for it and not write again.
        Its producer is unregistered here.  Then, in this order:

        1. ``session_factory(link)`` is called, at once; it returns the session
           or an awaitable of it.  What the client sends meanwhile is kept.  If
           the client goes away meanwhile, the awaitable is cancelled.
        2. If it raises, the client gets the answer ``refuse(failure)``, for
           ``Refused`` its own status and body, and the connection ends.
        3. Otherwise the 101 is sent, then ``session.opened()`` is called, then
           *rest* and what else came is read.
        4. When the connection has ended, for whatever reason,
           ``session.closed(code, reason)`` is called exactly once; what it
           returns is awaited, for ``finish_timeout`` at most.

        Args:
            transport: the connection, in any state of back-pressure.
            request: an HTTP/1.1 request (the caller does not come here with
                1.0), header names in lower case.
            session_factory: makes the session of a link; see 1.
            refuse: the answer to a failure other than ``Refused``; also asked
                with ``Timeout`` when the session was not ready in time.
            on_closed: called exactly once when all is over, after
                ``session.closed``: with the close code, or the HTTP status if
                the upgrade was refused (codes begin at 1000), and the reason.
            rest: bytes read after the request.
            subprotocol: one of those the client offered, or "".
            headers: more of the 101; ``X-Request-Id`` is added.
            max_message_bytes: of one incoming message, instead of that of the options; 0: the same.
        """
        wrong = objection(request)
        if wrong is not None:
            return wrong
        fields = list(headers)
        if subprotocol:
            fields.append(("Sec-WebSocket-Protocol", subprotocol))
        if request.id:
            fields.append(("X-Request-Id", request.id))
        link = self._link(transport, request, on_closed, fields)
        if max_message_bytes:
            link.maxFramePayloadSize = link.maxMessagePayloadSize = max_message_bytes
        self.links.add(link)
        link.opening = Opening(link, transport, acceptance(request, self._options.server, fields), refuse, self._dates)
        link.opening.start(session_factory, rest)
        return None

    def _link(
        self,
        transport: Any,
        request: HttpRequest,
        on_closed: Callable[[int, str], object],
        fields: list[tuple[str, str]],
    ) -> WebSocketLink:
        """Return a new link, and add to *fields* which extension it uses."""
        offers = request.headers.get("sec-websocket-extensions", "")
        agreed = agree(offers) if offers and self._compressed is not None else None
        if agreed is None or self._compressed is None:
            return self._plain(transport, request, on_closed)
        link = self._compressed(transport, request, on_closed)
        link._perMessageCompress, answer = agreed
        fields.append(("Sec-WebSocket-Extensions", answer))
        return link
