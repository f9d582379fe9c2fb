"""The frames of the native dialect, as a client writes and reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from broker.client.errors import CallFailed, ClientError, Invalid

T = TypeVar("T")

ABSENT = msgspec.Raw(b"")


class Frame(msgspec.Struct, gc=False):
    """A frame that the broker has sent; what it does not have is empty.

    Attributes:
        id: a text, or the number of a stored event.
        payload: JSON text.
        dt: milliseconds since 1970.
        author: of an event that was posted over ganomede.
        retry_after: seconds after which to try again, of an error.
    """

    type: str = ""
    id: str | int = ""
    method: str = ""
    event: str = ""
    topic: str = ""
    name: str = ""
    sender: str = ""
    stage: str | None = None
    payload: msgspec.Raw = ABSENT
    dt: int = 0
    epoch: str = ""
    cursor: str = ""
    content_type: str = ""
    encoding: str = ""
    queue: str = ""
    delivery: int = 0
    lease: float = 0.0
    ref: str = ""
    timeout: float = 0.0
    retry_after: float = 0.0


_decode = msgspec.json.Decoder(Frame).decode
_encode = msgspec.json.Encoder().encode
_bytes = msgspec.json.Decoder(bytes).decode
value_of = msgspec.json.Decoder().decode

UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)  # what reading a frame or a payload may raise

PING = b'{"type":"ping"}'


def read(data: bytes) -> Frame | None:
    """Return the frame that *data* is; None if it is none."""
    try:
        return _decode(data)
    except UNREADABLE:
        return None


def encode(value: object) -> bytes:
    """Return *value* as JSON text.

    Raises:
        Invalid: it can not be written so.
    """
    try:
        return _encode(value)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise Invalid(f"not JSON: {error}") from None


def reader(kind: type[T]) -> Callable[[bytes], T]:
    """Return what reads a payload as a *kind*."""
    return msgspec.json.Decoder(kind).decode


def payload_of(frame: Frame) -> Any:
    """Return the payload, decoded; bytes if it stands for these."""
    if not frame.payload:
        return None
    return _bytes(frame.payload) if frame.encoding == "base64" else value_of(frame.payload)


def call(id: str, method: str, arguments: bytes, timeout: float, recipient: str = "") -> bytes:
    """Return a call; *timeout* is in seconds, 0 without limit."""
    milliseconds = 0 if not timeout else max(1, int(timeout * 1000))
    addressed = b',"recipient":' + _encode(recipient) if recipient else b""
    head = b'{"type":"call","id":%b,"method":%b,"timeout":%d%b,"payload":'
    return head % (_encode(id), _encode(method), milliseconds, addressed) + arguments + b"}"


def request(id: str, payload: bytes, recipient: str = "") -> bytes:
    """Return a request that is answered by responses."""
    addressed = b',"recipient":' + _encode(recipient) if recipient else b""
    return b'{"type":"request","id":%b%b,"payload":' % (_encode(id), addressed) + payload + b"}"


def answer(kind: str, id: str, payload: bytes) -> bytes:
    """Return the *kind* of answer to a call or request that has come: "result", "response" or "error"."""
    return b'{"type":"%b","id":%b,"payload":' % (kind.encode(), _encode(id)) + payload + b"}"


def auth(token: str) -> bytes:
    """Return what shows a credential."""
    return _encode({"type": "auth", "stage": "authenticate", "payload": {"token": token}})


def marshalled(error: BaseException) -> bytes:
    """Return *error*, which a procedure has raised, as JSON text: its code, if it has one, and its message."""
    code = error.code if isinstance(error, CallFailed) and error.code.isidentifier() else "ResilientError"
    message = error.message if isinstance(error, ClientError) else str(error)
    message = (message or type(error).__name__).replace("|||", "").rstrip("|")
    return _encode(f"{code}|||{message}|||")


def arguments(values: Sequence[object]) -> bytes:
    """Return *values* as the arguments of a call.

    Raises:
        Invalid: one of them can not be written as JSON.
    """
    return encode(list(values))


def options(**values: object) -> list[object]:
    """Return those of *values* that are not None as the last argument of a call; nothing if there are none."""
    given = {name.rstrip("_"): value for name, value in values.items() if value is not None}
    return [given] if given else []
