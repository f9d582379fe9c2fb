"""Frames as they stand on the wire: what the client asks, and what it is answered and notified of.

``Operation`` holds what a frame of the client says: which operation, on which key, with which
value.  The functions below check it, and raise ``Invalid`` with the dialect's text.

The client takes an answer for its request when ``messageId`` is the same JSON number, and
for a success when ``code`` is the number 200.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw, UnsetType

from broker.errors import BrokerError, Invalid, NotFound
from broker.jsontext import ERRORS as DECODE_ERRORS
from broker.jsontext import overflows, read_fields
from broker.messages import Entry, Event, Frame, text_frame
from broker.patterns import MAX_KEY_BYTES
from broker.patterns import check_key as check_any_key

DEFAULT_RECORDS = 100  # of a RANGE that names no limit
MAX_RECORDS = 1000  # records of any RANGE
MAX_ANSWER_BYTES = 1 << 20  # of the records of one answer

# The code and the text of the dialect, by the code of the core.
ERRORS = {
    "NOT_FOUND": (404, "Record not found"),
    "UNAUTHENTICATED": (403, "Access denied"),
    "DENIED": (403, "Access denied"),
    "TOO_LARGE": (400, "Value too large"),
    "RATE_LIMITED": (429, "Rate limit exceeded"),
}


class Operation(msgspec.Struct, gc=False):
    """One frame of the client; a member that is missing has its default."""

    op: int = 0
    key: str = ""
    value: Raw = Raw(b"")  # immutable
    endKey: str | UnsetType = UNSET
    limit: int | UnsetType = UNSET
    messageId: Raw = Raw(b"")

    @property
    def id(self) -> bytes:
        """The messageId as the client wrote it."""
        return bytes(self.messageId)

    def forget_value(self) -> None:
        """Refer to nothing of the frame any more: each ``Raw`` keeps all of it."""
        self.value, self.messageId = Raw(b""), Raw(self.id)


encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Operation).decode
_decode_text = msgspec.json.Decoder(str).decode


def read(data: bytes) -> Operation | None:
    """Return the operation of a frame, or None when it is no JSON object.

    Members of a wrong type count as those that are not there.  A messageId with a
    number that is infinite as a double is none: the answer could not hold it.
    """
    try:
        operation = _decode(data)
        id = operation.id
        # Fast path: an integer of at most 308 digits is finite as a double.
        return operation if (len(id) <= 308 and id.isdigit()) or not overflows(id) else None
    except DECODE_ERRORS:
        pass
    try:
        operation, wrong = read_fields(Operation, data)
    except Invalid:
        return None
    if overflows(data):
        return None
    if "limit" in wrong:
        operation.limit = 0  # "Invalid limit", unlike one that is missing
    return operation


def check_key(key: str) -> None:
    """Check the key of a frame.

    Raises:
        Invalid: it is missing, empty, no string or too large.
    """
    if not key:
        raise Invalid("key", message="Key is required")
    if len(key) * 4 <= MAX_KEY_BYTES:  # fast path: no character has more than four bytes
        return
    try:
        check_any_key(key)
    except Invalid:
        raise Invalid("key", message="Key too large") from None


def text_value(operation: Operation) -> bytes:
    """Return the value of a SET or PATCH, "non-empty strings", as UTF-8.

    Raises:
        Invalid: it is missing, empty or no string.
    """
    try:
        value = _decode_text(operation.value or b"null")
    except DECODE_ERRORS:
        value = ""
    if not value:
        raise Invalid("value", message="Value is required")
    return value.encode()


def number_value(operation: Operation) -> bytes:
    """Return the value of an ATOMIC, a JSON number as the client wrote it.

    Raises:
        Invalid: it is missing, no number, or infinite as a double.
    """
    value = bytes(operation.value)
    if not value or value[0] not in b"-0123456789" or overflows(value):
        raise Invalid("value", message="Value is not numeric")
    return value


def end_key(operation: Operation) -> str:
    """Return the upper bound of a RANGE.

    Raises:
        Invalid: it is missing, or no string.
    """
    if isinstance(operation.endKey, UnsetType):
        raise Invalid("endKey", message="Invalid range")
    return operation.endKey


def record_limit(operation: Operation) -> int:
    """Return how many records a RANGE may return.

    Raises:
        Invalid: the limit is no positive integer.
    """
    if isinstance(operation.limit, UnsetType):
        return DEFAULT_RECORDS
    if operation.limit < 1:
        raise Invalid("limit", message="Invalid limit")
    return min(operation.limit, MAX_RECORDS)


def text_of(value: bytes) -> str:
    """Return a stored value as text; keys that other dialects set may hold anything."""
    return value.decode("utf-8", "replace")


def tail(id: bytes) -> bytes:
    """Return the end of an answer to the request *id*, its messageId as JSON text; b"": it has none."""
    return b',"messageId":%b}' % id if id else b"}"


def error(failure: BrokerError, id: bytes) -> bytes:
    """Return the answer to a request that failed."""
    if failure.code == "INVALID":
        code, text = 400, failure.message
    else:
        code, text = ERRORS.get(failure.code, (500, "Internal server error"))
    return b'{"code":%d,"error":%b%b' % (code, encode(text), tail(id))


def value(entry: Entry | None, operation: Operation) -> bytes:
    """Return the answer to a GET: "string value back exactly as stored"."""
    if entry is None:
        raise NotFound("key", operation.key)
    text = encode(text_of(entry.value))
    return b'{"code":200,"key":%b,"value":%b%b' % (encode(operation.key), text, tail(operation.id))


def written(entry: Entry, operation: Operation) -> bytes:
    """Return the answer to a SET or PATCH."""
    done = b"inserted" if entry.created else b"updated"
    return b'{"code":200,"success":true,"message":"Record %b"%b' % (done, tail(operation.id))


def deleted(was_there: bool, operation: Operation) -> bytes:
    """Return the answer to a DELETE."""
    if not was_there:
        raise NotFound("key", operation.key)
    return b'{"code":200,"success":true,"message":"Record deleted"%b' % tail(operation.id)


def counted(entry: Entry, operation: Operation) -> bytes:
    """Return the answer to an ATOMIC; what is stored is a JSON number as it stands."""
    return b'{"code":200,"success":true,"key":%b,"newValue":%b%b' % (
        encode(operation.key),
        entry.value,
        tail(operation.id),
    )


def records(entries: list[tuple[str, Entry]], operation: Operation) -> bytes:
    """Return the answer to a RANGE: as many of *entries* as were asked for and fit.

    The first is sent however long it is: a client goes on behind the last that it got.
    """
    made: list[bytes] = []
    size = 0
    for key, entry in entries[: record_limit(operation)]:
        record = b'{"key":%b,"value":%b}' % (encode(key), encode(text_of(entry.value)))
        size += len(record)
        if made and size > MAX_ANSWER_BYTES:
            break
        made.append(record)
    truncated = b"true" if len(made) < len(entries) else b"false"
    return b'{"code":200,"records":[%b],"count":%d,"truncated":%b%b' % (
        b",".join(made),
        len(made),
        truncated,
        tail(operation.id),
    )


def notification(event: Event) -> Frame:
    """Return the notification of a change; the body of its event holds key, value and timestamp."""
    assert event.body is not None
    return text_frame(b'{"type":"notification",' + event.body[1:])
