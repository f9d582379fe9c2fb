"""What the commands for application developers print: lines for people, or JSON, one a line."""

from __future__ import annotations

import sys
from base64 import b64encode
from datetime import UTC, datetime
from typing import Any

import msgspec

from broker.client.values import Event

ESCAPED = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_encode = msgspec.json.Encoder().encode


def emit(text: str) -> None:
    """Print the line *text* at once."""
    print(text.encode("utf-8", "backslashreplace").decode("utf-8"), flush=True)


def emit_json(value: object) -> None:
    """Print *value* as JSON, in one line."""
    emit(as_json(value))


def note(text: str) -> None:
    """Print a line on standard error: of what is not a result."""
    print(f"txbroker: {one_line(text)}", file=sys.stderr, flush=True)


def as_json(value: object) -> str:
    """Return *value* as JSON text in one line; bytes become base64."""
    return _encode(value).decode()


def as_text(value: object) -> str:
    """Return *value* as people read it: text as it is, and anything else as JSON."""
    return value if isinstance(value, str) else as_json(value)


def one_line(text: str) -> str:
    """Return *text* without what would end the line, or control a terminal."""
    return "".join(char if char.isprintable() else ESCAPED.get(char) or ascii(char)[1:-1] for char in text)


def for_terminal(text: str) -> str:
    """Return *text* as it is for programs, and without what would control a terminal for people."""
    if not sys.stdout.isatty():
        return text
    return "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in text)


def event_as_dict(event: Event) -> dict[str, Any]:
    """Return what an event has, without what is empty; a payload of bytes is told as ``encoding``."""
    told: dict[str, Any] = {"topic": event.topic, "name": event.name, "payload": event.payload}
    if isinstance(event.payload, bytes):
        told |= {"payload": b64encode(event.payload).decode(), "encoding": "base64"}
    more = {name: getattr(event, name) for name in ("id", "epoch", "sender", "time", "cursor", "content_type")}
    return told | {name: value for name, value in more.items() if value}


def event_as_line(event: Event) -> str:
    """Return an event in one line: time, topic, place, name if it has one of its own, and payload."""
    words = [moment(event.time), event.topic, f"{event.epoch}:{event.id}" if event.id else "-"]
    if event.name != event.topic:
        words.append(f"({event.name})")
    return "  ".join(one_line(word) for word in (*words, as_text(event.payload)))


def moment(milliseconds: int) -> str:
    """Return a time as people read it, in UTC."""
    if not milliseconds:
        return "-"
    try:
        when = datetime.fromtimestamp(milliseconds / 1000, UTC)
    except (ValueError, OverflowError, OSError):  # after the year 9999, or before the first
        return f"{milliseconds} ms"
    return when.strftime("%Y-%m-%dT%H:%M:%S.") + f"{milliseconds % 1000:03}Z"
