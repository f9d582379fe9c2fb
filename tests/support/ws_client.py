"""A WebSocket client for tests: no retries, no hidden frames, a time limit on every wait."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from tests.support.eventually import TIMEOUT


class Refused(Exception):
    """The server answered the handshake with something else than the upgrade."""

    def __init__(self, response: Response) -> None:
        super().__init__(f"{response.status_code} {response.reason_phrase}")
        self.status = response.status_code
        self.headers = response.headers
        self.body = response.body or b""


class Closed(Exception):
    """The connection ended; ``code`` is 1006 when that was without a close frame."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason


class WebSocket(Protocol):
    """One connection.  Messages wait here until the test asks for them."""

    transport: Any

    def __init__(self, protocol: ClientProtocol) -> None:
        self._ws = protocol
        self._messages: deque[str | bytes] = deque()
        self._fragments: list[Frame] = []
        self._readers: deque[Deferred[str | bytes]] = deque()
        self._enders: list[Deferred[tuple[int, str]]] = []
        self.pings: list[bytes] = []
        self.pongs: list[bytes] = []
        self.handshake: Deferred[WebSocket] = Deferred(lambda _: self.abort())
        self._lost = False

    @property
    def subprotocol(self) -> str | None:
        return self._ws.subprotocol

    @property
    def response(self) -> Response | None:
        return self._ws.handshake_exc.response if isinstance(self._ws.handshake_exc, InvalidStatus) else None

    # What a test does

    def send(self, message: str | bytes) -> None:
        """Send *message* as one text or one binary frame."""
        if isinstance(message, str):
            self._ws.send_text(message.encode("utf-8", "surrogatepass"))
        else:
            self._ws.send_binary(message)
        self._flush()

    def send_json(self, value: Any) -> None:
        self.send(json.dumps(value, separators=(",", ":")))

    def ping(self, data: bytes = b"") -> None:
        self._ws.send_ping(data)
        self._flush()

    def raw(self, data: bytes) -> None:
        """Write *data* to the socket as it is."""
        self.transport.write(data)

    def receive(self, timeout: float = TIMEOUT) -> Deferred[Any]:
        """Return the next message, in order; fails with ``Closed`` at the end."""
        reader: Deferred[str | bytes] = Deferred(lambda d: self._readers.remove(d))
        if self._messages:
            reader.callback(self._messages.popleft())
            return reader
        if self._lost:
            reader.errback(self._closed())
            return reader
        self._readers.append(reader)
        return reader.addTimeout(timeout, reactor)

    async def receive_json(self, timeout: float = TIMEOUT) -> Any:
        return json.loads(await self.receive(timeout))

    @property
    def waiting(self) -> list[str | bytes]:
        """What has come and was not received yet."""
        return list(self._messages)

    def close(self, code: int = 1000, reason: str = "") -> Deferred[tuple[int, str]]:
        """Close in good order; return the code and reason it ended with."""
        if self._ws.state is State.OPEN:
            self._ws.send_close(code, reason)
            self._flush()
        return self.closed()

    def closed(self, timeout: float = TIMEOUT) -> Deferred[tuple[int, str]]:
        """Return the close code and reason, once the connection has ended."""
        ender: Deferred[tuple[int, str]] = Deferred(lambda d: self._enders.remove(d))
        if self._lost:
            ender.callback(self._end())
            return ender
        self._enders.append(ender)
        return ender.addTimeout(timeout, reactor)

    def abort(self) -> None:
        """Drop the connection as a cable would."""
        if self.transport is not None:
            self.transport.abortConnection()

    def mute(self) -> None:
        """Read nothing any more: neither messages nor pings, until ``listen``."""
        self.transport.pauseProducing()

    def listen(self) -> None:
        self.transport.resumeProducing()

    # What Twisted calls

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self._flush()

    def dataReceived(self, data: bytes) -> None:
        self._ws.receive_data(data)
        self._advance()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._lost:
            return
        self._ws.receive_eof()
        self._lost = True
        self._advance()
        if not self.handshake.called:
            self.handshake.errback(self._closed())
        while self._readers:
            self._readers.popleft().errback(self._closed())
        for ender in list(self._enders):
            self._enders.remove(ender)
            ender.callback(self._end())

    # Inside

    def _advance(self) -> None:
        for event in self._ws.events_received():
            if isinstance(event, Response):
                self._answered(event)
            elif isinstance(event, Frame):
                self._took(event)
        if self._ws.handshake_exc and not self.handshake.called:
            self.handshake.errback(self._ws.handshake_exc)
        if not self._lost:
            self._flush()

    def _answered(self, response: Response) -> None:
        if self.handshake.called:
            return
        if self._ws.handshake_exc is None:  # it may be closed already
            self.handshake.callback(self)
        else:
            self.handshake.errback(Refused(response))

    def _took(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING:
            self.pings.append(bytes(frame.data))
        elif frame.opcode is Opcode.PONG:
            self.pongs.append(bytes(frame.data))
        elif frame.opcode is not Opcode.CLOSE:
            self._fragments.append(frame)
            if frame.fin:
                self._whole()

    def _whole(self) -> None:
        data = b"".join(bytes(frame.data) for frame in self._fragments)
        message = data.decode() if self._fragments[0].opcode is Opcode.TEXT else data
        self._fragments = []
        if self._readers:
            self._readers.popleft().callback(message)
        else:
            self._messages.append(message)

    def _flush(self) -> None:
        for data in self._ws.data_to_send():
            if data:
                self.transport.write(data)
            else:
                self.transport.loseWriteConnection()

    def _end(self) -> tuple[int, str]:
        return self._ws.close_code or 1006, self._ws.close_reason or ""

    def _closed(self) -> Closed:
        return Closed(*self._end())


async def ws_connect(
    url: str,
    *,
    subprotocols: Iterable[str] = (),
    headers: Mapping[str, str] | None = None,
    timeout: float = TIMEOUT,
    max_size: int | None = 64 << 20,
    tls: Any = None,
) -> WebSocket:
    """Connect to *url*; ``tls`` is the ``IOpenSSLClientConnectionCreator`` for one that begins with ``wss:``.

    Raises:
        Refused: the server answered with another status than 101.
        Closed: it ended the connection without an answer.
    """
    client = ClientProtocol(
        parse_uri(url), subprotocols=[Subprotocol(name) for name in subprotocols] or None, max_size=max_size
    )
    request = client.connect()
    request.headers.update(Headers(headers or {}))
    client.send_request(request)
    split = urlsplit(url)
    assert split.hostname is not None
    endpoint: Any = HostnameEndpoint(reactor, split.hostname, split.port or 80)
    if tls is not None:
        endpoint = wrapClientTLS(tls, endpoint)
    socket: Any = await endpoint.connect(Factory.forProtocol(lambda: WebSocket(client))).addTimeout(timeout, reactor)
    return await socket.handshake.addTimeout(timeout, reactor)
