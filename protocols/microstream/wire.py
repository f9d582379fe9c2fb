"""The wire format of MicroStream: the shapes of its messages, and its error codes both ways."""

from __future__ import annotations

import json

import msgspec
from msgspec import Raw

from broker.errors import BrokerError, CalleeFailed, Invalid
from broker.jsontext import decode

DUPLICATE_SERVICE = "DUPLICATE_SERVICE_REGISTRATION"
DUPLICATE_REQUEST = "DUPLICATE_REQUEST_ID"
INVALID_NAME = "INVALID_SERVICE_NAME"
INVALID_RESPONSE = "INVALID_RESPONSE"
OVERFLOW = "A number is beyond the range of a double"

# What a client is told for each code of a BrokerError; a code that is missing is sent as it is.
ERROR_CODES = {
    "NOT_FOUND": "TARGET_SERVICE_NOT_FOUND",
    "TIMEOUT": "REQUEST_TIMEOUT",
    "GONE": "TARGET_SERVICE_DISCONNECTED",
    "TAKEN": DUPLICATE_SERVICE,
    "UNAUTHENTICATED": "UNAUTHORIZED",
    "DENIED": "FORBIDDEN",
    "INVALID": "INVALID_REQUEST",
    "INTERNAL": "INTERNAL_SERVER_ERROR",
}
ERROR_MESSAGES = {
    "NOT_FOUND": 'Service "{target}" not found',
    "GONE": 'Service "{target}" disconnected',
    "TIMEOUT": 'Service "{target}" did not answer in time',
    "TAKEN": "Duplicate Service Registration Name! A service with the same name is already registered.",
    "UNAUTHENTICATED": "The token is missing or wrong",
    "DENIED": "Not permitted",
    "RATE_LIMITED": "Too many requests",
    "BUSY": 'Service "{target}" is busy',
    "UNAVAILABLE": "The hub can not do this now",
    "INTERNAL": "Internal server error",
}
NULLS = frozenset((b"null", b""))  # JSON texts of no value; b"" is an absent member
FALSY = frozenset((b"null", b"false", b"0", b'""'))  # JSON texts that JavaScript takes for false

encode = msgspec.json.Encoder().encode


class Envelope(msgspec.Struct, gc=False):
    """The argument of a ``request`` that a service sends."""

    targetService: str  # the client's spelling
    payload: Raw


class Malformed(msgspec.Struct, gc=False):
    """The argument of a ``request`` of which not much can be said; an absent ``targetService`` is ""."""

    payload: Raw
    targetService: Raw = Raw(b'""')


class Payload(msgspec.Struct, gc=False):
    """The members of a request's payload that the hub reads; an absent ``data`` is b""."""

    id: str
    event: str
    data: Raw = Raw(b"")


class Numbered(msgspec.Struct, gc=False):
    """The id of a payload alone."""

    id: str


class Answer(msgspec.Struct, gc=False):
    """The argument of a ``response``; an absent ``response`` is null."""

    id: str
    response: Raw = Raw(b"null")


class _Error(msgspec.Struct):
    code: str
    message: str = ""
    errorData: Raw = Raw(b"null")


class _Outcome(msgspec.Struct):
    error: Raw = Raw(b"null")


class Credential(msgspec.Struct):
    """The member of the payload of a CONNECT that the hub reads."""

    token: str = ""


_outcome = msgspec.json.Decoder(_Outcome)
_error = msgspec.json.Decoder(_Error)


def quote(text: str) -> bytes:
    """Return *text*, lone surrogates included, as a JSON string in ASCII."""
    return json.dumps(text).encode("ascii")


def error_object(code: str, message: str, data: bytes) -> bytes:
    """Return an error as a JSON object; *data* is the JSON text of its ``errorData``."""
    return b'{"code":%b,"message":%b,"errorData":%b}' % (quote(code), quote(message), data)


def failed_response(error: BrokerError, target: str, id: str) -> bytes:
    """Return the ``response`` to the request *id* to the service *target*, which failed with *error*.

    "Any truthy response.error rejects the caller's promise with that value."
    """
    if isinstance(error, CalleeFailed):
        text = error_object(error.code, error.message, error.data or b"{}")
    else:
        data = b'{"targetService":%b,"requestID":%b}' % (quote(target), quote(id))
        text = error_object(ERROR_CODES.get(error.code, error.code), _error_message(error, target), data)
    return b'{"error":%b}' % text


def connect_error(error: BrokerError, name: str) -> bytes:
    """Return the payload of the CONNECT_ERROR that refuses the service *name*."""
    code = ERROR_CODES.get(error.code, error.code)
    text = error_object(code, _error_message(error, name), b'{"serviceName":%b}' % quote(name))
    return b'{"message":%b,"data":%b}' % (quote(code), text)


def _error_message(error: BrokerError, target: str) -> str:
    if error.code == "UNAUTHENTICATED" and error.explanation:
        return error.explanation
    template = ERROR_MESSAGES.get(error.code, "")
    return template.format(target=target) if template else error.message


def failure_in(response: bytes) -> CalleeFailed | None:
    """Return the error in *response*, or None when it is a result: it has no truthy member ``error``."""
    try:
        error = decode(_outcome, response).error
    except Invalid:
        return None
    if bytes(error) in FALSY:
        return None
    try:
        found = decode(_error, error)
    except Invalid:
        return CalleeFailed(ERROR_CODES["INTERNAL"], bytes(error).decode())
    data = bytes(found.errorData)
    return CalleeFailed(found.code, found.message, None if data in NULLS else data)
