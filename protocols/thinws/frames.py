"""Frames of ThinWS: JSON objects whose members keep their exact texts."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Raw

from broker.errors import Invalid
from broker.jsontext import ERRORS, has_many_members, members
from broker.messages import Event, Frame, text_frame
from broker.patterns import MAX_NAME, check_name, has_control

NAME = "thinws"
MAX_ID_LENGTH = 256  # characters of a connectionID
MAX_NUMBER_LENGTH = 1000  # characters of a number that names something; a longer one is a name too long

Members = Mapping[str, Raw]

_encode = msgspec.json.Encoder().encode
_decode_text = msgspec.json.Decoder(str).decode


class _Known(msgspec.Struct):
    """The members of frames that may be long; of each other one its text is kept apart."""

    message: Raw = Raw(b"")
    payload: Raw = Raw(b"")


def room_frame(event: Event) -> Frame:
    """Return an event as the members of a room are sent it: a ThinWS client's own message as it was written."""
    if event.dialect == NAME and event.original:
        return text_frame(event.original)
    mark = b',"encoding":"base64","content_type":' + _encode(event.content_type) if event.binary else b""
    return text_frame(b'{"type":"message","roomID":%b,"message":%b%b}' % (_encode(event.topic), event.json, mark))


def read(data: bytes, binary: bool) -> Members:
    """Return the members of a frame.

    Raises:
        Invalid: it is not a JSON object in text, or has more members than any client sends.
    """
    try:
        if binary or has_many_members(data, _Known):
            raise Invalid("frame")
        return members(data, numbers=True)
    except Invalid:
        raise Invalid("frame", message="Invalid message") from None


def echo(frame: Members) -> bytes:
    """Return the member messageID of a reply, b"" where the frame has none: "echo unchanged"."""
    return b',"messageID":%b' % frame["messageID"] if "messageID" in frame else b""


def room_of(frame: Members) -> str:
    """Return the topic of the room: "string 1–255 characters …, numbers/true accepted and turned into strings".

    Raises:
        Invalid: it is missing, empty, of another type, too long, or has a control character.
    """
    raw = frame.get("roomID")
    name = "true" if bytes(raw or b"") == b"true" else text_of(raw) or _number(raw)
    if not name:
        raise Invalid("roomID", message="roomID is required")
    if len(name) > MAX_NAME:
        raise Invalid("roomID", message=f"roomID is longer than {MAX_NAME} characters")
    try:
        return check_name(name)
    except Invalid:
        raise Invalid("roomID", message="roomID has a control character") from None


def connection_id(frame: Members) -> str:
    """Return the connectionID: "any non-empty string (≤ 256 chars); a number is turned into its decimal string".

    "" where it is none of these, or has a control character.
    """
    raw = frame.get("connectionID")
    text = text_of(raw) or _number(raw)
    return text if len(text) <= MAX_ID_LENGTH and not has_control(text) else ""


def text_of(raw: Raw | None) -> str:
    """Return the string that *raw* is, or ""."""
    try:
        return _decode_text(raw or b"null")
    except ERRORS:
        return ""


def _number(raw: Raw | None) -> str:
    """Return the number that *raw* is, as JavaScript writes it, or ""."""
    text = bytes(raw or b"")
    if not text or text[0] not in b"-0123456789":
        return ""
    if len(text) > MAX_NUMBER_LENGTH:
        return text.decode("ascii")  # to read a million digits takes as long as a thousand messages
    number = float(text) if set(text) & set(b".eE") else int(text)
    if isinstance(number, float) and (not number.is_integer() or abs(number) >= 1e21):
        return repr(number)
    return str(int(number))
