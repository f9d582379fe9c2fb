"""Frames as they stand on the wire: one JSON object each, ``{type, id?, payload, …}``.

The payload is never decoded: the exact bytes that came are the bytes that go.
"""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

import msgspec

from broker.answers import milliseconds
from broker.errors import Invalid
from broker.jsontext import ERRORS, overflows, read_fields, read_items
from broker.jsontext import decode as decode_leniently
from broker.messages import (
    MAX_TIME,
    Delivery,
    Entry,
    Event,
    Frame,
    Loss,
    Mail,
    Request,
    long_text_frame,
    previous_value,
    revision_of,
    text_frame,
)
from broker.patterns import QUEUE

ABSENT = msgspec.Raw(b"")


class Envelope(msgspec.Struct, gc=False):
    """A frame of a client.

    Attributes:
        type: what it is; a frame that does not say so is a queued message.
        timeout: milliseconds, 0 for no limit; None when it does not say.
        dt: the sender's clock in milliseconds since 1970; 0 when it does not say.
        payload: JSON text, or empty when there is none.
    """

    type: str = "message"
    id: str = ""
    method: str = ""
    event: str = ""
    recipient: str = ""
    stage: str | None = None
    timeout: Annotated[float, msgspec.Meta(ge=0)] | None = None
    dt: Annotated[float, msgspec.Meta(ge=0, le=MAX_TIME * 1000)] = 0.0
    payload: msgspec.Raw = ABSENT


class _Payload(msgspec.Struct):
    """What the broker looks at in the payload of a request."""

    action: str = ""


decode = msgspec.json.Decoder(Envelope).decode
encode = msgspec.json.Encoder().encode
_payload = msgspec.json.Decoder(_Payload)
_checked = msgspec.json.Decoder(msgspec.Raw)  # takes a tenth of the time that a list of the items does

PONG = b'{"type":"pong"}'
BROKER_JSON = b'"broker"'

# The id, method, arguments, timeout, caller and callee of a call, and the time; texts as JSON.
CALL = b'{"type":"call","id":%b,"method":%b,"payload":%b,"timeout":%d,"sender":%b,"recipient":%b,"dt":%d}'

# The id of the call or request, the payload, the sender, each as JSON, and the time.
RESULT = b'{"type":"result","id":%b,"payload":%b,"sender":%b,"dt":%d}'
RESPONSE = b'{"type":"response","id":%b,"payload":%b,"sender":%b,"dt":%d}'
ERROR = b'{"type":"error","id":%b,"payload":%b,"sender":%b,"dt":%d}'

# The pattern, the topic as a member or nothing, the id; the sender, the time, the name, more members or nothing.
EVENT_HEAD = b'{"type":"event","event":%b%b,"id":%b,"payload":'
EVENT_TAIL = b',"sender":%b,"dt":%d,"name":%b%b}'
EVENT = EVENT_HEAD + b"%b" + EVENT_TAIL

BEGINNING = 8  # bytes of an object: its bracket, and some of its first name with the quote
LONG = 1 << 16  # bytes of a payload that is not copied more often than need be


def read(data: bytes) -> tuple[Envelope, str]:
    """Return the envelope of *data*, which ``decode`` refuses, and the first field that is wrong, or "".

    An array is a queued message, with itself as the payload.  A field that is
    null is missing.

    Raises:
        Invalid: it is neither an object nor an array.
    """
    if data[:1] == b"[":
        try:
            _checked.decode(data)
        except ERRORS:
            read_items(data)
        return Envelope(payload=msgspec.Raw(data)), ""
    if data[:1] != b"{":
        # "Everything else (also a leading blank) is ignored without trace."
        raise Invalid("text")
    envelope, wrong = read_fields(Envelope, data)
    # "dt = the client's if a number, else broker time": nothing else is wrong with it.
    named = (name for name, text in wrong.items() if name != "dt" and bytes(text) != b"null")
    return envelope, next(named, "")


def checked_payload(envelope: Envelope) -> bytes:
    """Return the payload as JSON text, b"" when there is none.

    Raises:
        Invalid: it has a number that JavaScript would read as ``Infinity``.
    """
    raw: msgspec.Raw | bytes = envelope.payload
    if type(raw) is bytes:
        return raw  # the accelerator has found no such number
    payload = bytes(raw)
    if overflows(payload):
        raise Invalid("payload")
    return payload


def action(payload: bytes) -> str:
    """Return the topic of a request: "payload.action if it is a string"."""
    try:
        return decode_leniently(_payload, payload).action
    except Invalid:
        return ""


def call(id: str, method: str, body: bytes, timeout: int, caller: str, callee: bytes, dt: int) -> bytes:
    """Return a call on its way to *callee*, as JSON, as are *body*, the arguments, and *callee*; times are in ms."""
    return CALL % (encode(id), encode(method), body, timeout, encode(caller), callee, dt)


def result(id: str, body: bytes, sender: str, dt: int) -> bytes:
    """Return the result *body*, JSON, of the call *id*, at *dt* ms."""
    return RESULT % (encode(id), body, encode(sender), dt)


def request(request: Request, recipient: bytes, dt: int) -> bytes:
    """Return a streamed request on its way to *recipient*, who takes it, as JSON."""
    return b'{"type":"request","id":%b,"payload":%b,"sender":%b,"recipient":%b,"dt":%d}' % (
        encode(request.id),
        request.body,
        encode(request.caller),
        recipient,
        dt,
    )


def failure(marshalled: str, streamed: bool, retry_after: float = 0.0) -> tuple[bytes, bytes]:
    """Return form and payload of what tells that a call, or a *streamed* request, has failed.

    An ``error`` frame to a requester would crash it: it has no call of that id.
    *retry_after* is the number of seconds after which to try again; 0: nobody knows.
    """
    form, payload = (RESPONSE, encode({"error": marshalled})) if streamed else (ERROR, encode(marshalled))
    if retry_after:
        form = form[:-1] + b',"retry_after":%b}' % encode(retry_after)
    return form, payload


def auth(stage: str | None, payload: Any) -> bytes:
    """Return the answer to an ``auth`` frame; stage None is the failure."""
    return encode({"type": "auth", "stage": stage, "payload": payload})


def notice(marshalled: str, about: Envelope, retry_after: float = 0.0) -> bytes:
    """Return what tells of an error that has no other way back; *retry_after* as for ``failure``.

    ``system`` frames reach only ``listen`` listeners and can not throw.
    """
    ref = {"type": about.type}
    if about.event:
        ref["event"] = about.event
    if about.id:
        ref["id"] = about.id
    hint = {"retry_after": retry_after} if retry_after else {}
    return encode({"type": "system", "event": "broker.error", "payload": {"error": marshalled, **hint, "ref": ref}})


def cancelled(id: str) -> bytes:
    """Return what tells a client that the call or request *id*, which it has to answer, was cancelled."""
    return encode({"type": "system", "event": "broker.cancel", "id": id})


def expiring(seconds: float, now: float) -> bytes:
    """Return what tells a client at the time *now* that its credential ends in *seconds*: it may show another.

    No ``auth`` frame: a client that waits for the answer to its own would take that for it.
    """
    payload = {"expires": milliseconds(now + seconds), "left": milliseconds(seconds)}
    return encode({"type": "system", "event": "broker.expiring", "payload": payload})


def entry_of(key: str, entry: Entry | None) -> dict[str, Any]:
    """Return the entry of *key* as an answer shows it; a missing one has the value null and the revision 0."""
    if entry is None:
        return {"key": key, "value": None, "revision": 0}
    answer = {"key": key, "value": entry.value.decode("utf-8", "replace"), "revision": entry.revision}
    # What expires after all time that a client can name does not expire.
    return {**answer, "expires": milliseconds(entry.expires)} if 0 < entry.expires <= MAX_TIME else answer


def mail(mail: Mail) -> bytes:
    """Return a queued message; its sender's own id, if any, passes unchanged."""
    ref = b',"id":' + encode(mail.ref) if mail.ref else b""
    return b'{"type":"message","payload":%b%b,"sender":%b,"dt":%d}' % (
        mail.body,
        ref,
        encode(mail.source),
        milliseconds(mail.time),
    )


def job(job: Delivery) -> bytes:
    """Return a job that is to be done: its ``id`` is that of the delivery, ``ref`` the sender's own."""
    ref = b',"ref":' + encode(job.ref) if job.ref else b""
    lease = int(job.lease) if job.lease == int(job.lease) else job.lease
    return b'{"type":"message","id":%b%b,"queue":%b,"delivery":%d,"lease":%b,"payload":%b,"sender":%b,"dt":%d}' % (
        encode(job.id),
        ref,
        encode(job.queue.removeprefix(QUEUE)),
        job.delivery,
        encode(lease),
        job.body,
        encode(job.source),
        milliseconds(job.time),
    )


def event(event: Event, pattern: str, cursor: str = "") -> Frame:
    """Return *event* as it comes by the subscription to *pattern*, with the *cursor* that acknowledges it, if any.

    ``observe`` takes exact names only: what came by a pattern is named by the
    pattern, and ``topic`` has the real name.  All copies of one event that a node sends have
    the same ``id``, so that listeners can drop duplicates; that of a stored one
    counts within its topic, and ``eventId`` is what no other event has.
    """
    topic = b"" if pattern == event.topic else b',"topic":' + encode(event.topic)
    stored = b',"from":' + encode(event.author) if event.author else b""
    if event.content_type:
        stored += b',"content_type":' + encode(event.content_type)
    if event.binary:
        stored += b',"encoding":"base64"'
    if event.expires:
        stored += b',"expires":%d' % milliseconds(event.expires)
    if event.id:
        stored += b',"epoch":%b,"eventId":%b' % (encode(event.epoch), encode(f"{event.epoch}:{event.topic}:{event.id}"))
    if cursor:
        stored += b',"cursor":' + encode(cursor)
    body = b"{}" if event.body is None else event.json
    fields = (
        encode(pattern),
        topic,
        encode(event.id or event.render(_new_id)),
        body,
        encode(event.source),
        milliseconds(event.time),
        encode(event.name),
        stored,
    )
    if len(body) > LONG:
        return long_text_frame(EVENT_HEAD % fields[:3], body, EVENT_TAIL % fields[4:])
    return text_frame(EVENT % fields)


def change(made: Event, pattern: str) -> Frame:
    """Return the change of a key as ``event`` does, with its revision."""
    return _with_members(made, pattern, b"")


def change_with_previous(made: Event, pattern: str) -> Frame:
    """Return the same with the value before, if that is known; null: the key was missing."""
    known, value = previous_value(made)
    text = encode(None if value is None else value.decode("utf-8", "replace"))
    return _with_members(made, pattern, b',"previous":' + text if known else b"")


def _with_members(made: Event, pattern: str, members: bytes) -> Frame:
    frame: Frame = made.render(event, pattern)
    revision = revision_of(made)
    if not (revision and made.body):
        return frame  # a node of an older version has made it
    payload = frame.payload
    # An object begins so nowhere else: in the names before it, which are strings, its quotes would be escaped.  To look
    # for all of a long one takes longer than to write it.
    end = payload.index(made.body[:BEGINNING], 1) + len(made.body) - 1
    return text_frame(b'%b,"revision":%d%b%b' % (payload[:end], revision, members, payload[end:]))


def gap(topic: str, count: int) -> bytes:
    """Return what tells that *count* events of *topic*, which are not stored, were dropped."""
    return encode({"type": "system", "event": "broker.gap", "payload": {"topic": topic, "count": count}})


def gap_of_changes(topic: str, why: str) -> bytes:
    """Return what tells that changes of keys, or stored events, were missed: of *topic*, a name or a pattern."""
    return encode({"type": "system", "event": "broker.gap", "payload": {"topic": topic, "why": why}})


def gap_of(loss: Loss) -> bytes:
    """Return what tells that stored events can not be had any more."""
    payload = {"topic": loss.topic, "epoch": loss.epoch, **lost(loss)}
    return encode({"type": "system", "event": "broker.gap", "payload": payload})


def lost(loss: Loss) -> dict[str, Any]:
    """Return what a subscription can not begin with any more, both ids included."""
    return {"from": loss.first, "to": loss.last, "why": loss.why}


def stored_event(event: Event) -> dict[str, Any]:
    """Return *event*, which is stored, as an answer shows it."""
    more: dict[str, Any] = {"from": event.author} if event.author else {}
    if event.content_type:
        more["content_type"] = event.content_type
    if event.binary:
        more["encoding"] = "base64"
    if event.expires:
        more["expires"] = milliseconds(event.expires)
    return {
        "topic": event.topic,
        "id": event.id,
        "epoch": event.epoch,
        "name": event.name,
        "payload": msgspec.Raw(event.json),
        "sender": event.source,
        **more,
        "time": milliseconds(event.time),
    }


def _new_id(event: Event) -> str:
    return str(uuid4())
