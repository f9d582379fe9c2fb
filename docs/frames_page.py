"""Writes the reference of frames, with their JSON Schemas, from the types that read and write them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from textwrap import indent

from wire_schemas import DIALECTS, Schema


def page(dialect: str) -> str:
    """Return the frames of *dialect* as reStructuredText, each with its schema, which can be opened."""
    return "\n".join(line for name, schema in DIALECTS[dialect]().items() for line in _entry(name, schema))


def _entry(name: str, schema: Schema) -> Iterator[str]:
    described = dict(schema)
    about = str(described.pop("description", ""))
    members = ", ".join(
        f"``{each}``" if each in described.get("required", ()) else f"``{each}``?"
        for each in described.get("properties", ())
    )
    yield from (f"``{name}``", f"   {about}" if about else "", f"   {members}" if members else "", "")
    yield from ("   .. admonition:: JSON Schema", "      :collapsible: closed", "")
    yield from ("      .. code-block:: json", "")
    yield indent(json.dumps(described, indent=1), " " * 9)
    yield ""
