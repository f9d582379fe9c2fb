"""The public port: finds the dialect for each request, and answers those that no dialect takes.

In this order: what browsers may not do is refused, WebSocket handshakes go to a dialect by
path or subprotocol, other requests to a dialect by path, then ``/health``, ``/ready`` and
``/about`` are answered here, and the rest is not found.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from functools import partial
from math import inf
from typing import Any
from typing import Protocol as TypingProtocol

from twisted.internet.defer import CancelledError, Deferred, fail
from twisted.internet.interfaces import IAddress, IProtocolNegotiationFactory, IReactorTime
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from broker.access.addresses import plain_address
from broker.access.admission import PER_ADDRESS, Admission, ConnectionCounter
from broker.access.browsers import BrowserPolicy
from broker.access.limits import network_of
from broker.access.refusals import Counts as RefusalCounts
from broker.access.refusals import RefusalLog
from broker.arenas import arenas
from broker.core.clocks import wall_clock_of
from broker.core.deadlines import Deadlines
from broker.core.memory import Memory
from broker.core.slices import slices_of
from broker.core.unadmitted import UnadmittedClients
from broker.errors import BrokerError, Refused, Unavailable
from broker.interfaces import ILink, ISession
from broker.messages import CloseCode, HttpRequest, Response
from broker.sessions import BaseSession
from broker.streams import StreamSession
from broker.web.browsers import Browsers
from broker.web.client_log import log_came, log_went
from broker.web.closing import SpreadClosing
from broker.web.http.channel import HttpChannel, Times
from broker.web.http.parser import Limits
from broker.web.http.response import Dates
from broker.web.http.streaming import is_stream
from broker.web.late_refusals import LateRefusals
from broker.web.pages import Pages, is_probe
from broker.web.refusals import ThrottledLogger, error_refusal, json_refusal, retry_header, with_headers
from broker.web.routes import Routes
from broker.web.unadmitted import UnadmittedSocket
from broker.web.ws.upgrade import WebSocketUpgrader

log = Logger()

HTTP = "http"  # what is called so that belongs to no dialect
SPREAD = 0.8  # of the time that a drain may take: in it all closes are begun that are spread


class SitePeer(TypingProtocol):
    """What the site needs of ``broker.peer.Peer``."""

    id: str
    session: Any
    admitted: bool

    @property
    def client(self) -> str:
        """Its client id."""

    def bind(
        self,
        session: ISession,
        disconnect: Callable[[int, str], object] | None = None,
        *,
        link: ILink | None = None,
    ) -> None:
        """Deliver to *session* what is for this peer; *disconnect* closes its connection, which is *link*."""

    def close(self) -> None:
        """Undo everything it did."""


class Counts(RefusalCounts, TypingProtocol):
    """What the site counts; ``broker.observe.metrics.Metrics`` has it."""

    def opened(self, dialect: str) -> None:
        """Count a connection that was opened."""

    def closed(self, dialect: str, code: int) -> None:
        """Count a connection that was closed with *code*."""

    def slow_consumer(self, policy: str) -> None:
        """Count a client that reads too slowly, and what was done about it."""


@implementer(IProtocolNegotiationFactory)
class Site(Factory):
    """Makes the channels of the public port and answers their requests.

    Args:
        dialects: providers of IWebSocketDialect, IHttpDialect or both; of IStreamDialect, for their extras.
        attach: makes the peer for a client of a dialect at an address.
        clock: the reactor, or a ``task.Clock``.
        upgrader: takes WebSocket connections over.
        counts: where connections are counted.
        admission: who may connect.
        policy: what pages of browsers may do.
        limits: of a request.
        times: that a client may take.
        ready: returns why the daemon can not do its work now; [] when it can.
        about: returns what the daemon is.
        memory: where it is counted what clients make connections hold.
        refusals: where it is logged what pages of browsers are refused, and who comes over a limit.
        spread: whether WebSockets are closed one after the other when it drains.

    Raises:
        ValueError: two dialects want the same path.
    """

    noisy = False

    def __init__(
        self,
        dialects: Iterable[Any],
        attach: Callable[[str, str], SitePeer],
        clock: IReactorTime,
        upgrader: WebSocketUpgrader,
        counts: Counts,
        *,
        admission: Admission | None = None,
        policy: BrowserPolicy | None = None,
        limits: Limits | None = None,
        times: Times | None = None,
        ready: Callable[[], list[str]] = list,
        about: Callable[[], dict[str, Any]] = dict,
        memory: Memory | None = None,
        refusals: RefusalLog | None = None,
        spread: bool = False,
    ) -> None:
        self.limits = limits or Limits()
        self.times = times or Times()
        self.memory = memory or Memory()
        self.dates = Dates(wall_clock_of(clock))
        self.deadlines: Deadlines[HttpChannel] = Deadlines(clock, HttpChannel.expired)
        self.slices = slices_of(clock)
        self.routes = Routes(dialects)
        self._http_paths = self.routes.http_paths
        self._attach = attach
        self._clock = clock
        self._upgrader = upgrader
        self._counts = counts
        admission = admission or Admission()
        self._proxies = proxies = admission.proxies
        self._counter = ConnectionCounter(
            admission.connections, admission.per_address, self._emptied, proxies.is_exempt
        )
        self._unadmitted = UnadmittedClients(
            clock, admission.unadmitted, admission.unadmitted_per_address, admission.deadline
        )
        self._ready = ready
        names = [dialect.name for dialect in self.routes.dialects]
        self._pages = Pages(self._reasons, lambda: {**about(), "dialects": names})
        self._throttled = ThrottledLogger(log, clock)
        self._refusals = refusals or RefusalLog(clock, counts)
        self._browsers = Browsers(policy or BrowserPolicy(), self._refusals)
        self._known_hosts = self._browsers.known_hosts
        self._channels: set[HttpChannel] = set()
        self._streaming: dict[HttpRequest, SitePeer] = {}  # whose answer is to be sent while it is made
        self._late = LateRefusals(self.routes, clock, self.dates, self._page_for_all, self.refusal)
        self._drained: Deferred[None] | None = None
        self._spread = SPREAD if spread else 0.0
        self._closing = SpreadClosing(clock, self._close_draining)

    @property
    def connections(self) -> int:
        """How many connections there are, WebSockets included."""
        return len(self._counter)

    @property
    def links(self) -> set[Any]:
        """The links that are drained: WebSockets, and those of stream dialects, which their makers add."""
        return self._upgrader.links

    def open_connections(self) -> list[Any]:
        """Return them: those that speak HTTP, the WebSockets, and those of stream dialects."""
        return [*self._channels, *self._upgrader.links]

    # Connections.

    def acceptableProtocols(self) -> list[bytes]:
        """Return what is spoken over TLS; see ``IProtocolNegotiationFactory``, by which Twisted's own ``tls:`` asks."""
        return [b"http/1.1", b"http/1.0"]

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """Return the channel for a new connection, or reject it."""
        # Not the name of a unix socket: a client binds its own to whatever it likes.
        address = plain_address(str(getattr(addr, "host", "")))
        if self._drained is not None:
            return self._late.reject(address, "The daemon is stopping.")
        if self._objection(address):
            return self._late.reject(address, "Too many connections.")
        self._counter.enter(address)
        arenas.connected(self, len(self._counter))
        self._counts.opened("http")
        proxies = self._proxies
        channel = HttpChannel(self, address, proxies.read if proxies.trusts(address) else None)
        self._channels.add(channel)
        self._unadmitted.enter(channel, self._limited(address))
        return channel

    def _limited(self, address: str) -> str:
        """Return what limits of one address know *address* by, "" where they do not hold for it."""
        return "" if self._proxies.is_exempt(address) else network_of(address)

    def _objection(self, address: str, dialect: str = HTTP, *, connected: bool = False) -> str:
        """Make room for one more connection of *address*; return the setting that keeps it out, or "".

        Clients that are not admitted are dropped for it: they can not keep others out.  One that is
        *connected* is counted already, as one of the proxy that speaks for it.
        """
        limited, unadmitted = self._limited(address), self._unadmitted
        evicted = unadmitted.evicted
        setting = self._counter.objection(address)
        if connected:
            setting = PER_ADDRESS if self._counter.has_most(address) else ""
        if not setting:
            setting = unadmitted.objection(limited)
        elif unadmitted.evict(limited if setting == PER_ADDRESS else ""):
            setting = ""
        if setting:
            self._refusals.add(dialect, address, "anonymous", "connect", Unavailable.code, setting)
        elif unadmitted.evicted > evicted:
            self._throttled.log(
                "evicted",
                "a client that was not admitted was dropped for the next, of {address}; TXBROKER_MAX_UNADMITTED "
                "and _PER_ADDRESS allow no more",
                address=address,
            )
        return setting

    def gone(self, channel: HttpChannel) -> None:
        """Forget *channel*, whose connection has ended."""
        if channel.too_slow:
            self._counts.slow_consumer("close")
            self._throttled.log(
                "stalled",
                "{address} did not take its answer for {seconds:g} s and was dropped",
                address=channel.address,
                seconds=self.times.stalled,
            )
        self._channels.discard(channel)
        self._unadmitted.leave(channel)
        self._counts.closed("http", 1000)
        self._counter.leave(channel.address)
        arenas.connected(self, len(self._counter))

    def on_admitted(self, channel: HttpChannel) -> None:
        """Forget that the client of *channel* was not admitted."""
        self._unadmitted.leave(channel)

    # Connections of other ports, to stream dialects.

    def accepts(self, address: str, dialect: str) -> bool:
        """Whether one more connection of *address* to *dialect* may begin on another port of the daemon."""
        return self._drained is None and not self._objection(address, dialect)

    def enter(self, socket: UnadmittedSocket) -> None:
        """Count a connection that ``accepts`` was asked for."""
        self._counter.enter(socket.address)
        self._unadmitted.enter(socket, self._limited(socket.address))

    def leave(self, socket: UnadmittedSocket) -> None:
        """Forget *socket*: its connection has ended."""
        self._unadmitted.leave(socket)
        self._counter.leave(socket.address)
        socket.ended()

    # Requests.

    def answer(self, request: HttpRequest) -> Coroutine[Any, Any, Response]:
        """Return the answer of the dialect that takes *request*, or of the site itself."""
        return self._answer_browser(request) if self._may_be_browsers(request) else self._answer(request)

    def _may_be_browsers(self, request: HttpRequest) -> bool:
        """Whether the policy for browsers has to look at *request*: others name a host that is known, and no page."""
        headers = request.headers
        return (
            "origin" in headers
            or "sec-fetch-site" in headers
            or headers.get("host") not in self._known_hosts
            or request.forwarded_host != ""
        )

    async def _answer_browser(self, request: HttpRequest) -> Response:
        """Return the answer to a request that a browser may have made for a page."""
        dialect = self.routes.http(request)
        response = self._browser_refusal(dialect, request)
        if response is None:
            response = await self._answer(request)
        else:
            await self._late.pause(dialect, request.address)
        return self._browsers.grant(request, response)

    def _browser_refusal(self, dialect: Any, request: HttpRequest, *, handshake: bool = False) -> Response | None:
        extras = None if dialect is None else self.routes.extras[dialect.name]
        why = self._browsers.objection(request, extras, self._called(dialect), handshake=handshake)
        return (self._shaped(dialect, 403, why, request) or json_refusal(403, why)) if why else None

    def _called(self, dialect: Any) -> str:
        """Return what the log calls *dialect*, or what is none."""
        return HTTP if dialect is None else str(dialect.name)

    async def _answer(self, request: HttpRequest) -> Response:
        dialect = self._http_paths.get(request.path) or self.routes.http(request)
        if dialect is None:
            return self._page(request)
        peer: SitePeer | None = None
        try:
            request.peer = peer = self._peer_for(dialect, request)
            response = await dialect.answer(peer, request)
            if not isinstance(response, Response):
                raise TypeError(f"no Response, but {type(response).__name__}")
            if type(response.body) is not bytes and is_stream(response.body):
                self._streaming[request], peer = peer, None
            return response
        except CancelledError:
            raise
        except Exception as error:
            return self._failed(dialect, request, error)
        finally:
            if peer is not None and (peer.session is None or isinstance(peer.session, StreamSession)):
                peer.close()  # a stream that is nobody's answer will not do it

    def _peer_for(self, dialect: Any, request: HttpRequest) -> SitePeer:
        return self._attach(dialect.name, request.address)

    def streaming(self, request: HttpRequest, channel: HttpChannel) -> Callable[[], object]:
        """Let the peer of *request* live until the end of its answer; see ``HttpSite``."""
        peer = self._streaming.pop(request, None)
        if peer is None:
            return int  # it is none of a dialect
        if peer.session is None:
            peer.bind(BaseSession(), lambda code, reason: channel.abort())
        return peer.close

    def serves_half_closed(self, request: HttpRequest) -> bool:
        """Whether *request* goes on when its client shuts down its side; see ``IDialectExtras.half_close``."""
        dialect = self.routes.http(request)
        return dialect is None or self.routes.extras[dialect.name].half_close

    def refusal(self, status: int, message: str, request: HttpRequest | None) -> Response:
        """Return the refusal in the form of the dialect of *request*, if it has one, else of the site."""
        if status == 413:
            self._throttled.log("body", "a body was refused as too large; TXBROKER_MAX_MESSAGE_BYTES allows no more")
        if request is None:
            return json_refusal(status, message)
        shaped = self._shaped(self.routes.http(request), status, message, request)
        if shaped is not None:
            shaped = with_headers(shaped, retry_header(status))
        return self._browsers.grant(request, shaped or json_refusal(status, message))

    def _shaped(self, dialect: Any, status: int, message: str, request: HttpRequest) -> Response | None:
        """Return the refusal in the form of *dialect*, or None when it has no form of its own."""
        if dialect is None:
            return None
        try:
            shaped = self.routes.extras[dialect.name].refusal(status, message, request)
        except Exception:
            log.failure("{dialect} failed to shape a refusal", dialect=dialect.name)
            return None
        return shaped if isinstance(shaped, Response) else None

    def _failed(self, dialect: Any, request: HttpRequest, error: Exception) -> Response:
        if not isinstance(error, BrokerError):
            log.failure(
                "{dialect} failed to answer {method} {path}",
                dialect=dialect.name,
                method=request.method,
                path=request.path,  # not the query: it may hold a credential
                req_id=request.id,
            )
            return self.refusal(500, "Internal error.", request)
        response = error_refusal(error)
        shaped = None if isinstance(error, Refused) else self._shaped(dialect, response.status, error.message, request)
        # What it has in its header, such as Retry-After, holds in any form.
        return response if shaped is None else with_headers(shaped, response.headers)

    def _page(self, request: HttpRequest) -> Response:
        dialect, _ = self.routes.websocket(request)
        if dialect is not None and not is_probe(request):
            # RFC 9110, 15.5.22: "The server MUST send an Upgrade header field in a 426
            # response to indicate the required protocol(s)".
            return json_refusal(426, "This path takes WebSockets.", headers=(("Upgrade", "websocket"),))
        return self._pages.answer(request)

    def _page_for_all(self, request: HttpRequest) -> Response | None:
        """Return what *request* is answered though its connection is one too many, or None if that is nothing."""
        if not is_probe(request) or self.routes.http(request) is not None:
            return None
        refusal = self._browser_refusal(None, request)
        return self._browsers.grant(request, refusal or self._pages.answer(request))

    def _reasons(self) -> list[str]:
        reasons = list(self._ready())
        if self._drained is not None and "draining" not in reasons:
            reasons.append("draining")
        return reasons

    # WebSockets.

    def upgrade(self, request: HttpRequest, channel: HttpChannel, rest: bytes) -> Response | None:
        """Hand the connection of *channel* to the upgrader, or return why not; see ``HttpSite``."""
        dialect, subprotocol = self.routes.websocket(request)
        if dialect is None:
            missing = json_refusal(404, f"No WebSocket is at {request.path[:200]}.")
            return self._browser_refusal(None, request, handshake=True) or missing
        self._unadmitted.leave(channel)  # it becomes a socket now, or is closed
        peer = self._peer_of(dialect, request, channel)
        delay = self._late.delay(dialect)
        # One that is refused makes no room for its address: it is one too many itself.
        spared = inf if isinstance(peer, Response) else delay
        socket = UnadmittedSocket(dialect.name, request, self, self._clock, spared)
        if not isinstance(peer, Response):
            request.peer = socket.peer = peer
            make = partial(self._open, dialect, peer, socket)
        elif delay > 0:
            # Only the upgrader can wait with an answer.
            make = partial(self._refuse, dialect, socket)
        else:
            return peer
        self._count_as(request.address, channel.address)
        objection = self._upgrader.upgrade(
            channel.transport,
            request,
            make,
            refuse=lambda failure: peer if isinstance(peer, Response) else self._explain(failure),
            on_closed=socket,
            rest=rest,
            subprotocol=subprotocol,
        )
        if objection is not None:
            self._count_as(channel.address, request.address)
            if not isinstance(peer, Response):
                peer.close()
            return objection
        self._channels.discard(channel)
        if not (socket.over or socket.admitted):
            self._unadmitted.enter(socket, self._limited(request.address))
        self._counts.closed("http", 101)
        self._counts.opened(dialect.name)
        return None

    def _count_as(self, address: str, before: str) -> None:
        """Count a connection as one of *address*; *before* it was one of the proxy that speaks for it."""
        if address != before:
            self._counter.enter(address)
            self._counter.leave(before)

    def _peer_of(self, dialect: Any, request: HttpRequest, channel: HttpChannel) -> SitePeer | Response:
        """Return the peer for a handshake with *dialect* on *channel*, or how it is refused."""
        if self._drained is not None:
            return json_refusal(503, "The daemon is stopping.")
        if request.address != channel.address and self._objection(request.address, dialect.name, connected=True):
            return json_refusal(503, "Too many connections.")
        if self._may_be_browsers(request):
            refusal = self._browser_refusal(dialect, request, handshake=True)
            if refusal is not None:
                return refusal
        try:
            return self._attach(dialect.name, request.address)
        except Exception as error:
            return self._failed(dialect, request, error)

    async def _refuse(self, dialect: Any, socket: UnadmittedSocket, link: ILink) -> Any:
        socket.began(link)
        return await self._late.refuse(dialect, link)

    async def _open(self, dialect: Any, peer: SitePeer, socket: UnadmittedSocket, link: ILink) -> Any:
        socket.began(link)
        try:
            session = await dialect.session(peer, link)
        except CancelledError:
            raise
        except Exception as error:
            if not getattr(peer, "refused", False):  # else it stands in the log
                self._log_failed_session(dialect, link, error)
            await self._late.hold(dialect, link)
            raise
        if peer.session is None:
            peer.bind(session, link.close, link=link)
        log_came(dialect.name, link.handshake.address, peer)
        return session

    def _log_failed_session(self, dialect: Any, link: ILink, error: Exception) -> None:
        if not isinstance(error, BrokerError):
            log.failure("{dialect} failed to open a session", dialect=dialect.name, req_id=link.handshake.id)
            return
        # Not its message: that may hold what the client gave for a credential.
        code = f"HTTP {error.status}" if isinstance(error, Refused) else error.code
        self._throttled.log(
            f"{dialect.name} {code}",
            "{dialect} refused a client at {address}: {code}",
            dialect=dialect.name,
            address=link.handshake.address,
            code=code,
        )

    def _explain(self, failure: Failure) -> Response:
        error = failure.value
        return error_refusal(error) if isinstance(error, BrokerError) else json_refusal(500, "Internal error.")

    def closed(self, socket: UnadmittedSocket, code: int) -> None:
        """Forget *socket*, whose connection has ended with *code*."""
        self._counts.closed(socket.dialect, code)
        peer = socket.peer
        if peer is not None:
            if peer.session is not None:
                log_went(socket, code)
            peer.close()
        self.leave(socket)

    # The end.

    def drain(self, seconds: float, *, spread: bool = False) -> Deferred[None]:
        """Take no new connection and end those there are.

        Idle ones are closed, requests under way are answered first, WebSockets
        are closed with 1012 or 1001, see ``IDialectExtras.comes_back``.  The Deferred fires
        when nothing is left; what is left after *seconds* is dropped.

        Args:
            seconds: see above.
            spread: whether WebSockets are closed one after the other although they were not to be.
        """
        if self._drained is not None:
            return fail(RuntimeError("the site drains already"))
        self._drained = Deferred()
        for dialect in self.routes.dialects:
            # One that lets requests wait answers them now.
            try:
                self.routes.extras[dialect.name].drain()
            except Exception:
                log.failure("{dialect}: drain failed", dialect=dialect.name)
        for channel in list(self._channels):
            channel.finish()
        self._closing.start(list(self._upgrader.links), seconds * (SPREAD if spread else self._spread))
        late = self._clock.callLater(seconds, self._abandon)
        settled = self._drained.addBoth(self._settle, late)
        if not self._counter:
            self._emptied()
        return settled

    def stop_now(self) -> None:
        """Drop what is left now, if it drains."""
        if self._drained is not None:
            self._abandon()

    def _close_draining(self, link: ILink) -> None:
        dialect, _ = self.routes.websocket(link.handshake)
        name = getattr(link.handshake.peer, "dialect", "") if dialect is None else dialect.name
        comes_back = name in self.routes.extras and self.routes.extras[name].comes_back
        link.close(CloseCode.SERVICE_RESTART if comes_back else CloseCode.GOING_AWAY, "leaving")

    def _abandon(self) -> None:
        self._closing.stop()
        for channel in list(self._channels):
            channel.abort()
        for link in list(self._upgrader.links):
            link.abort()

    def _emptied(self) -> None:
        if self._drained is not None and not self._drained.called:
            self._drained.callback(None)

    def _settle(self, result: Any, late: Any) -> None:
        if late.active():
            late.cancel()
        self._closing.stop()
        self.deadlines.stop()
        self._unadmitted.stop()
