"""JSON Schemas of what the broker's own APIs take and answer with, made from their types."""

from __future__ import annotations

from typing import Any

import msgspec


def schema_of(kind: Any) -> Any:
    """Return the JSON Schema of the type *kind*, without references."""
    schema = msgspec.json.schema(kind)
    parts = schema.pop("$defs", {})

    def resolved(value: Any) -> Any:
        if isinstance(value, list):
            return [resolved(item) for item in value]
        if not isinstance(value, dict):
            return value
        if "$ref" in value:
            return resolved(parts[value["$ref"].rpartition("/")[2]])
        return {key: resolved(item) for key, item in value.items()}

    return resolved(schema)


def default_of(value: object) -> dict[str, Any]:
    """Return the member of a JSON Schema for the default *value* of an argument; none where that means nothing."""
    return {"default": value} if isinstance(value, str | int | float) else {}
