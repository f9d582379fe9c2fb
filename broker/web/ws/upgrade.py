"""Takes a connection over for WebSocket once its upgrade request was read.

``handshake`` checks the request and writes the answer, ``opening`` waits for the
session, ``link`` is the open connection, ``heartbeat`` finds out which clients have gone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from broker.core.clocks import wall_clock_of
from broker.core.memory import Memory
from broker.interfaces import ILink, ISession
from broker.messages import HttpRequest, Response
from broker.web.http.response import Dates
from broker.web.ws.compression import CompressedLink, agree
from broker.web.ws.handshake import acceptance, objection
from broker.web.ws.link import WebSocketLink, link_class
from broker.web.ws.opening import Opening
from broker.web.ws.options import Traffic, TrafficCounter, WebSocketOptions


class WebSocketUpgrader:
    """Turns connections that asked for it into WebSocket links.

    If a request is no good WebSocket handshake (RFC 6455, 4.2.1), nothing
    happens but that the answer is returned: the caller sends it and goes on with
    HTTP; neither the session factory nor *on_closed* is called.

    Otherwise None is returned and the transport now belongs to a new link, which
    is ``transport.protocol`` (over TLS ``wrappedProtocol``): the caller is told
    nothing of it any more, must have written whatever it wanted to write, have no
    timer running for it and not write again.  Its producer is unregistered here.
    Then, in this order:

    1. ``session_factory(link)`` is called, at once; it returns the session or an
       awaitable of it.  What the client sends meanwhile is kept.  If the client
       goes away meanwhile, the awaitable is cancelled.
    2. If it raises, the client gets the answer ``refuse(failure)``, for ``Refused``
       its own status and body, and the connection ends; unless the link was
       aborted: then there is no answer.
    3. Otherwise the 101 is sent, then ``session.opened()`` is called, then what
       came meanwhile is read.
    4. When the connection has ended, for whatever reason,
       ``session.closed(code, reason)`` is called exactly once.

    Attributes:
        links: every connection that was taken over and has not ended; others may add theirs.

    Args:
        options: of all its links.
        clock: the reactor, or a ``task.Clock``.
        traffic: where bytes and messages are counted.
        memory: where it is counted what clients make the links hold.
    """

    def __init__(
        self,
        options: WebSocketOptions,
        clock: IReactorTime,
        traffic: Traffic | None = None,
        memory: Memory | None = None,
    ) -> None:
        self.links: set[Any] = set()
        self._options = options
        self._clock = clock
        self._dates = Dates(wall_clock_of(clock))
        common = (options, clock, traffic or TrafficCounter(), self.links, memory or Memory())
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
    ) -> Response | None:
        """Take over *transport*, whose upgrade *request* was read already, or return what to object to.

        Args:
            transport: the connection, in any state of back-pressure.
            request: an HTTP/1.1 request (the caller does not come here with
                1.0), header names in lower case.
            session_factory: makes the session of a link.
            refuse: the answer to a failure other than ``Refused``; also asked
                with ``Timeout`` when the session was not ready in time.
            on_closed: called exactly once when all is over, after
                ``session.closed``: with the close code, or the HTTP status if
                the upgrade was refused (codes begin at 1000), and the reason.
            rest: bytes read after the request.
            subprotocol: one of those the client offered, or "".
            headers: more of the 101; ``X-Request-Id`` is added.
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
        self.links.add(link)
        link.opening = Opening(
            transport,
            request.id,
            refuse,
            partial(link.opened, acceptance(request, self._options.server, fields)),
            link.refused,
            self._dates,
            self._options,
            self._clock,
        )
        link.opening.start(partial(session_factory, link), rest)
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
