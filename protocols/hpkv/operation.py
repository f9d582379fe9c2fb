"""One frame of the client: which operation, on which key, with which value.

``Operation`` holds what the frame says; the functions below check it, and raise
``Invalid`` with the dialect's text.
"""

from __future__ import annotations

import msgspec
from msgspec import UNSET, Raw, UnsetType

from broker.errors import Invalid
from broker.jsontext import ERRORS, overflows, read_fields

MAX_KEY_BYTES = 1024  # of a key, as UTF-8
DEFAULT_RECORDS = 100  # of a RANGE that names no limit
MAX_RECORDS = 1000  # records of any RANGE


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
    except ERRORS:
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
    # No character has more than four bytes.
    if len(key) * 4 > MAX_KEY_BYTES and len(key.encode()) > MAX_KEY_BYTES:
        raise Invalid("key", message="Key too large")


def text_value(operation: Operation) -> bytes:
    """Return the value of a SET or PATCH, "non-empty strings", as UTF-8.

    Raises:
        Invalid: it is missing, empty or no string.
    """
    try:
        value = _decode_text(operation.value or b"null")
    except ERRORS:
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
