"""One frame of the client: which operation, on which key, with what.

``Operation.key`` and its like are as they came; the functions below say whether
they will do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Raw, UnsetType

from broker.errors import Invalid
from broker.jsontext import members, overflows

KEY_BYTES = 1024  # of a key
LIMIT = 100  # records of a RANGE that names no limit
MAX_RECORDS = 1000  # records of any RANGE


class Operation(msgspec.Struct, gc=False):
    """One frame of the client; what it does not say has its default."""

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
_decode_integer = msgspec.json.Decoder(int).decode


def read(data: bytes) -> Operation | None:
    """Return the operation of a frame, or None when it is no JSON object.

    Members of a wrong type count as those that are not there.  A messageId with a
    number that is infinite as a double is none: the answer could not hold it.
    """
    try:
        operation = _decode(data)
        # No shorter number is infinite.
        return None if len(operation.id) > 4 and overflows(operation.id) else operation
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass
    try:
        found = members(data, numbers=True)
    except Invalid:
        return None
    return Operation(
        op=_as(_decode_integer, found.get("op"), 0),
        key=_as(_decode_text, found.get("key"), ""),
        value=found.get("value", Raw(b"")),
        endKey=_as(_decode_text, found.get("endKey"), UNSET),
        limit=_as(_decode_integer, found["limit"], 0) if "limit" in found else UNSET,
        messageId=found.get("messageId", Raw(b"")),
    )


def _as(decode: Callable[[Raw], Any], raw: Raw | None, otherwise: Any) -> Any:
    try:
        return otherwise if raw is None else decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return otherwise


def check_key(key: str) -> None:
    """Refuse a key that is none.

    Raises:
        Invalid: it is missing, empty, no string or too large.
    """
    if not key:
        raise Invalid("key", message="Key is required")
    # No character has more than four bytes.
    if len(key) * 4 > KEY_BYTES and len(key.encode()) > KEY_BYTES:
        raise Invalid("key", message="Key too large")


def text_value(operation: Operation) -> bytes:
    """Return the value of a SET or PATCH, "non-empty strings"."""
    value: str = _as(_decode_text, operation.value, "")
    if not value:
        raise Invalid("value", message="Value is required")
    return value.encode()


def number_value(operation: Operation) -> bytes:
    """Return the value of an ATOMIC, a number, as the client wrote it."""
    value = bytes(operation.value)
    if not value or value[0] not in b"-0123456789" or overflows(value):
        raise Invalid("value", message="Value is not numeric")
    return value


def end_key(operation: Operation) -> str:
    """Return the upper bound of a RANGE."""
    if isinstance(operation.endKey, UnsetType):
        raise Invalid("endKey", message="Invalid range")
    return operation.endKey


def record_limit(operation: Operation) -> int:
    """Return how many records a RANGE may return."""
    if isinstance(operation.limit, UnsetType):
        return LIMIT
    if operation.limit < 1:
        raise Invalid("limit", message="Invalid limit")
    return min(operation.limit, MAX_RECORDS)
