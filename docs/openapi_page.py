"""Writes the reference of the HTTP API from its description as OpenAPI, which the code that answers makes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import broker
from broker.config.settings import Settings
from protocols.http.dialect import dialect
from protocols.http.openapi import describe


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield path, method and description of each operation."""
    paths = describe(dialect(Settings()).operations, broker.__version__)["paths"]
    yield from ((path, method.upper(), about) for path, methods in paths.items() for method, about in methods.items())


def page() -> str:
    """Return all operations as reStructuredText."""
    lines: list[str] = []
    for tag, group in groupby(operations(), key=lambda each: each[2]["tags"][0]):
        lines += [tag, "-" * len(tag), ""]
        for path, method, about in group:
            lines += _entry(path, method, about)
    return "\n".join(lines)


def _entry(path: str, method: str, about: dict[str, Any]) -> Iterator[str]:
    yield from (f"``{method} /v1{path}``", f"   {about['summary']}", "")
    for place, word in (("query", "Parameters"), ("header", "Header fields")):
        names = [f"``{each['name']}``{_type(each['schema'])}" for each in about["parameters"] if each["in"] == place]
        if names:
            yield from (f"   {word}: {', '.join(names)}.", "")
    if "requestBody" in about:
        needed = "needed" if about["requestBody"]["required"] else "may be left out"
        media = ", ".join(f"``{each}``" for each in about["requestBody"]["content"])
        yield from (f"   Body: {media}; {needed}.", "")
    for status, answer in about["responses"].items():
        if int(status) < 400:
            yield f"   * {status}: {answer['description']}"
    refusals = ", ".join(status for status in about["responses"] if int(status) >= 400)
    yield from (f"   * {refusals}: a problem", "")


def _type(schema: dict[str, Any]) -> str:
    return f" ({schema['type']})" if isinstance(schema.get("type"), str) and schema["type"] != "string" else ""
