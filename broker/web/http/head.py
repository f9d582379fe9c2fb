"""A request's head: checks of it that llhttp does not make, and the head that a client repeats."""

from __future__ import annotations

import re
from collections.abc import Mapping

import attrs

from broker.core.id_series import IdSeries
from broker.messages import HttpRequest
from broker.remembered import remembered

# Fields whose repetition would let two readers of one request disagree about it.
SINGLE = frozenset(
    (
        *("host", "content-length", "transfer-encoding", "content-type", "authorization", "origin"),
        *("sec-websocket-key", "idempotency-key", "last-event-id"),
    )
)
# RFC 3986, 3.2: no user information, as "a sender MUST NOT generate the userinfo
# subcomponent" (RFC 9110, 4.2.4).
AUTHORITY = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
ABSOLUTE = re.compile(r"[Hh][Tt][Tt][Pp][Ss]?://([^/?]+)([^?]*)(.*)", re.DOTALL)
LENGTH_DIGITS = 19  # of 64 bits; more would be an attempt to spend our time on int()

MAX_HEAD = 1024  # bytes of the fields that a connection keeps

# Of what llhttp takes, the characters of RFC 3986, 3.3 and 3.4, in origin-form.
_REQUEST_LINE = re.compile(
    rb"(GET|POST|PUT|DELETE|HEAD|PATCH|OPTIONS) (/[\w.~%!$&'()*+,;=:@/-]*)(?:\?([\w.~%!$&'()*+,;=:@/?-]*))? HTTP/1\.1"
).fullmatch
# What would let the request end elsewhere, or not be an ordinary one.
_UNUSUAL = frozenset(("transfer-encoding", "upgrade", "expect"))

_series = IdSeries("4")


def request_id() -> str:
    """Return a new ``X-Request-Id``: the shape of a UUID, cheap and never repeated."""
    return next(_series.ids)


class RequestError(Exception):
    """A request is refused with an HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def read_target(method: str, target: str, headers: dict[str, str]) -> tuple[str, str]:
    """Return the path and the query of *target*.

    Raises:
        RequestError: it is no origin-form, absolute-form or asterisk-form (RFC 9112, 3.2).
    """
    if method == "CONNECT":
        raise RequestError(501, "This is no proxy.")
    if "#" in target:
        raise RequestError(400, "Bad request target.")
    if target[0] != "/" and target != "*":
        absolute = ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise RequestError(400, "Bad request target.")
        # RFC 9112, 3.2.2: "When an origin server receives a request with an absolute-form
        # of request-target, the origin server MUST ignore the received Host header field (if
        # any) and instead use the host information of the request-target."
        headers["host"] = absolute[1]
        target = (absolute[2] or "/") + absolute[3]
    path, _, query = target.partition("?")
    return path, query


def check_host(version: str, headers: Mapping[str, str]) -> None:
    """Check the HTTP *version* and the ``Host`` field.

    Raises:
        RequestError: the version is unknown, or the host is missing or malformed.
    """
    host = headers.get("host")
    if version == "1.1":
        # RFC 9112, 3.2: "A server MUST respond with a 400 (Bad Request) status
        # code to any HTTP/1.1 request message that lacks a Host header field."
        if host is None:
            raise RequestError(400, "No Host header.")
    elif version != "1.0":
        raise RequestError(505, "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
    if host and not _is_authority(host):
        raise RequestError(400, "Bad Host header.")


def check_framing(version: str, headers: Mapping[str, str], body_bytes: int) -> bool:
    """Return whether the client waits for "100 Continue" before it sends a body.

    Raises:
        RequestError: the body is over *body_bytes*, or can not be read safely.
    """
    length = headers.get("content-length")
    if length is not None:
        if len(length) > LENGTH_DIGITS:
            raise RequestError(400, "Bad Content-Length header.")
        if int(length) > body_bytes:
            raise RequestError(413, f"The body is over {body_bytes} bytes.")
    elif "transfer-encoding" in headers:
        # RFC 9112, 6.1: "A server that receives an HTTP/1.0 message containing a
        # Transfer-Encoding header field MUST treat the message as if the framing is faulty".
        if version == "1.0":
            raise RequestError(400, "Transfer-Encoding in HTTP/1.0.")
        if headers["transfer-encoding"].lower() != "chunked":
            raise RequestError(501, "The only transfer coding taken is chunked.")
    else:
        return False
    # RFC 9110, 10.1.1: "A server that receives a 100-continue expectation in an
    # HTTP/1.0 request MUST ignore that expectation."
    if "expect" not in headers or version == "1.0":
        return False
    if headers["expect"].lower() != "100-continue":
        raise RequestError(417, "The only expectation met is 100-continue.")
    return True


def is_handshake(method: str, version: str, headers: Mapping[str, str]) -> bool:
    """Whether a request that asks for an upgrade asks for a WebSocket, as RFC 6455 wants it.

    Anything else is an ordinary request.  RFC 9110, 7.8: "A server MAY ignore a received
    Upgrade header field if it wishes to continue using the current protocol on that connection."
    """
    if method != "GET" or version != "1.1":
        return False
    if headers.get("content-length", "0").strip("0") or "transfer-encoding" in headers:
        return False
    upgrade = headers["upgrade"].lower()
    return upgrade == "websocket" or "websocket" in [word.strip() for word in upgrade.split(",")]


def without_upgrade(method: str, target: bytes, version: str, headers: Mapping[str, str]) -> bytes:
    """Return the head of a request as it would be without its ``Upgrade``."""
    lines = [f"{name}: {value}\r\n" for name, value in headers.items() if name != "upgrade"]
    return f"{method} {target.decode('ascii')} HTTP/{version}\r\n{''.join(lines)}\r\n".encode("latin-1")


@attrs.frozen(eq=False)
class RepeatedHead:
    """The header of a request that kept its connection open: most often that of the next one, too, byte for byte.

    What llhttp has accepted once need not be parsed again, as long as the rest of the request is as plain.

    Attributes:
        lines: of its fields and the empty one, as they were sent.
        fields: the same, as they were read.
        body_bytes: of the body that they announce.
    """

    lines: bytes
    fields: dict[str, str]
    body_bytes: int

    def request(self, data: bytes, address: str, secure: bool) -> HttpRequest | None:
        """Return the request that *data* is, without an id, if it is exactly one with these lines; else None."""
        line, _, rest = data.partition(b"\r\n")
        lines = self.lines
        if len(rest) != len(lines) + self.body_bytes or not rest.startswith(lines):
            return None
        found = _REQUEST_LINE(line)
        if found is None:
            return None
        method, path, query = found.groups(b"")
        return HttpRequest(
            method.decode(), path.decode(), query.decode(), self.fields.copy(), rest[len(lines) :], address, secure
        )


def head_of(data: bytes, request: HttpRequest) -> RepeatedHead | None:
    """Return the head of *request*, which was parsed of all of *data*, or None if it is not to be taken for another."""
    line, _, rest = data.partition(b"\r\n")
    size = rest.find(b"\r\n\r\n") + 4
    if not 4 <= size <= MAX_HEAD or not _UNUSUAL.isdisjoint(request.headers) or _REQUEST_LINE(line) is None:
        return None
    if len(rest) - size != len(request.body) or request.version != "1.1":
        return None
    return RepeatedHead(rest[:size], request.headers.copy(), len(request.body))


@remembered(256)
def _is_authority(host: str) -> bool:
    return AUTHORITY.fullmatch(host) is not None


# The usual spellings, so that most names cost one dictionary lookup.
NAMES = {
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
METHODS = {word.encode("ascii"): word for word in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")}
