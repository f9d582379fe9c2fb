"""Bytes in, HTTP requests out: the reading half of the HTTP/1.1 channel, without I/O.

The grammar is llhttp's, the parser of Node, in its strict mode: it refuses bare
line feeds, folded lines, blanks before a colon, control characters, repeated or
odd lengths and a length beside a transfer coding.  What llhttp lets pass and a
front door should not is refused here.
"""

from __future__ import annotations

import random
import re
from collections import deque
from enum import Enum
from functools import lru_cache
from itertools import count
from typing import Any

import attrs
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from broker.messages import HttpRequest

# Fields whose repetition would let two readers of one request disagree about it.
SINGLE = frozenset(
    ("host", "content-length", "transfer-encoding", "content-type", "authorization", "origin", "sec-websocket-key")
)
# RFC 3986, 3.2: no user information, as "a sender MUST NOT generate the userinfo
# subcomponent" (RFC 9110, 4.2.4).
AUTHORITY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
ABSOLUTE = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://([^/?]+)([^?]*)(.*)", re.DOTALL)

# Ids look like UUIDs of version 4: random per process, then counted.
_ID_PREFIX = "{:08x}-{:04x}-4{:03x}-a{:03x}-".format(*(random.getrandbits(bits) for bits in (32, 16, 12, 12)))
_ids = count(random.getrandbits(40))


def request_id() -> str:
    """Return a new ``X-Request-Id``: the shape of a UUID, cheap and never repeated."""
    return _ID_PREFIX + format(next(_ids), "012x")


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


class _Stop(Exception):
    """Ends the parsing from within a callback."""


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
        self._refusal: tuple[int, str] | None = None
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
            if self._refusal is None and isinstance(error, HttpParserCallbackError):
                raise
            self._fail(*(self._refusal or (400, f"Bad request: {error}.")))
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

    def _refuse(self, status: int, message: str) -> None:
        self._refusal = (status, message)
        raise _Stop

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
        self._pieces: list[bytes] | None = None
        self._request = None

    def on_url(self, piece: bytes) -> None:
        """Take a piece of the request target."""
        self._target = self._target + piece if self._target else piece

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header field; those of a trailer are ignored."""
        if self.phase is not HEAD:
            return
        key = _NAMES.get(name) or name.lower().decode("ascii")
        text = value.decode("latin-1").rstrip(" \t")
        headers = self._headers
        if key in headers:
            if key in SINGLE:
                self._refuse(400, f"Repeated header {key}.")
            self._repeated += 1
            text = f"{headers[key]}, {text}"
        headers[key] = text

    def on_headers_complete(self) -> None:
        """Judge the head, and make the request of it."""
        headers, parser = self._headers, self._parser
        if len(headers) + self._repeated > self._limits.head_fields:
            self._refuse(431, f"More than {self._limits.head_fields} header fields.")
        method = _METHODS.get(parser.get_method()) or parser.get_method().decode("ascii")
        path, query = self._read_target(method)
        self._request = HttpRequest(method, path, query, headers, b"", self._address, self._secure, request_id())
        version = parser.get_http_version()
        if version == "1.1":
            # RFC 9112, 3.2: "A server MUST respond with a 400 (Bad Request) status
            # code to any HTTP/1.1 request message that lacks a Host header field."
            if "host" not in headers:
                self._refuse(400, "No Host header.")
        elif version != "1.0":
            self._refuse(505, "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
        if not _is_authority(headers.get("host", "")):
            self._refuse(400, "Bad Host header.")
        self._keep_alive = parser.should_keep_alive()
        self._check_framing(version)
        if parser.should_upgrade():
            self._check_upgrade(method, version)
        self.phase = BODY

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._moved = True
        self._spent = 0
        self.expects = False
        self._size += len(piece)
        if self._size > self._limits.body_bytes:
            self._refuse(413, f"The body is over {self._limits.body_bytes} bytes.")
        if not self._body:
            self._body = piece
        elif self._pieces is None:
            self._pieces = [self._body, piece]
        else:
            self._pieces.append(piece)

    def on_message_complete(self) -> None:
        """Hand the whole request over, unless an upgrade follows."""
        request = self._request
        if self._again or request is None:
            return
        self.expects = False
        request.body = b"".join(self._pieces) if self._pieces is not None else self._body
        self._body = b""
        self._request = None
        self.arrived.append(Arrival(request, self._keep_alive))
        # "Close": whatever follows is not to be read as a request.
        self.phase = IDLE if self._keep_alive else OVER

    # The head.

    def _read_target(self, method: str) -> tuple[str, str]:
        target = self._target.decode("ascii")
        if method == "CONNECT":
            self._refuse(501, "This is no proxy.")
        if "#" in target:
            self._refuse(400, "Bad request target.")
        if target[0] != "/" and target != "*":
            # RFC 9112, 3.2.2: "When an origin server receives a request with an absolute-form
            # of request-target, the origin server MUST ignore the received Host header field (if
            # any) and instead use the host information of the request-target."
            absolute = ABSOLUTE.fullmatch(target)
            if absolute is None:
                self._refuse(400, "Bad request target.")
            else:
                self._headers["host"] = absolute[1]
                target = (absolute[2] or "/") + absolute[3]
        path, _, query = target.partition("?")
        return path, query

    def _check_framing(self, version: str) -> None:
        headers = self._headers
        if "content-length" in headers:
            if int(headers["content-length"]) > self._limits.body_bytes:
                self._refuse(413, f"The body is over {self._limits.body_bytes} bytes.")
        elif "transfer-encoding" in headers:
            # RFC 9112, 6.1: "A server that receives an HTTP/1.0 message containing a
            # Transfer-Encoding header field MUST treat the message as if the framing is faulty".
            if version == "1.0":
                self._refuse(400, "Transfer-Encoding in HTTP/1.0.")
            if headers["transfer-encoding"].lower() != "chunked":
                self._refuse(501, "The only transfer coding taken is chunked.")
        else:
            return
        # RFC 9110, 10.1.1: "A server that receives a 100-continue expectation in an
        # HTTP/1.0 request MUST ignore that expectation."
        if "expect" in headers and version == "1.1":
            if headers["expect"].lower() != "100-continue":
                self._refuse(417, "The only expectation met is 100-continue.")
            self.expects = True

    def _check_upgrade(self, method: str, version: str) -> None:
        """Leave a WebSocket handshake to the upgrade; read anything else as a plain request.

        RFC 9110, 7.8: "A server MAY ignore a received Upgrade header field if it wishes to
        continue using the current protocol on that connection."
        """
        headers = self._headers
        protocols = [word.strip() for word in headers["upgrade"].lower().split(",")]
        bodiless = headers.get("content-length", "0").strip("0") == "" and "transfer-encoding" not in headers
        if "websocket" in protocols and method == "GET" and version == "1.1" and bodiless:
            return
        # llhttp takes every upgrade for accepted and does not read a body: it is
        # given the same head once more, without the field that misleads it.
        lines = [f"{name}: {value}\r\n" for name, value in headers.items() if name != "upgrade"]
        head = f"{method} {self._target.decode('ascii')} HTTP/{version}\r\n{''.join(lines)}\r\n"
        self._again = head.encode("latin-1")

    def _upgraded(self, rest: bytes) -> bytes | None:
        again, self._again = self._again, b""
        if again:
            self._parser = HttpRequestParser(self)
            self.begun -= 1
            return again + rest
        if self.arrived and self.phase is IDLE:
            self.phase = OVER
            self._upgrading = self.arrived[-1].upgrade = True
            self.rest = rest
        return None


@lru_cache(maxsize=256)
def _is_authority(host: str) -> bool:
    return AUTHORITY.fullmatch(host) is not None


# The spellings met in practice, so that most names cost one look.
_NAMES = {
    spelling.encode("ascii"): name
    for name in (
        "accept",
        "accept-encoding",
        "accept-language",
        "authorization",
        "cache-control",
        "connection",
        "content-encoding",
        "content-length",
        "content-md5",
        "content-type",
        "cookie",
        "expect",
        "host",
        "origin",
        "referer",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "x-api-key",
        "x-forwarded-for",
    )
    for spelling in (name, name.title())
}
_METHODS = {word.encode("ascii"): word for word in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")}
