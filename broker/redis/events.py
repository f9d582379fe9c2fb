"""Events as bytes: as Redis stores them, and as they travel between nodes.

A stored event is a *record*: its time and the length of its head as decimal
text, the head, and the body as it is.  In a *message*, id and epoch go before the
record (or 0 and a number that no other message has, when the event is not
stored), then the *news*: what only those who hear of it at once need to know.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec

from broker.messages import Event

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def pack(text: str) -> bytes:
    """Return any string, even one with half a surrogate pair, as UTF-8."""
    return text.encode("utf-8", "surrogatepass")


def unpack(data: bytes) -> str:
    """Undo :func:`pack`."""
    return data.decode("utf-8", "surrogatepass")


def _strings(*values: str | bytes | bool) -> bytes:
    try:
        return _encode(values)
    except UnicodeEncodeError:
        # Bytes stand for a string that is no valid Unicode; no other bytes come at these places.
        return _encode([pack(value) if isinstance(value, str) else value for value in values])


def _text(value: Any) -> str:
    return unpack(value) if type(value) is bytes else value


def record(event: Event, time: float) -> bytes:
    """Return what is stored of *event*."""
    body = event.body
    head = _strings(event.topic, event.name, event.source, body is not None)
    return b"%b %d %b%b" % (repr(time).encode(), len(head), head, body or b"")


def event_of(record: bytes, id: int, epoch: str) -> Event:
    """Return the event of a record."""
    time, size, rest = record.split(b" ", 2)
    length = int(size)
    topic, name, source, has_body = _decode(rest[:length])
    body = rest[length:] if has_body else None
    return Event(_text(topic), _text(name), body, _text(source), float(time), id, epoch)


def news(event: Event) -> bytes:
    """Return what goes before the record in a message."""
    if event.original:
        tail = _encode((event.origin, event.dialect, event.original))
        return b"%d %b" % (len(tail), tail)
    return _plain_news(event.origin, event.dialect)


@lru_cache(maxsize=4096)
def _plain_news(origin: str, dialect: str) -> bytes:
    tail = _encode((origin, dialect, b""))
    return b"%d %b" % (len(tail), tail)


def message(event: Event, id: int, stamp: bytes) -> bytes:
    """Return *event* as a message; *stamp* is its epoch if it is stored, else a number of its own."""
    return b"%d %b %b%b" % (id, stamp, news(event), record(event, event.time))


def stored_event(id: int, epoch: str, record: bytes, mark: bytes = b"", news: bytes = b"") -> Event:
    """Return the event of what is stored with it: those who catch up get it as those who heard it at once."""
    event = event_of(record, id, epoch)
    if news:
        event.origin, event.dialect, event.original = _decode(news.partition(b" ")[2])
    return event


def event_from(message: bytes) -> Event:
    """Return the event of a message."""
    number, stamp, size, rest = message.split(b" ", 3)
    id, length = int(number), int(size)
    event = event_of(rest[length:], id, stamp.decode() if id else "")
    event.origin, event.dialect, event.original = _decode(rest[:length])
    return event
