"""HTTP responses to bytes: the writing half of the HTTP/1.1 channel, without I/O."""

from __future__ import annotations

import re
from email.utils import formatdate
from http import HTTPStatus

from broker.interfaces import IWallClock
from broker.messages import Response
from broker.remembered import remembered

# Set by the channel alone; dropped from what a dialect adds.
OWN_HEADERS = frozenset(("connection", "content-length", "date", "keep-alive", "transfer-encoding", "x-request-id"))
UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]+")
NO_BODY = frozenset((*range(100, 200), 204, 304))  # statuses of answers that have none
REASONS = {status.value: status.phrase for status in HTTPStatus}
# RFC 9110, 15.5.2: "The server generating a 401 response MUST send a WWW-Authenticate header field […] containing at
# least one challenge applicable to the target resource."
CHALLENGE = b'WWW-Authenticate: Bearer realm="txbroker"\r\n'
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Dates:
    """Makes the ``Date`` line, once a second."""

    def __init__(self, wall: IWallClock) -> None:
        self._time = wall.time
        self._second = -1
        self._line = b""

    def line(self) -> bytes:
        """Return the line with CRLF, as bytes."""
        now = int(self._time())
        if now != self._second:
            self._second = now
            self._line = f"Date: {formatdate(now, usegmt=True)}\r\n".encode("ascii")
        return self._line


def render(
    response: Response, request_id: str, head: bool, keep_alive: int, date: bytes, framing: bytes | None = None
) -> bytes:
    """Return *response* as bytes of HTTP/1.1.

    Args:
        response: status, header fields and body.
        request_id: goes into ``X-Request-Id`` unless the response is plain.
        head: whether it answers a HEAD: then Content-Length is sent and the body is not.
        keep_alive: for how many seconds the client is told that the connection stays open; 0 closes it.
        date: the line of :class:`Dates`.
        framing: the lines that say where the body ends, which is not rendered then; None: it is.
    """
    status, body = response.status, response.body
    start = _head_start(status, response.reason, response.content_type, keep_alive)
    more = _header_lines(response.headers) if response.headers else b""
    if status == 401 and not any(name.lower() == "www-authenticate" for name, _ in response.headers):
        more += CHALLENGE
    if not response.plain:
        more = b"%bX-Request-Id: %b\r\n" % (more, request_id.encode("ascii"))
    if status in NO_BODY:
        # RFC 9110, 8.6: "A server MUST NOT send a Content-Length header field in any response with
        # a status code of 1xx (Informational) or 204 (No Content)."
        return b"%b%b%b\r\n" % (start, date, more)
    if framing is not None:
        return b"%b%b%b%b\r\n" % (start, date, more, framing)
    return b"%b%b%bContent-Length: %d\r\n\r\n%b" % (start, date, more, len(body), b"" if head else body)


@remembered(512)
def _head_start(status: int, reason: str, content_type: str, keep_alive: int) -> bytes:
    lines = [f"HTTP/1.1 {status} {_safe(reason or REASONS.get(status, 'Unknown'))}"]
    if content_type and status not in NO_BODY:
        lines.append(f"Content-Type: {_safe(content_type)}")
    # RFC 9110, 7.8: "A sender of Upgrade MUST also send an "Upgrade" connection option in the Connection header field".
    option = "Upgrade, " if status == 426 else ""
    if keep_alive:
        lines += [f"Connection: {option}keep-alive", f"Keep-Alive: timeout={keep_alive}"]
    else:
        lines.append(f"Connection: {option}close")
    return ("\r\n".join(lines) + "\r\n").encode("latin-1", "replace")


@remembered(512)
def _header_lines(headers: tuple[tuple[str, str], ...]) -> bytes:
    """Return *headers* as lines, made safe: a dialect may have put a client's text into them."""
    lines = [
        f"{_safe(name)}: {_safe(value)}\r\n"
        for name, value in headers
        if name.strip().lower() not in OWN_HEADERS and not re.search(r"[\s:]", name)
    ]
    return "".join(lines).encode("latin-1", "replace")


def _safe(text: str) -> str:
    # RFC 9110, 5.5: "Field values containing CR, LF, or NUL characters are invalid and
    # dangerous": a client's words in a header must not become lines of their own.
    return UNSAFE.sub(" ", text)
