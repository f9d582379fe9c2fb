"""Autobahn's WebSocket protocol without its binding to a framework, its logging and its weight.

Autobahn keeps some fifty attributes on each connection, nearly all of which never
differ from what they were when it was opened.  Here they are attributes of the
class: :func:`autobahn_state` takes them from one connection that Autobahn has
opened itself, so they are right for whichever version is installed.
"""

from __future__ import annotations

from typing import Any

import txaio
from autobahn.websocket.protocol import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.utf8validator import Utf8Validator
from twisted.internet.interfaces import IReactorTime

from broker.web.ws.options import WebSocketOptions

txaio.use_twisted()

CLOSED: int = WebSocketServerProtocol.STATE_CLOSED
CONNECTING: int = WebSocketServerProtocol.STATE_CONNECTING
OPEN: int = WebSocketServerProtocol.STATE_OPEN

CLOSE_OPCODE = 8
MAX_CONTROL_BYTES = 125  # bytes: RFC 6455, 5.5: "All control frames MUST have a payload length of 125 bytes or less"
# Frames of a failed connection in which the answer to our close frame is looked for.
MAX_IGNORED = 100

TEMPLATE_REQUEST = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
# Beginnings of the names that a template has and a link has otherwise, or not at all.
NOT_SHARED = ("http_", "is_open", "is_closed", "utf8validator", "transport", "_wskey")


class NullLogger:
    """Drops Autobahn's log lines: what matters of them the link logs itself."""

    def debug(self, *args: Any, **fields: Any) -> None:
        """Drop the line."""

    info = warn = error = debug


class NullDeferred:
    """A null object for Autobahn's Deferred of the end, which nobody waits for."""

    def callback(self, result: Any) -> None:
        """Do nothing."""


class OwnValidator:
    """Gives a connection a UTF-8 validator when its first text frame on the slow path comes."""

    def __get__(self, core: AutobahnCore, owner: type) -> Any:
        # An attribute of the instance goes before this one from now on.
        core.utf8validator = validator = Utf8Validator()
        return validator


class AutobahnCore(WebSocketServerProtocol):
    """Autobahn's server protocol, with what its framework bindings usually add as methods."""

    # Autobahn gives these narrower types, or none.
    transport: Any
    state: int
    inside_message: bool
    current_frame: Any
    message_data: Any
    closeHandshakeTimeoutCall: Any
    maxFramePayloadSize: int
    maxMessagePayloadSize: int
    localCloseCode: Any
    remoteCloseCode: Any
    _perMessageCompress: Any

    _ignored = 0  # frames since the connection has failed
    log = NullLogger()
    is_closed = NullDeferred()
    utf8validator: Any = OwnValidator()

    def __init__(self) -> None:
        # Autobahn's own would only make what autobahn_state() has put on the class.
        pass

    def onFrameBegin(self) -> None:
        """Begin a frame; after a failure drop the connection once too many have come."""
        if self.failedByMe:
            self._ignored += 1
            if self._ignored > MAX_IGNORED:
                self.dropConnection(abort=True)
        super().onFrameBegin()

    def onFrameData(self, payload: bytes) -> bool | None:
        """Process a part of a frame; after a failure only of a close frame."""
        if self.failedByMe:
            # RFC 6455, 7.1.7: "An endpoint MUST NOT continue to attempt to process data […] from
            # the remote endpoint after being instructed to _Fail the WebSocket Connection_."
            frame = self.current_frame
            if frame.opcode != CLOSE_OPCODE or frame.length > MAX_CONTROL_BYTES:
                return None
        result: bool | None = super().onFrameData(payload)
        return result

    def unregisterProducer(self) -> None:
        """Let the transport end without waiting for its producer."""
        self.transport.unregisterProducer()

    def _onMessageBegin(self, isBinary: bool) -> None:
        self.onMessageBegin(isBinary)

    def _onMessageFrameBegin(self, length: int) -> None:
        self.onMessageFrameBegin(length)

    def _onMessageFrameData(self, payload: bytes) -> None:
        self.onMessageFrameData(payload)

    def _onMessageFrameEnd(self) -> None:
        self.onMessageFrameEnd()

    def _onMessageFrame(self, payload: Any) -> None:
        self.onMessageFrame(payload)

    def _onMessageEnd(self) -> None:
        self.onMessageEnd()

    def _onPing(self, payload: bytes) -> None:
        self.onPing(payload)

    def _onPong(self, payload: bytes) -> None:
        """Do nothing: ``FrameReader.alive`` was set when the bytes came."""


class TemplateConnection(WebSocketServerProtocol):
    """A connection that is only opened, for the attributes that Autobahn gives it."""

    factory: Any
    transport: Any
    log = NullLogger()

    def write(self, data: bytes) -> None:
        """Drop the answer: the template is its own transport."""

    def _onOpen(self) -> None:
        """Call no handler."""


class Timers:
    """Autobahn's batched timers, on our clock."""

    def __init__(self, clock: IReactorTime) -> None:
        self.call_later = clock.callLater


def autobahn_state(options: WebSocketOptions, clock: IReactorTime) -> dict[str, Any]:
    """Return the attributes of a connection that Autobahn has just opened."""
    factory = WebSocketServerFactory(server="")
    factory._batched_timer = Timers(clock)
    factory.setProtocolOptions(
        versions=[13],
        maxFramePayloadSize=options.max_message_bytes,
        maxMessagePayloadSize=options.max_message_bytes,
        # RFC 6455, 7.1.7: who fails a connection "SHOULD send a Close frame with an appropriate status code".
        failByDrop=False,
        # 5.5.1: "the endpoint typically echos the status code it received."
        echoCloseCodeReason=True,
        openHandshakeTimeout=0,
        closeHandshakeTimeout=options.close_timeout,
        autoPingInterval=0,
    )
    template = TemplateConnection()
    template.factory = factory
    template.transport = template
    template._connectionMade()
    template._dataReceived(TEMPLATE_REQUEST)
    state = vars(template)
    return {name: state[name] for name in state if not name.startswith(NOT_SHARED)}
