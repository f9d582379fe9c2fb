"""The description of the API, made of its operations: OpenAPI 3.1."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from broker.messages import Response
from broker.patterns import MAX_KEY_BYTES
from broker.schemas import default_of, schema_of
from protocols.http.answers import CODES, PROBLEM, answer
from protocols.http.operations import Call, Operation
from protocols.http.requests import STREAMED

# Of every operation: what the request says is wrong, who asks may not, too much, or the broker can not.
ERRORS = (400, 401, 403, 404, 413, 415, 429, 500, 503)
NAME = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[^\u0000-\u001f\u007f]+$"}
KEY = {"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES}  # of any characters
TAG_PATTERN = r'^(\*|[ \t,]*((W/)?"[!#-~]*"|[0-9]{1,16})([ \t,]+(W/)?"[!#-~]*")*)$'
FIELDS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": NAME,
    "If-Match": {"type": "string", "pattern": TAG_PATTERN},
    "If-None-Match": {"type": "string", "pattern": TAG_PATTERN},
    "Last-Event-ID": {"type": "string"},
}
HEADERS = {
    "Idempotency-Key": "Makes what is sent again the same one.",
    "If-Match": "Only if the present entity tag is one of these; *: only if there is one.",
    "If-None-Match": "Only if the present entity tag is none of these; *: only if there is none.",
    "Last-Event-ID": "The id of the last event that was received.",
}
PROBLEM_SCHEMA = {
    "type": "object",
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "description": f"A stable name, such as {CODES[400]}."},
        "detail": {"type": "string"},
        "retry_after": {"type": "integer"},
    },
    "required": ["title", "status", "code", "detail"],
}


def openapi_operation(operations: Sequence[Operation]) -> Operation:
    """Return the operation that describes itself and *operations*."""
    described: list[dict[str, Any]] = []

    async def run(call: Call) -> Response:
        if not described:
            described.append(describe([*operations, itself], call.peer.about()["version"]))
        return answer(described[0], headers=(("Cache-Control", "max-age=300"),))

    itself = Operation("GET", "/openapi.json", "Describe this API.", run, results={200: "OpenAPI 3.1."}, open=True)
    return itself


def describe(operations: Sequence[Operation], version: str) -> dict[str, Any]:
    """Return the OpenAPI document of *operations*."""
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "txbroker", "version": version, "description": "Topics, keys, calls and work queues."},
        "servers": [{"url": "/v1"}],
        "security": [{"bearer": []}, {}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "token": {"type": "apiKey", "in": "query", "name": "token"},
            },
            "schemas": {"Problem": PROBLEM_SCHEMA},
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": KEY if name == "key" else NAME}
        for name in operation.names
    ]
    fields = {field.encode_name: field for field in msgspec.structs.fields(operation.query)}
    fields |= {field.encode_name: field for field in msgspec.structs.fields(operation.stream_query)}
    parameters += [
        {"name": name, "in": "query", "required": False, "schema": _schema(field.type) | default_of(field.default)}
        for name, field in fields.items()
    ]
    headers = (*operation.headers, *(("Last-Event-ID",) if operation.stream else ()))
    parameters += [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": HEADERS[name],
            "schema": FIELDS[name],
        }
        for name in headers
    ]
    described: dict[str, Any] = {
        "operationId": _id(operation),
        "summary": operation.summary,
        "tags": [operation.path.split("/")[1].partition(".")[0]],
        "parameters": parameters,
        "responses": _responses(operation),
    }
    if operation.body is not None:
        content = {media: {"schema": _schema(operation.body)} for media in operation.body_media}
        described["requestBody"] = {"required": operation.body_needed, "content": content}
    if operation.open:
        described["security"] = [{}]
    elif operation.stream is not None:
        described["security"] = [{"bearer": []}, {"token": []}, {}]
    return described


def _id(operation: Operation) -> str:
    words = re.findall(r"[a-z]+", operation.path)
    return "_".join([operation.method.lower(), *words])


def _responses(operation: Operation) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, meaning in operation.results.items():
        responses[str(status)] = {"description": meaning}
        if status not in (204, 304):
            content: dict[str, Any] = {}
            if not operation.only_stream:
                content |= {media: {"schema": _schema(operation.result)} for media in operation.media}
            if operation.stream is not None:
                content[STREAMED] = {}  # OpenAPI 3.1 has no word for it; a schema would be taken as that of each event
            responses[str(status)]["content"] = content
    for status in sorted({*ERRORS, *operation.errors}):
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
    return responses


def _schema(kind: Any) -> Any:
    """Return the JSON Schema of the type *kind*; what may be missing is not null."""
    found = schema_of(kind)
    choices = [choice for choice in found.get("anyOf", ()) if choice != {"type": "null"}]
    if len(choices) == 1 and "anyOf" in found:
        return choices[0]
    return found
