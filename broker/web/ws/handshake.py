"""The opening handshake of RFC 6455, without I/O: what to object to, and what to answer."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterable, Mapping
from hashlib import sha1

import msgspec

from broker.messages import HttpRequest, Response

# RFC 6455, 1.3: "concatenate this with the Globally Unique Identifier […] in string form".
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
VERSION = "13"
ACCEPTANCE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: %b\r\n%b\r\n"
)


def objection(request: HttpRequest) -> Response | None:
    """Return what to answer to a *request* that is no WebSocket handshake, or None.

    The rules are those of RFC 6455, 4.2.1; "if the server […] finds that the
    client did not send a handshake that matches the description below […], the
    server MUST stop processing the client's handshake and return an HTTP
    response with an appropriate error code (such as 400 Bad Request)."
    """
    headers = request.headers
    if request.method != "GET":
        return _error(405, "A WebSocket is opened with GET.", ("Allow", "GET"))
    if not (_names(headers, "upgrade", "websocket") and _names(headers, "connection", "upgrade")):
        # RFC 9110, 15.5.22: "The server MUST send an Upgrade header field in a 426 response".
        return _error(426, "This is a WebSocket: the request must upgrade to it.", ("Upgrade", "websocket"))
    if not headers.get("host"):
        return _error(400, "The Host header is missing.")
    if headers.get("sec-websocket-version", "").strip() != VERSION:
        # 4.4: "the server MUST respond with a |Sec-WebSocket-Version| header field […] indicating
        # the version(s) the server is willing to use."
        return _error(
            426,
            "Only version 13 of the WebSocket protocol is spoken here.",
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", VERSION),
        )
    if not _is_key(headers.get("sec-websocket-key", "").strip()):
        return _error(400, "Sec-WebSocket-Key must be 16 bytes in base64.")
    return None


def acceptance(request: HttpRequest, server: str, fields: Iterable[tuple[str, str]]) -> bytes:
    """Return the 101 that completes the handshake of *request*.

    Args:
        request: one without an objection.
        server: for the ``Server`` field; "" for none.
        fields: further header fields, without line ends.
    """
    key = request.headers["sec-websocket-key"].strip().encode("ascii")
    accept = b2a_base64(sha1(key + GUID, usedforsecurity=False).digest(), newline=False)
    named = (("Server", server), *fields) if server else fields
    lines = "".join([f"{name}: {value}\r\n" for name, value in named])
    return ACCEPTANCE % (accept, lines.encode("latin-1"))


def _names(headers: Mapping[str, str], field: str, token: str) -> bool:
    value = headers.get(field, "").lower()
    return value == token or token in [part.strip() for part in value.split(",")]


def _is_key(key: str) -> bool:
    # 4.2.1: "a base64-encoded value that, when decoded, is 16 bytes in length".
    try:
        return len(a2b_base64(key, strict_mode=True)) == 16
    except ValueError:  # what binascii raises is one
        return False


def _error(status: int, message: str, *headers: tuple[str, str]) -> Response:
    body = msgspec.json.encode({"error": {"code": "INVALID", "message": message, "data": None}})
    return Response(status, body, headers=headers)
