"""The frames of the wire as types: what ``docs/asyncapi.json`` is made of.

``wire`` and ``outgoing`` write and read the same frames without them, for speed; tests compare the two.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

import attrs
import msgspec
from msgspec import UNSET, UnsetType

from protocols.owlmeans.wire import Envelope

Milliseconds: TypeAlias = Annotated[int, msgspec.Meta(ge=0, description="milliseconds since 1970")]
Seconds: TypeAlias = Annotated[float, msgspec.Meta(gt=0, description="seconds after which to try again")]
Text: TypeAlias = str | UnsetType


@attrs.frozen
class SentFrame:
    """A type of frame that clients send; its fields are those of ``Envelope``.

    Attributes:
        meaning: what it does.
        needed: fields that must be there.
        more: fields that may be there.
        answers: the types of frames that answer it.
    """

    meaning: str
    needed: tuple[str, ...] = ()
    more: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()


SENT = {
    "call": SentFrame(
        "Call a method: of the broker, of the recipient, or of whoever performs it.",
        ("id", "method"),
        ("payload", "recipient", "timeout", "dt"),
        ("result", "error"),
    ),
    "result": SentFrame("Answer a call.", ("id",), ("payload", "dt")),
    "error": SentFrame("Answer a call or a request with an error.", ("id",), ("payload", "dt")),
    "request": SentFrame("Ask for a stream of responses.", ("id",), ("payload", "recipient", "dt"), ("response",)),
    "response": SentFrame("Give one response to a request.", ("id",), ("payload", "dt")),
    "event": SentFrame("Publish an event; only a failure is answered.", ("event",), ("payload", "dt")),
    "message": SentFrame(
        "Send a message to the mailbox of a client, or to a work queue; only a failure is answered.",
        ("recipient",),
        ("id", "payload", "dt"),
    ),
    "ping": SentFrame("Ask for a pong.", answers=("pong",)),
    "auth": SentFrame("Authenticate.", ("stage",), ("payload",), ("auth",)),
}
ENVELOPE = {field.name: field for field in msgspec.structs.fields(Envelope)}


class Frame(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """A frame that the broker sends."""


class Answer(Frame):
    """What all answers have.

    Attributes:
        id: that of what is answered.
        sender: the client id of who answers, or ``broker``.
    """

    id: str
    sender: str
    dt: Milliseconds


class Result(Answer):
    """The result of a call."""

    type: Literal["result"]
    payload: Any


class Error(Answer):
    """A call has failed; the payload is ``type|||message|||``, with the stack of the callee where that is passed."""

    type: Literal["error"]
    payload: str
    retry_after: Seconds | UnsetType = UNSET


class Response(Answer):
    """One response to a request; one whose payload is ``{"error"}`` is the last."""

    type: Literal["response"]
    payload: Any
    retry_after: Seconds | UnsetType = UNSET


class Call(Frame):
    """A call that the client performs; it answers with ``result`` or ``error``, by the ``id``."""

    type: Literal["call"]
    id: str
    method: str
    payload: list[Any]
    timeout: Annotated[int, msgspec.Meta(ge=0, description="milliseconds; 0: no limit")]
    sender: str
    recipient: str
    dt: Milliseconds


class Request(Frame):
    """A request that the client takes; it answers with ``response`` frames, by the ``id``."""

    type: Literal["request"]
    id: str
    payload: Any
    sender: str
    recipient: str
    dt: Milliseconds


class Event(Frame):
    """An event; ``event`` is the name or the pattern that it was subscribed to by."""

    type: Literal["event"]
    event: str
    id: str | int
    payload: Any
    sender: str
    dt: Milliseconds
    name: str
    topic: Text = UNSET
    author: str | UnsetType = msgspec.field(name="from", default=UNSET)
    content_type: Text = UNSET
    encoding: Literal["base64"] | UnsetType = UNSET
    expires: Milliseconds | UnsetType = UNSET
    epoch: Text = UNSET
    eventId: Text = UNSET
    cursor: Text = UNSET


class Mail(Frame):
    """A message of the client's mailbox, or of a work queue that it consumes without acknowledging."""

    type: Literal["message"]
    payload: Any
    sender: str
    dt: Milliseconds
    id: Text = UNSET


class Job(Frame):
    """A job of a work queue, which the client acknowledges by its ``id``; ``ref`` is the sender's own."""

    type: Literal["message"]
    id: str
    queue: str
    delivery: Annotated[int, msgspec.Meta(ge=1)]
    lease: Annotated[float, msgspec.Meta(gt=0, description="seconds")]
    payload: Any
    sender: str
    dt: Milliseconds
    ref: Text = UNSET


class Pong(Frame):
    """The answer to a ping."""

    type: Literal["pong"]


class Auth(Frame):
    """The answer to an ``auth`` frame; a ``stage`` of null is the failure."""

    type: Literal["auth"]
    stage: str | None
    payload: Any


class Reference(Frame):
    """The frame that a notice is about."""

    type: str
    event: Text = UNSET
    id: Text = UNSET


class Failure(Frame):
    """What has failed; the error is ``type|||message|||``."""

    error: str
    ref: Reference
    retry_after: Seconds | UnsetType = UNSET


class FailureNotice(Frame):
    """Something has failed that has no answer."""

    type: Literal["system"]
    event: Literal["broker.error"]
    payload: Failure


class CancelNotice(Frame):
    """A call or a request that the client has to answer was cancelled."""

    type: Literal["system"]
    event: Literal["broker.cancel"]
    id: str


class Expiry(Frame):
    """When the credential ends, and how many milliseconds that is from now."""

    expires: Milliseconds
    left: Annotated[int, msgspec.Meta(ge=0)]


class ExpiryNotice(Frame):
    """The credential of the client ends soon; it may show another one by ``auth``."""

    type: Literal["system"]
    event: Literal["broker.expiring"]
    payload: Expiry


class Dropped(Frame):
    """So many events of a topic that is not stored were dropped: the client read too slowly."""

    topic: str
    count: Annotated[int, msgspec.Meta(ge=1)]


class Lost(Frame):
    """Stored events that can not be had any more, both ids included; ``to`` is null if that is not known."""

    topic: str
    epoch: str
    first: int = msgspec.field(name="from")
    last: int | None = msgspec.field(name="to")
    why: Literal["retention", "epoch"]


class Missed(Frame):
    """Events of a topic or pattern, or changes of keys, were missed; which, is not known."""

    topic: str
    why: Literal["missed", "epoch"]


class DropNotice(Frame):
    """Events that are not stored were dropped."""

    type: Literal["system"]
    event: Literal["broker.gap"]
    payload: Dropped


class LossNotice(Frame):
    """Stored events are missing."""

    type: Literal["system"]
    event: Literal["broker.gap"]
    payload: Lost


class MissNotice(Frame):
    """Events or changes of keys were missed."""

    type: Literal["system"]
    event: Literal["broker.gap"]
    payload: Missed


RECEIVED: dict[str, type[Frame]] = {
    "result": Result,
    "error": Error,
    "response": Response,
    "call": Call,
    "request": Request,
    "event": Event,
    "mail": Mail,
    "job": Job,
    "pong": Pong,
    "auth": Auth,
    "broker.error": FailureNotice,
    "broker.cancel": CancelNotice,
    "broker.expiring": ExpiryNotice,
    "broker.gap.dropped": DropNotice,
    "broker.gap.lost": LossNotice,
    "broker.gap.missed": MissNotice,
}
