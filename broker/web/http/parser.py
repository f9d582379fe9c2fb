"""Bytes in, HTTP requests out: the reading half of the HTTP/1.1 channel, without I/O.

The grammar is llhttp's, the parser of Node, in its strict mode: it refuses bare
line feeds, folded lines, blanks before a colon, control characters, repeated or
odd lengths and a length beside a transfer coding.  What llhttp lets pass and a
public server should not is refused here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import attrs
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from broker.access.addresses import Forwarded
from broker.messages import HttpRequest
from broker.web.http.head import (
    METHODS,
    NAMES,
    SINGLE,
    RepeatedHead,
    RequestError,
    check_framing,
    check_host,
    head_of,
    is_handshake,
    read_target,
    request_id,
    without_upgrade,
)

PARSE_BYTES = 8192  # bytes parsed at once: bounds how far a pipeline overshoots
MAX_PIPELINED = 16  # requests queued behind the one being answered; beyond, nothing more is parsed
MAX_UNPARSED_BYTES = 65536  # of queued bodies, or sent before an upgrade is answered; beyond, there is no room


@attrs.frozen
class Limits:
    """What a request may cost.

    Attributes:
        head_bytes: of a request line with its header fields.
        head_fields: how many header fields there may be.
        body_bytes: of a body, after the transfer coding.
    """

    head_bytes: int = 16384
    head_fields: int = 100
    body_bytes: int = (1 << 20) + 65536


class Phase(IntEnum):
    """Where in a message the stream is."""

    IDLE = 0  # between messages
    HEAD = 1  # in the request line or the header
    BODY = 2
    CLOSED = 3  # no further request will be read
    ENDED = 4  # the client has shut down its side


# Looking a member up in its class costs more than what is done with it here.
IDLE, HEAD, BODY, CLOSED, ENDED = Phase


@attrs.define(eq=False)
class Arrival:
    """A request, or why it is refused, in the order of the stream.

    Attributes:
        request: of a refused one as much as was parsed, perhaps without a part of its head; or None.
        keep_alive: whether the client lets the connection stay open.
        status: 0, or the HTTP status to refuse it with; nothing follows then.
        message: why it is refused.
        upgrade: whether it is a WebSocket handshake; what follows it is in the
            parser's ``rest``.
    """

    request: HttpRequest | None
    keep_alive: bool = False
    status: int = 0
    message: str = ""
    upgrade: bool = False


class RequestParser:
    """Parses the requests of one connection.

    Attributes:
        arrived: requests and refusals that are to be answered.
        phase: where in a message the stream is.
        begun: how many messages have begun.
        body_bytes: how many bytes of the last message's body have come.
        expects: whether the client waits for "100 Continue" before its body.
        rest: what followed a WebSocket handshake.
        unparsed: what was received while the queue was full.
    """

    def __init__(
        self,
        limits: Limits,
        address: str = "",
        secure: bool = False,
        forwarded: Callable[[dict[str, str]], Forwarded] | None = None,
    ) -> None:
        self.arrived: deque[Arrival] = deque()
        self.phase = IDLE
        self.begun = 0
        self.expects = False
        self.body_bytes = 0
        self.rest = b""
        self.unparsed = b""
        self._upgrading = False
        self._limits = limits
        self._address = address
        self._secure = secure
        self._forwarded = forwarded  # returns what the headers of a trusted proxy say
        self._parser: Any = HttpRequestParser(self)
        self._undelivered = 0  # bytes fed since llhttp last called back with progress
        self._delivered = False
        self._replay = b""
        self._request: HttpRequest | None = None
        self._repeated_head: RepeatedHead | None = None
        self._keep_alive = False
        self._body = b""
        self._pieces: bytearray | None = None

    def receive(self, data: bytes) -> None:
        """Parse *data*, or keep it unparsed while the queue is full."""
        if self.unparsed:
            self.unparsed += data
        elif len(data) <= PARSE_BYTES and not (self.arrived and self._is_full()):
            if self.phase is IDLE:
                self._receive_message(data)
            else:
                self.feed(data)
        else:
            view = memoryview(data)
            for start in range(0, len(data), PARSE_BYTES):
                if self._is_full():
                    self.unparsed = bytes(view[start:])
                    break
                self.feed(view[start : start + PARSE_BYTES])

    def _receive_message(self, data: bytes) -> None:
        """Parse *data*, with which a message begins; most often it is all of one, with the head of the one before."""
        head = self._repeated_head
        request = None if head is None else head.request(data, self._address, self._secure)
        if request is not None:
            request.id = request_id()
            if self._forwarded is not None:
                _note_forwarded(request, self._forwarded(request.headers))
            self.begun += 1
            self.body_bytes = len(request.body)
            self._undelivered = 0
            self.arrived.append(Arrival(request, True))
            return
        begun, arrived = self.begun, len(self.arrived)
        self.feed(data)
        if self.phase is IDLE and self.begun == begun + 1 and len(self.arrived) == arrived + 1:
            parsed = self.arrived[-1].request
            self._repeated_head = None if parsed is None else head_of(data, parsed)

    def receive_more(self) -> None:
        """Parse what was kept, as far as there is room for it now."""
        unparsed, self.unparsed = self.unparsed, b""
        self.receive(unparsed)

    def has_room(self) -> bool:
        """Whether more may be received."""
        return not self.unparsed and not self._is_full() and len(self.rest) < MAX_UNPARSED_BYTES

    def _is_full(self) -> bool:
        arrived = self.arrived
        if not arrived:
            return False
        if len(arrived) >= MAX_PIPELINED:
            return True
        return sum(len(one.request.body) for one in arrived if one.request) > MAX_UNPARSED_BYTES

    def feed(self, data: bytes | memoryview) -> None:
        """Parse the next bytes of the stream; what they complete is appended to ``arrived``."""
        todo: bytes | memoryview | None = data
        while todo is not None:
            if self.phase is not CLOSED and self.phase is not ENDED:
                todo = self._feed(todo)
                continue
            if self._upgrading:
                self.rest += todo
            return

    def _feed(self, data: bytes | memoryview) -> bytes | None:
        """Feed *data* to llhttp; return what it is to be fed next, or None."""
        self._delivered = False
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            return self._upgraded(bytes(data[upgrade.args[0] :]))
        except HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, RequestError):
                self._fail(cause.status, cause.message)
            elif isinstance(error, HttpParserCallbackError):
                raise
            else:
                self._fail(400, f"Bad request: {error}.")
        else:
            if not self._delivered:
                self._count_undelivered(len(data))
        return None

    def close(self) -> None:
        """Parse nothing more, and drop llhttp's parser, which refers to this object."""
        self.phase = CLOSED
        self.unparsed = b""
        self.arrived.clear()
        self._parser = self._repeated_head = None

    def end(self) -> None:
        """Note that the client sends nothing more; a message that has begun is refused with 400."""
        unparsed, self.unparsed = self.unparsed, b""
        if unparsed:  # bounded by what a transport delivers after it was paused
            self.feed(unparsed)
        if self.phase is HEAD or self.phase is BODY:
            # RFC 9112, 8: "A server that receives an incomplete request message, usually due to a
            # canceled request or a triggered timeout exception, MAY send an error response prior
            # to closing the connection."
            self._fail(400, "The request is incomplete.")
        self.phase = ENDED

    def time_out(self) -> None:
        """Refuse the message that has begun with 408."""
        # RFC 9110, 15.5.9: "the server did not receive a complete request
        # message within the time that it was prepared to wait."
        self._fail(408, "The request took too long to arrive.")

    def refuse(self, status: int, message: str) -> None:
        """Refuse the message that has begun with *status*, and forget its body."""
        self._fail(status, message)
        self._body, self._pieces = b"", None

    def held_bytes(self) -> int:
        """Return how many bytes are kept: of bodies that are not answered yet, and unparsed ones."""
        size = len(self.unparsed) + len(self.rest)
        if self.phase is BODY:
            size += self.body_bytes
        for one in self.arrived:
            if one.request is not None:
                size += len(one.request.body)
        return size

    def _fail(self, status: int, message: str) -> None:
        if self.phase is not CLOSED:
            request = self._request or self._unfinished()
            self.phase = CLOSED
            self.expects = False
            self.arrived.append(Arrival(request, status=status, message=message))

    def _unfinished(self) -> HttpRequest | None:
        """Return as much as is known of the request whose head is being read; None: not even its path."""
        if self.phase is not HEAD or self._target[:1] != b"/":
            return None
        path, _, query = self._target.decode("latin-1").partition("?")
        method = self._parser.get_method().decode("ascii")
        return HttpRequest(method, path, query, self._headers, b"", self._address, self._secure, request_id())

    def _count_undelivered(self, size: int) -> None:
        """Bound what llhttp buffers without a callback: long lines and trailers."""
        self._undelivered += size
        if self._undelivered > self._limits.head_bytes:
            self._fail(431, f"The header is over {self._limits.head_bytes} bytes.")

    # Callbacks of httptools

    def on_message_begin(self) -> None:
        """Reset what belongs to one message."""
        self.phase = HEAD
        self.begun += 1
        self._delivered = True
        self._undelivered = 0
        self._target = b""
        self._headers: dict[str, str] = {}
        self._repeated = 0
        self._body = b""
        self.body_bytes = 0
        self._pieces = None
        self._request = None

    def on_url(self, piece: bytes) -> None:
        """Append a piece of the request target."""
        self._target = self._target + piece if self._target else piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header field, joined with earlier ones of its name; trailers are ignored.

        Raises:
            RequestError: a field of :data:`SINGLE` is repeated.
        """
        if self.phase is not HEAD:
            return
        key = NAMES.get(name) or name.lower().decode("ascii")
        text = value.decode("latin-1").rstrip(" \t")
        headers = self._headers
        if key in headers:
            if key in SINGLE:
                raise RequestError(400, f"Repeated header {key}.")
            self._repeated += 1
            text = f"{headers[key]}, {text}"
        headers[key] = text

    def on_headers_complete(self) -> None:
        """Check the head and build the request.

        Raises:
            RequestError: the request is refused.
        """
        headers, parser = self._headers, self._parser
        if len(headers) + self._repeated > self._limits.head_fields:
            raise RequestError(431, f"More than {self._limits.head_fields} header fields.")
        method = METHODS.get(parser.get_method()) or parser.get_method().decode("ascii")
        path, query = read_target(method, self._target.decode("ascii"), headers)
        self._request = HttpRequest(method, path, query, headers, b"", self._address, self._secure, request_id())
        if self._forwarded is not None:
            _note_forwarded(self._request, self._forwarded(headers))
        version = parser.get_http_version()
        if version != "1.1":
            self._request.version = version
        check_host(version, headers)
        self.expects = check_framing(version, headers, self._limits.body_bytes)
        self._keep_alive = parser.should_keep_alive()
        if parser.should_upgrade() and not is_handshake(method, version, headers):
            # llhttp takes every upgrade for accepted and does not read a body: it is
            # given the same head once more, without the field that misleads it.
            self._replay = without_upgrade(method, self._target, version, headers)
        self.phase = BODY

    def on_body(self, piece: bytes) -> None:
        """Append a piece of the body.

        Raises:
            RequestError: the body is too large.
        """
        self._delivered = True
        self._undelivered = 0
        self.expects = False
        self.body_bytes += len(piece)
        if self.body_bytes > self._limits.body_bytes:
            raise RequestError(413, f"The body is over {self._limits.body_bytes} bytes.")
        if not self._body:
            self._body = piece
        elif self._pieces is None:
            # Not a list of pieces: a client may send them byte by byte.
            self._pieces = bytearray(self._body + piece)
        else:
            self._pieces += piece

    def on_message_complete(self) -> None:
        """Queue the complete request, unless its head is to be parsed again."""
        request = self._request
        if self._replay or request is None:
            return
        self.expects = False
        request.body = self._body if self._pieces is None else bytes(self._pieces)
        self._body, self._pieces = b"", None
        self._request = None
        self.arrived.append(Arrival(request, self._keep_alive))
        # "Close": whatever follows is not to be read as a request.
        self.phase = IDLE if self._keep_alive else CLOSED

    def _upgraded(self, rest: bytes) -> bytes | None:
        again, self._replay = self._replay, b""
        if again:
            self._parser = HttpRequestParser(self)
            self.begun -= 1
            return again + rest
        if self.arrived and self.arrived[-1].request is not None:  # even with "Connection: close", said of HTTP
            self.phase = CLOSED
            self._upgrading = self.arrived[-1].upgrade = True
            self.rest = rest
        return None


def _note_forwarded(request: HttpRequest, said: Forwarded) -> None:
    request.address = said.client or request.address
    request.secure = request.secure or said.secure
    request.forwarded_host = said.host
