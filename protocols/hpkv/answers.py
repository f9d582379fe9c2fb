"""What goes back to a client: answers, errors and notifications, as bytes.

The client takes an answer for its request when ``messageId`` is the same JSON
number, and for a success when ``code`` is the number 200.
"""

from __future__ import annotations

import msgspec

from broker.errors import BrokerError, NotFound
from broker.messages import Entry, Event, Frame, text_frame
from protocols.hpkv.operation import Operation, record_limit

MAX_ANSWER_BYTES = 1 << 20  # of the records of one answer

# The code and the text of the dialect, by the code of the core.
ERRORS = {
    "NOT_FOUND": (404, "Record not found"),
    "UNAUTHENTICATED": (403, "Access denied"),
    "DENIED": (403, "Access denied"),
    "TOO_LARGE": (400, "Value too large"),
    "RATE_LIMITED": (429, "Rate limit exceeded"),
}

encode = msgspec.json.Encoder().encode


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
    done = b"inserted" if entry.revision == 1 else b"updated"
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
