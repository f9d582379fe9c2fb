"""Events as bytes: as Redis stores them, and as they travel between nodes.

A stored event is a *record*: its time and the length of its head as decimal
text, the head, and the body as it is.  In a *message*, id and epoch go before the
record (or 0 and a number that no other message has, when the event is not
stored), then the *extras*: origin, dialect and original, which matter to subscribers
and not to readers of the log.  The script of the store adds a dot and the mark to the epoch.
"""

from __future__ import annotations

from typing import Any

import msgspec

from broker.messages import Event, decode_text, encode_text
from broker.remembered import remembered

EPOCH_LENGTH = 16  # characters, as the store makes them
REVISION_LENGTH = 16  # digits of one that the script puts into a message

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def encode_record(event: Event, time: float) -> bytes:
    """Return *event* as a record with *time*, in seconds since the epoch."""
    body = event.body
    more: tuple[Any, ...] = (event.author,) if event.author else ()
    if event.content_type or event.expires or event.exclude or event.binary:
        more = event.author, event.content_type, event.expires
        if event.exclude or event.binary:
            more = *more, event.exclude
        if event.binary:
            more = *more, True
    head = _encode_head(event.topic, event.name, event.source, body is not None, *more)
    return b"%b %d %b%b" % (repr(time).encode(), len(head), head, body or b"")


def encode_extras(event: Event) -> bytes:
    """Return the extras of *event*, with their length before them."""
    if event.original:
        extras = _encode((event.origin, event.dialect, event.original))
        return b"%d %b" % (len(extras), extras)
    return _extras_without_original(event.origin, event.dialect)


@remembered(4096)
def _extras_without_original(origin: str, dialect: str) -> bytes:
    extras = _encode((origin, dialect, b""))
    return b"%d %b" % (len(extras), extras)


def encode_message(event: Event, id: int, stamp: bytes) -> bytes:
    """Return *event* as a message; *stamp* is its epoch if it is stored, else a number of its own."""
    return b"%d %b %b%b" % (id, stamp, encode_extras(event), encode_record(event, event.time))


def message_head(stamp: bytes) -> bytes:
    """Return what the message of an event that is not stored has before the extras."""
    return b"0 %b " % stamp


@remembered(4096)
def open_extras(origin: str, dialect: str) -> bytes:
    """Return the extras up to their last part, which has 16 bytes; see ``keys.lua``."""
    extras = _encode((origin, dialect, bytes(REVISION_LENGTH)))
    return b"%d %b" % (len(extras), extras[:-REVISION_LENGTH])


def decode_stored(id: int, epoch: str, record: bytes, mark: bytes = b"", extras: bytes = b"") -> Event:
    """Return the event of an entry of a log, which is the same as that of its message."""
    event = _decode_record(record, id, epoch)
    if extras:
        _decode_extras(event, extras.partition(b" ")[2])
    return event


def decode_message(message: bytes) -> Event:
    """Return the event of *message*."""
    number, stamp, size, rest = message.split(b" ", 3)
    id, length = int(number), int(size)
    event = _decode_record(rest[length:], id, stamp[:EPOCH_LENGTH].decode() if id else "")
    _decode_extras(event, rest[:length])
    return event


def _decode_extras(event: Event, extras: bytes) -> None:
    event.origin, event.dialect, event.original = _decode(extras)


def mark_of(message: bytes) -> tuple[str, int]:
    """Return epoch and mark of the *message* of a stored event; 0 for the mark if it says none."""
    epoch, _, mark = message.split(b" ", 2)[1].partition(b".")
    return epoch.decode(), int(mark or 0)


def _decode_record(record: bytes, id: int, epoch: str) -> Event:
    time, size, rest = record.split(b" ", 2)
    length = int(size)
    topic, name, source, has_body, *more = _decode(rest[:length])
    body = rest[length:] if has_body else None
    event = Event(_decode_string(topic), _decode_string(name), body, _decode_string(source), float(time), id, epoch)
    if more:
        event.author = _decode_string(more[0])
    if len(more) > 1:
        event.content_type, event.expires = _decode_string(more[1]), more[2]
    if len(more) > 3:
        event.exclude = tuple(map(_decode_string, more[3]))
    event.binary = len(more) > 4
    return event


def _encode_head(*values: Any) -> bytes:
    try:
        return _encode(values)
    except UnicodeEncodeError:
        # Bytes stand for a string that is no valid Unicode; no other bytes are packed here.
        return _encode(_with_bytes(values))


def _with_bytes(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_with_bytes, value))
    return encode_text(value) if isinstance(value, str) else value


def _decode_string(value: Any) -> str:
    return decode_text(value) if type(value) is bytes else value
