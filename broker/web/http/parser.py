"""Bytes in, HTTP requests out: the reading half of the HTTP/1.1 channel, without I/O.

The grammar is llhttp's, the parser of Node, in its strict mode: it refuses bare
line feeds, folded lines, blanks before a colon, control characters, repeated or
odd lengths and a length beside a transfer coding.  What llhttp lets pass and a
front door should not is refused here.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import Any

import attrs
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from broker.messages import HttpRequest
from broker.web.http.head import (
    METHODS,
    NAMES,
    SINGLE,
    Objection,
    check_framing,
    check_host,
    is_handshake,
    read_target,
    request_id,
    without_upgrade,
)


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


class Phase(Enum):
    """Where in a message the stream is."""

    IDLE = "between messages"
    HEAD = "in the request line or the header"
    BODY = "in the body"
    OVER = "no further request will be read"


# Looking a member up in its class costs more than what is done with it here.
IDLE, HEAD, BODY, OVER = Phase.IDLE, Phase.HEAD, Phase.BODY, Phase.OVER


@attrs.define(eq=False)
class Arrival:
    """One thing to answer, in the order of the stream.

    Attributes:
        request: what came; of a refused one as much as was understood, or None.
        keep_alive: whether the client lets the connection stay open.
        status: 0, or the HTTP status to refuse it with; nothing follows then.
        message: why it is refused.
        upgrade: whether it is a WebSocket handshake; what comes behind it is in
            the parser's ``rest``.
    """

    request: HttpRequest | None
    keep_alive: bool = False
    status: int = 0
    message: str = ""
    upgrade: bool = False


class RequestParser:
    """Reads the requests of one connection.

    Attributes:
        arrived: what has come and was not taken yet.
        phase: where in a message the stream is.
        begun: how many messages have begun.
        expects: whether the client waits for "100 Continue" before its body.
        rest: what came behind a WebSocket handshake.
    """

    def __init__(self, limits: Limits, address: str = "", secure: bool = False) -> None:
        self.arrived: deque[Arrival] = deque()
        self.phase = IDLE
        self.begun = 0
        self.expects = False
        self.rest = b""
        self._upgrading = False
        self._limits = limits
        self._address = address
        self._secure = secure
        self._parser: Any = HttpRequestParser(self)
        self._spent = 0  # bytes since the stream last got anywhere
        self._moved = False
        self._again = b""
        self._request: HttpRequest | None = None
        self._keep_alive = False

    def feed(self, data: bytes | memoryview) -> None:
        """Take the next bytes of the stream; what they complete is in ``arrived``."""
        todo: bytes | memoryview | None = data
        while todo is not None:
            if self.phase is not OVER:
                todo = self._feed(todo)
                continue
            if self._upgrading:
                self.rest += todo
            return

    def _feed(self, data: bytes | memoryview) -> bytes | None:
        """Give *data* to llhttp; return what it is to be given next."""
        self._moved = False
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            return self._upgraded(bytes(data[upgrade.args[0] :]))
        except HttpParserError as error:
            objection = error.__context__
            if isinstance(objection, Objection):
                self._fail(objection.status, objection.message)
            elif isinstance(error, HttpParserCallbackError):
                raise
            else:
                self._fail(400, f"Bad request: {error}.")
        else:
            if not self._moved:
                self._count(len(data))
        return None

    def close(self) -> None:
        """Read nothing more, and let go of the parser, which refers to this object."""
        self.phase = OVER
        self.arrived.clear()
        self._parser = None

    def time_out(self) -> None:
        """Refuse the message that has begun for taking too long."""
        # RFC 9110, 15.5.9: "the server did not receive a complete request
        # message within the time that it was prepared to wait."
        self._fail(408, "The request took too long to arrive.")

    def _fail(self, status: int, message: str) -> None:
        if self.phase is not OVER:
            self.phase = OVER
            self.expects = False
            self.arrived.append(Arrival(self._request, status=status, message=message))

    def _count(self, size: int) -> None:
        """Bound what llhttp may gather without telling: long lines and trailers."""
        self._spent += size
        if self._spent > self._limits.head_bytes:
            self._fail(431, f"The header is over {self._limits.head_bytes} bytes.")

    # What httptools calls.

    def on_message_begin(self) -> None:
        """Begin a message."""
        self.phase = HEAD
        self.begun += 1
        self._moved = True
        self._spent = 0
        self._target = b""
        self._headers: dict[str, str] = {}
        self._repeated = 0
        self._body = b""
        self._size = 0
        self._pieces: bytearray | None = None
        self._request = None

    def on_url(self, piece: bytes) -> None:
        """Take a piece of the request target."""
        self._target = self._target + piece if self._target else piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field; those of a trailer are ignored."""
        if self.phase is not HEAD:
            return
        key = NAMES.get(name) or name.lower().decode("ascii")
        text = value.decode("latin-1").rstrip(" \t")
        headers = self._headers
        if key in headers:
            if key in SINGLE:
                raise Objection(400, f"Repeated header {key}.")
            self._repeated += 1
            text = f"{headers[key]}, {text}"
        headers[key] = text

    def on_headers_complete(self) -> None:
        """Judge the head, and make the request of it."""
        headers, parser = self._headers, self._parser
        if len(headers) + self._repeated > self._limits.head_fields:
            raise Objection(431, f"More than {self._limits.head_fields} header fields.")
        method = METHODS.get(parser.get_method()) or parser.get_method().decode("ascii")
        path, query = read_target(method, self._target.decode("ascii"), headers)
        self._request = HttpRequest(method, path, query, headers, b"", self._address, self._secure, request_id())
        version = parser.get_http_version()
        check_host(version, headers)
        self.expects = check_framing(version, headers, self._limits.body_bytes)
        self._keep_alive = parser.should_keep_alive()
        if parser.should_upgrade() and not is_handshake(method, version, headers):
            # llhttp takes every upgrade for accepted and does not read a body: it is
            # given the same head once more, without the field that misleads it.
            self._again = without_upgrade(method, self._target, version, headers)
        self.phase = BODY

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._moved = True
        self._spent = 0
        self.expects = False
        self._size += len(piece)
        if self._size > self._limits.body_bytes:
            raise Objection(413, f"The body is over {self._limits.body_bytes} bytes.")
        if not self._body:
            self._body = piece
        elif self._pieces is None:
            # Not a list of pieces: a client may send them byte by byte.
            self._pieces = bytearray(self._body + piece)
        else:
            self._pieces += piece

    def on_message_complete(self) -> None:
        """Hand the whole request over, unless an upgrade follows."""
        request = self._request
        if self._again or request is None:
            return
        self.expects = False
        request.body = self._body if self._pieces is None else bytes(self._pieces)
        self._body, self._pieces = b"", None
        self._request = None
        self.arrived.append(Arrival(request, self._keep_alive))
        # "Close": whatever follows is not to be read as a request.
        self.phase = IDLE if self._keep_alive else OVER

    def _upgraded(self, rest: bytes) -> bytes | None:
        again, self._again = self._again, b""
        if again:
            self._parser = HttpRequestParser(self)
            self.begun -= 1
            return again + rest
        if self.arrived and self.arrived[-1].request is not None:  # even with "Connection: close", said of HTTP
            self.phase = OVER
            self._upgrading = self.arrived[-1].upgrade = True
            self.rest = rest
        return None
