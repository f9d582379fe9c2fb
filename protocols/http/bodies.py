"""Bodies of events as they are, whatever they are: published, and read one by one."""

from __future__ import annotations

import re
from typing import Any

from broker.answers import milliseconds
from broker.errors import NotFound
from broker.jsontext import is_json_type
from broker.messages import Event, Position, Response
from broker.patterns import check_name
from protocols.http.answers import answer, etag
from protocols.http.operations import Call, Operation
from protocols.http.requests import JSON, check_coding, json_body, position
from protocols.http.topics import PublishQuery, Stored

OCTETS = "application/octet-stream"
ANY = ("*/*",)
MEDIA_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+( *;[\x20-\x7e]*)?")  # RFC 9110, 8.3.1
# Anybody may have published it: no page of this origin is to be made of it.
HARMLESS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "sandbox; default-src 'none'"),
    ("Content-Disposition", "attachment"),
)


async def publish(call: Call) -> Response:
    """Publish what was sent as the body of an event; answer with where it is stored."""
    request, query, topic = call.request, call.query, call.name
    media = call.header("content-type") or OCTETS
    is_json = is_json_type(media)
    check_coding(request)
    body = json_body(request) if is_json else request.body
    key = call.header("idempotency-key")
    if key:
        check_name(key, "Idempotency-Key")
    name = check_name(query.name if query.name is not None else topic, "name")
    event = await call.peer.publish(
        topic,
        name,
        body or (None if is_json else b""),
        durable=query.durable,
        key=key,
        content_type=media,
        is_json=is_json,
    )
    if not event.id:
        return answer({"delivered": call.peer.receivers(event)}, 202)
    said = {"epoch": event.epoch, "id": event.id, "time": milliseconds(event.time), "duplicate": event.duplicate}
    return answer(said, 201, headers=(etag(event.epoch, event.id),))


async def read(call: Call) -> Response:
    """Answer with the body of one stored event."""
    topic, text = call.names
    wanted = position(text, call.peer.epoch, "position")
    before = Position(wanted.epoch, max(0, wanted.id - 1))
    page = await call.peer.page(topic, after=before, limit=1)
    if not page.events or page.events[0].id != wanted.id:
        raise NotFound("event", text)
    (event,) = page.events
    headers = (etag(event.epoch, event.id), *HARMLESS)
    if event.body is None:
        return Response(204, content_type="", headers=headers)
    return Response(200, event.body, media_type(event), headers)


def media_type(event: Event) -> str:
    """Return the content type of the body of *event*."""
    known = event.content_type if MEDIA_TYPE.fullmatch(event.content_type) else ""
    if event.binary:
        return known or OCTETS
    return known if known and is_json_type(known) else JSON


_PUBLISHED: dict[str, Any] = {
    "results": {201: "It is stored.", 202: "It is on its way; the topic is not durable."},
    "result": Stored,
}
BODY_OPERATIONS = (
    Operation(
        "POST",
        "/topics/{topic}/events",
        "Publish an event whose body is what was sent, of any content type.",
        publish,
        PublishQuery,
        headers=("Idempotency-Key",),
        body=Any,
        body_media=ANY,
        **_PUBLISHED,
    ),
    Operation(
        "GET",
        "/topics/{topic}/events/{position}",
        "Read the body of one stored event as it is, with its content type.",
        read,
        results={200: "The body.", 204: "The event has none."},
        media=ANY,
        errors=(410,),
    ),
)
