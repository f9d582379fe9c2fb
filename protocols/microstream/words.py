"""What is said in MicroStream's words: error codes both ways, and the shapes of its messages."""

from __future__ import annotations

import json

import msgspec
from msgspec import Raw

from broker.errors import BrokerError, CalleeFailed
from protocols.microstream.exact import NotExact, decode

DUPLICATE_SERVICE = "DUPLICATE_SERVICE_REGISTRATION"
DUPLICATE_REQUEST = "DUPLICATE_REQUEST_ID"
INVALID_NAME = "INVALID_SERVICE_NAME"

CODES = {
    "NOT_FOUND": "TARGET_SERVICE_NOT_FOUND",
    "TIMEOUT": "REQUEST_TIMEOUT",
    "GONE": "TARGET_SERVICE_DISCONNECTED",
    "TAKEN": DUPLICATE_SERVICE,
    "UNAUTHENTICATED": "UNAUTHORIZED",
    "DENIED": "FORBIDDEN",
    "INVALID": "INVALID_REQUEST",
    "INTERNAL": "INTERNAL_SERVER_ERROR",
}
SENTENCES = {
    "NOT_FOUND": 'Service "{target}" not found',
    "GONE": 'Service "{target}" disconnected',
    "TIMEOUT": 'Service "{target}" did not answer in time',
    "TAKEN": "Duplicate Service Registration Name! A service with the same name is already registered.",
    "UNAUTHENTICATED": "The token is missing or wrong",
    "DENIED": "Not permitted",
    "RATE_LIMITED": "Too many requests",
    "UNAVAILABLE": "The hub can not do this now",
    "INTERNAL": "Internal server error",
}
NOTHING = frozenset((b"null", b""))
FALSY = frozenset((b"null", b"false", b"0", b'""'))

encode = msgspec.json.Encoder().encode


class Envelope(msgspec.Struct, gc=False):
    """The argument of a ``request`` on its way in."""

    targetService: str  # the client's spelling
    payload: Raw


class Payload(msgspec.Struct, gc=False):
    """What of a request's payload the hub looks at; an absent ``data`` is b""."""

    id: str
    event: str
    data: Raw = Raw(b"")


class Numbered(msgspec.Struct, gc=False):
    """Only the id of a payload."""

    id: str


class Answer(msgspec.Struct, gc=False):
    """The argument of a ``response``; a missing one is null."""

    id: str
    response: Raw = Raw(b"null")


class _Error(msgspec.Struct):
    code: str
    message: str = ""
    errorData: Raw = Raw(b"null")


class Credential(msgspec.Struct):
    """What the hub looks at in the payload of a CONNECT."""

    token: str = ""


_members = msgspec.json.Decoder(dict[str, Raw])
_error = msgspec.json.Decoder(_Error)


def quote(text: str) -> bytes:
    """Return *text*, whatever is in it, as JSON."""
    return json.dumps(text).encode("ascii")


def error_text(code: str, message: str, data: bytes) -> bytes:
    """Return the object that errors are told by."""
    return b'{"code":%b,"message":%b,"errorData":%b}' % (quote(code), quote(message), data)


def failed_response(error: BrokerError, target: str, id: str) -> bytes:
    """Return the ``response`` to request *id* that failed with *error*.

    "Any truthy response.error rejects the caller's promise with that value."
    """
    if isinstance(error, CalleeFailed):
        text = error_text(error.code, error.message, error.data or b"{}")
    else:
        data = b'{"targetService":%b,"requestID":%b}' % (quote(target), quote(id))
        text = error_text(CODES.get(error.code, error.code), _sentence(error, target), data)
    return b'{"error":%b}' % text


def connect_error(error: BrokerError, name: str) -> bytes:
    """Return why the service *name* may not connect."""
    code = CODES.get(error.code, error.code)
    text = error_text(code, _sentence(error, name), b'{"serviceName":%b}' % quote(name))
    return b'{"message":%b,"data":%b}' % (quote(code), text)


def _sentence(error: BrokerError, target: str) -> str:
    sentence = SENTENCES.get(error.code, "")
    return sentence.format(target=target) if sentence else error.message


def failure_in(response: bytes) -> CalleeFailed | None:
    """Return the error that *response* tells of, or None when it is a result."""
    try:
        error = decode(_members, response).get("error")
    except NotExact:
        return None
    if error is None or bytes(error) in FALSY:
        return None
    try:
        told = decode(_error, error)
    except NotExact:
        return CalleeFailed(CODES["INTERNAL"], bytes(error).decode())
    data = bytes(told.errorData)
    return CalleeFailed(told.code, told.message, None if data in NOTHING else data)
