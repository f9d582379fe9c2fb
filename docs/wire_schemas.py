"""JSON Schemas of the frames of the dialects, as the reference shows them."""

from __future__ import annotations

from typing import Any

import asyncapi_page
import msgspec
from msgspec import Raw, UnsetType

from broker.patterns import MAX_KEY_BYTES
from protocols.hpkv.frames import MAX_RECORDS, Operation
from protocols.microstream.wire import Answer, Envelope, Payload
from protocols.thinws.frames import MAX_ID_LENGTH

Schema = dict[str, Any]
ANY: Schema = {}
TEXT: Schema = {"type": "string"}
ROOM: Schema = {"type": ["string", "number", "boolean"], "description": "1 to 255 characters; numbers count as texts"}
ID: Schema = {"description": "any JSON; the reply has it"}


def frame(needed: dict[str, Any], more: dict[str, Any] | None = None) -> Schema:
    """Return the schema of an object; a text that is no schema is the only value of its member."""
    members = {name: {"const": value} if not isinstance(value, dict) else value for name, value in needed.items()}
    return {"type": "object", "properties": {**members, **(more or {})}, "required": list(needed)}


def of_type(kind: type[msgspec.Struct]) -> Schema:
    """Return the schema of a type that reads frames; what it keeps as raw text may be any JSON."""
    kinds: dict[Any, Schema] = {
        str: TEXT,
        int: {"type": "integer"},
        str | UnsetType: TEXT,
        int | UnsetType: {"type": "integer"},
        Raw: ANY,
    }
    members = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    return {
        "type": "object",
        "properties": {name: dict(kinds[field.type]) for name, field in members.items()},
        "required": [name for name, field in members.items() if field.required],
    }


def of_thinws() -> dict[str, Schema]:
    """Return the frames of thinws: what clients send, and then what they get."""
    who = {"connectionID": {"type": ["string", "number"], "maxLength": MAX_ID_LENGTH}}
    more = {"messageID": ID, **who}
    return {
        "connect": frame({"type": "connect", **who}, {"messageID": ID, "token": TEXT}),
        "disconnect": frame({"type": "disconnect"}, more),
        "subscribe": frame({"type": "subscribe", "roomID": ROOM}, more),
        "unsubscribe": frame({"type": "unsubscribe", "roomID": ROOM}, more),
        "message": frame({"type": "message", "roomID": ROOM}, {**more, "message": ANY, "payload": ANY}),
        "received: ack": frame({"type": "ack"}, {"messageID": ID}),
        "received: error": frame({"type": "error", "message": TEXT}, {"messageID": ID}),
        "received: message": frame({"type": "message", "roomID": TEXT}, {"message": ANY}),
    }


def of_hpkv() -> dict[str, Schema]:
    """Return the frames of hpkv; what clients send is the type that reads it."""
    said = of_type(Operation)
    said["description"] = "op: 1 GET, 2 SET, 3 PATCH, 4 DELETE, 5 RANGE, 6 ATOMIC"
    said["properties"]["op"] |= {"enum": [1, 2, 3, 4, 5, 6]}
    said["properties"]["key"] |= {"description": f"1 to {MAX_KEY_BYTES} bytes of UTF-8"}
    said["properties"]["limit"] |= {"minimum": 1, "description": f"at most {MAX_RECORDS} are answered"}
    done, id = {"code": 200}, {"messageId": ANY}
    number = {"type": "number"}
    record = frame({"key": TEXT, "value": TEXT})
    records = {"type": "array", "items": record}
    return {
        "operation": said,
        "received: value, to GET": frame({**done, "key": TEXT, "value": TEXT}, id),
        "received: done, to SET, PATCH and DELETE": frame({**done, "success": True, "message": TEXT}, id),
        "received: records, to RANGE": frame(
            {**done, "records": records, "count": {"type": "integer"}, "truncated": {"type": "boolean"}}, id
        ),
        "received: number, to ATOMIC": frame({**done, "success": True, "key": TEXT, "newValue": number}, id),
        "received: error": frame({"code": {"type": "integer"}, "error": TEXT}, id),
        "received: notification": frame(
            {"type": "notification", "key": TEXT, "value": {"type": ["string", "null"]}, "timestamp": number}
        ),
    }


def of_microstream() -> dict[str, Schema]:
    """Return what the events of microstream carry; around them is Socket.IO 5 on Engine.IO 4."""
    envelope = of_type(Envelope)
    envelope["properties"]["payload"] = of_type(Payload)
    error = frame({"code": TEXT, "message": TEXT}, {"errorData": ANY})
    return {
        "request": envelope,
        "response": of_type(Answer),
        "heartbeat": {"description": "anything; every packet counts"},
        "received: request": frame({"id": TEXT, "event": TEXT}, {"data": ANY}),
        "received: response": frame({"id": TEXT, "response": {"anyOf": [ANY, frame({"error": error})]}}),
    }


def of_owlmeans() -> dict[str, Schema]:
    """Return the frames of the native dialect and the methods of the broker, as docs/asyncapi.json has them."""
    messages = asyncapi_page.document()["components"]["messages"]
    sent = asyncapi_page.SENT_SUFFIX
    order = sorted(messages, key=lambda name: (not name.endswith(sent), name.startswith("broker."), name))
    titles = {name: name.removesuffix(sent) if name.endswith(sent) else f"received: {name}" for name in order}
    titles |= {name: name for name in order if name in asyncapi_page.METHODS.names}
    return {titles[name]: messages[name]["payload"] | {"description": messages[name]["summary"]} for name in order}


DIALECTS = {"owlmeans": of_owlmeans, "thinws": of_thinws, "hpkv": of_hpkv, "microstream": of_microstream}
