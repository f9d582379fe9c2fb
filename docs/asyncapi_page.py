"""Prints ``docs/asyncapi.json``, which describes the native dialect as AsyncAPI 3: made of its frames and methods."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import broker
from protocols.owlmeans.frames import ENVELOPE, RECEIVED, SENT, SentFrame
from protocols.owlmeans.reserved import METHODS, describe, schema_of

CHANNEL = {"$ref": "#/channels/socket"}
ID = {"type": "string", "minLength": 1, "description": "Of the client's choice; the answer has it, too."}
ATTRIBUTE = re.compile(r"^ +(\w+): (.+)$", re.MULTILINE)  # of a docstring
SENT_SUFFIX = ".sent"  # frames of one type that both sides send are two messages


def document() -> dict[str, Any]:
    """Return the description."""
    messages = {**_received(), **_sent(), **_methods()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "txbroker, the native dialect",
            "version": broker.__version__,
            "description": "One JSON object a text frame, over a WebSocket.  See docs/dialects/owlmeans.rst.",
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "localhost:8000",
                "protocol": "ws",
                "security": [{"$ref": "#/components/securitySchemes/bearer"}],
            }
        },
        "channels": {
            "socket": {
                "address": "/owlmeans",
                "description": "Also at / and /v1/ws, and at any path with the subprotocol owlmeans.",
                "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in messages},
                "bindings": {"ws": {"query": _query(), "bindingVersion": "0.1.0"}},
            }
        },
        "operations": _operations(),
        "components": {
            "messages": messages,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _query() -> dict[str, Any]:
    texts = {"client": "the client id that it asks for", "token": "its credential, where it can send no header"}
    return {
        "type": "object",
        "properties": {name: {"type": "string", "description": text} for name, text in texts.items()},
    }


def _received() -> dict[str, Any]:
    return {name: _message(name, _summary(kind.__doc__), _open(schema_of(kind))) for name, kind in RECEIVED.items()}


def _sent() -> dict[str, Any]:
    return {name + SENT_SUFFIX: _message(name, frame.meaning, _frame(name, frame)) for name, frame in SENT.items()}


def _methods() -> dict[str, Any]:
    found = {}
    for name in sorted(METHODS.names):
        said = describe(name, METHODS.classes[name])
        arguments = [{"title": each["name"], **_plain(each["schema"])} for each in said["arguments"]]
        schema = _frame("call", SENT["call"])
        schema["properties"]["method"] = {"const": name}
        del schema["properties"]["recipient"]
        schema["properties"]["payload"] = {
            "type": "array",
            "prefixItems": arguments,
            "minItems": sum(each["required"] for each in said["arguments"]),
            "maxItems": len(arguments),
        }
        if schema["properties"]["payload"]["minItems"]:
            schema["required"].append("payload")
        result = _summary(METHODS.classes[name].run.__doc__)
        found[name] = {**_message(name, said["description"], schema), "description": f"Result: {result}"}
    return found


def _message(name: str, summary: str, schema: dict[str, Any]) -> dict[str, Any]:
    schema.pop("title", None)
    schema.pop("description", None)
    return {"name": name, "summary": summary, "payload": schema}


def _frame(name: str, frame: SentFrame) -> dict[str, Any]:
    """Return the schema of a frame that clients send; what is not known in it is ignored."""
    properties: dict[str, Any] = {"type": {"const": name}}
    for field in (*frame.needed, *frame.more):
        properties[field] = ID if field == "id" else _plain(schema_of(ENVELOPE[field].type))
    return {"type": "object", "properties": properties, "required": ["type", *frame.needed]}


def _operations() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, frame in SENT.items():
        found[f"receive.{name}"] = _operation("receive", name + SENT_SUFFIX, frame.answers)
    for name in RECEIVED:
        found[f"send.{name}"] = _operation("send", name)
    for name in sorted(METHODS.names):
        found[name] = _operation("receive", name, ("result", "error"))
    return found


def _operation(action: str, message: str, answers: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what the broker does with *message*: AsyncAPI sees it as the application."""
    said = {"action": action, "channel": CHANNEL, "messages": [_reference(message)]}
    if answers:
        said["reply"] = {"channel": CHANNEL, "messages": [_reference(answer) for answer in answers]}
    return said


def _reference(message: str) -> dict[str, str]:
    return {"$ref": f"#/channels/socket/messages/{message}"}


def _summary(docstring: str | None) -> str:
    """Return the first paragraph of a docstring as plain text."""
    first = (docstring or "").partition("\n\n")[0]
    return re.sub(r"\s+", " ", first).replace("``", "")


def _plain(value: Any) -> Any:
    """Return a schema with the meaning of each member of an object beside it, as its docstring has it."""
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    said = {name: _plain(item) for name, item in value.items() if name != "title"}
    if isinstance(said.get("description"), str) and "properties" in said:
        for name, meaning in ATTRIBUTE.findall(said["description"]):
            if name in said["properties"]:
                said["properties"][name].setdefault("description", meaning.replace("``", ""))
        said["description"] = _summary(said["description"])
    return said


def _open(value: Any) -> Any:
    """Return a schema that lets an object have further members: a later version may add some."""
    if isinstance(value, list):
        return [_open(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {name: _open(item) for name, item in value.items() if name != "additionalProperties"}


def text() -> str:
    """Return the file."""
    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
